"""An adversarial step: one rollout for both players, against the published pattern that runs the generator twice.

    python benchmarks/adversarial_step.py
    python benchmarks/adversarial_step.py --smoke

Every row makes the same two updates from the same batch, with the same optimisers, clipping and average:

- sparring: the trainer's step; the graph of one rollout serves both players.
- one rollout, bare loop: the same in a plain loop, without what the trainer checks and counts.
- two rollouts, the first without a graph: the careful form of the pattern.
- two rollouts, the first with a graph: as published. In the code of denoising diffusion GANs the discriminator's loss
  is taken on a fake that is not detached, so its backward pass runs through the generator too, for nothing.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from timing import arguments, in_turns, looped, machine, milliseconds, note, publish, ratio, saved, table
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from trainers import GREY32, random_images, stepper, trainer_of

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import StructureDiscriminator
from sparring.generators import Denoiser
from sparring.methods.method import Losses, Method
from sparring.methods.tuning.sadm import SADM
from sparring.objectives import NonSaturating, Scores
from sparring.process import LogNormal
from sparring.rollout import PosteriorStep, posterior_step
from sparring.training import Trainer

Pattern = Literal["one rollout", "first without a graph", "first with a graph"]
PATTERNS: dict[Pattern, str] = {
    "one rollout": "one rollout, bare loop",
    "first without a graph": "two rollouts, the first without a graph",
    "first with a graph": "two rollouts, the first with a graph (as published)",
}
CLIP = 1.0
EMA_DECAY = 0.999


class Unattached(SADM):
    """SADM whose discriminator's loss follows the fake into the generator, as in the published pattern."""

    detaches = True

    def discriminator_loss(self, batch: Batch, fake: Any) -> Losses:
        if self.detaches:
            return super().discriminator_loss(batch, fake)
        assert self.discriminator is not None
        real, attached = self.discriminator.scores([fake.views.real, fake.views.fake], fake.views.given)
        return {"structure": self.objective.discriminator(real, attached)}


class PairJudge(nn.Module):
    """Logits [B] of (x_s, x_t, t): a small convolutional network on both images, with the time added to its maps."""

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        widths = (width, 2 * width, 2 * width)
        self.first = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.time = nn.Linear(1, width)
        pairs = zip((width, *widths), widths, strict=False)
        self.blocks = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.last = nn.Linear(widths[-1], 1)

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        h = self.first(torch.cat([x_s, x_t], 1)) + self.time(t[:, None])[:, :, None, None]
        for block in self.blocks:
            h = block(F.leaky_relu(h, 0.2))
        return self.last(F.leaky_relu(h, 0.2).mean((2, 3)))[:, 0].float()


class DenoisingGAN(Method):
    """The step of a denoising diffusion GAN (Xiao et al., arXiv 2112.07804), without its latent variable and R1.

    Fake: x_s drawn from q(x_s | x_t, x0_pred) for neighbouring levels of a chain of four. Judge: sees (x_s, x_t, t).
    """

    detaches = True

    def __init__(self, generator: Denoiser, discriminator: PairJudge):
        super().__init__(generator, discriminator)
        self.levels = torch.linspace(0, 1, 5).clamp(0.001, 1)
        self.objective = NonSaturating()

    def rollout(self, batch: Batch) -> PosteriorStep:
        return posterior_step(self.generator, batch, self.levels)

    def discriminator_loss(self, batch: Batch, fake: PosteriorStep) -> Losses:
        x_s = fake.x_s_fake.detach() if self.detaches else fake.x_s_fake
        logits_real = self.scores(fake.x_s_real, fake.x_t, fake.t)
        return {"adversarial": self.objective.discriminator(logits_real, self.scores(x_s, fake.x_t, fake.t))}

    def generator_loss(self, batch: Batch, fake: PosteriorStep) -> Losses:
        return {"adversarial": self.objective.generator(self.scores(fake.x_s_fake, fake.x_t, fake.t))}

    def scores(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Scores:
        assert self.discriminator is not None
        return Scores(self.discriminator(x_s, x_t, t))


def main(argv: list[str] | None = None) -> None:
    args = arguments(
        __doc__,
        repeats=15,
        argv=argv,
        batch=(128, "images per step, 8x8"),
        batch_32=(64, "images per step, 32x32"),
        inner=(5, "steps per measurement, 8x8"),
        inner_32=(1, "steps per measurement, 32x32"),
    )
    started_on = machine()
    if args.smoke:
        args.repeats, args.batch, args.batch_32, args.inner, args.inner_32 = 1, 4, 2, 1, 1
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for setting, batch, inner in (
            ("digits-vp", args.batch, args.inner),
            (GREY32, args.batch_32, args.inner_32),
        ):
            for method in (sadm, denoising_gan):
                note(f"{method.__name__} on the network of {Path(setting).stem} …")
                parts.append(patterns(Path(folder), setting, method, batch, args.repeats, args.clock, inner))
    publish("adversarial_step", parts, args, started_on)


def sadm(generator: Denoiser) -> Method:
    encoder = SmallConvNet(in_channels=1, num_classes=10, pretrain="none")
    times = LogNormal(mean=-0.4, std=1.2)
    return Unattached(generator, StructureDiscriminator(encoder=encoder), structure_weight=0.5, times=times)


def denoising_gan(generator: Denoiser) -> Method:
    return DenoisingGAN(generator, PairJudge(1))


def patterns(
    folder: Path, setting: str, make: Callable[[Denoiser], Method], batch: int, repeats: int, clock: str, inner: int
) -> str:
    """The table of one method on the network of one setting, in float32."""
    size = 8 if setting == "digits-vp" else 32
    data = random_images(4 * batch, size)
    generator = trainer_of("diffusion", folder, data, ("--trainer.precision=fp32",), setting).method.generator
    torch.manual_seed(0)
    method = make(generator)
    trainer = Trainer(deepcopy(method), data, out=folder, steps=10**6, batch_size=batch, tracker=None)
    calls = {"sparring": looped(stepper(trainer))}
    for pattern, name in PATTERNS.items():
        calls[name] = looped(bare_step(deepcopy(method).to(trainer.device), data, batch, pattern))
    times = in_turns(calls, repeats, clock, inner)
    rows: list[list[object]] = [
        [name, milliseconds(times, name), ratio(times, name, "sparring"), saved(times, "sparring", name)]
        for name in calls
    ]
    title = f"{make.__name__}, {size}x{size}, batch {batch}, fp32"
    return table([title, "ms per step", "times ours", "time that ours saves"], rows)


def bare_step(method: Method, data: ImageData, batch_size: int, pattern: Pattern) -> Callable[[], None]:
    """A step of the method in a plain loop, in one of the patterns."""
    assert method.discriminator is not None
    method.detaches = pattern != "first with a graph"  # type: ignore[assignment]
    device = next(method.parameters()).device
    images = data[list(range(batch_size))][0].to(device)
    trained: list[Tensor] = list(method.generator.parameters())
    judging: list[Tensor] = list(method.discriminator.parameters())
    of_generator = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    of_judge = torch.optim.AdamW(judging, lr=1e-4, betas=(0.5, 0.999), fused=True)
    average = [parameter.detach().clone() for parameter in trained]
    after_update = getattr(method.discriminator, "after_update", lambda: None)
    method.train()

    def step() -> None:
        method.step += 1
        batch = Batch(images, draws=Draws(0, step=method.step, device=device))
        with torch.set_grad_enabled(pattern != "first without a graph"):
            fake = method.rollout(batch)
        update(of_judge, judging, method.discriminator_loss(batch, fake))
        after_update()
        if pattern != "one rollout":
            of_generator.zero_grad()
            fake = method.rollout(batch)
        with without_gradient(judging):
            update(of_generator, trained, method.generator_loss(batch, fake))
        torch._foreach_lerp_(average, trained, 1 - EMA_DECAY)

    return step


def update(optimizer: torch.optim.Optimizer, parameters: list[Tensor], losses: Losses) -> None:
    """Backward pass of the sum of the losses, clipping and the optimiser's step."""
    loss = sum(value() if callable(value) else value for value in losses.values())
    assert isinstance(loss, Tensor)
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, CLIP)
    optimizer.step()
    optimizer.zero_grad()


@contextmanager
def without_gradient(parameters: list[Tensor]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    yield
    for parameter in parameters:
        parameter.requires_grad_(True)


if __name__ == "__main__":
    main()
