"""What the tests of the methods share: small networks in float64, discriminators, batches, one step of two players."""

import dataclasses

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Draws
from sparring.discriminators import Given, ProjectedDiscriminator, SiameseDiscriminator, StructureDiscriminator
from sparring.generators import Denoiser
from sparring.methods.method import Method
from sparring.methods.tuning.adt import ADT
from sparring.methods.tuning.ddo import DDO
from sparring.process import VP, Latents, Process


class Net(nn.Module):
    """A smooth network; remembers the labels of its calls when it is class-conditional (see `ClassNet`)."""

    def __init__(self, seed: int = 0, dropout: float = 0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.time = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(1, 4)
        self.last = nn.Conv2d(4, 1, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.double()

    def hidden(self, x, time):
        return torch.tanh(self.first(x) + self.time(time[:, None] / 1000)[:, :, None, None])

    def forward(self, x, time):
        return self.last(self.dropout(self.hidden(x, time)))


class ClassNet(Net):
    num_classes = 10

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        self.embedding = nn.Embedding(10, 4).double()
        self.labels: list[Tensor] = []

    def forward(self, x, time, labels):
        self.labels.append(labels)
        return self.last(self.hidden(x, time) + self.embedding(labels)[:, :, None, None])


class LatentNet(nn.Module):
    """For the latents of `latent_space`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1).double()

    def forward(self, x, time):
        return self.layer(x) + time[:, None, None, None] / 1000


def latent_space() -> Latents:
    """Latents [B, 3, 4, 4] of grey images of 8x8 pixels, in float64."""
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)
    sizes = dict(in_channels=1, out_channels=1, latent_channels=3, block_out_channels=(8, 8), norm_num_groups=4)
    return Latents(AutoencoderKL(**blocks, **sizes, sample_size=8).double())


def denoiser(net: nn.Module | None = None, process: Process | None = None, kind: str = "v") -> Denoiser:
    return Denoiser(net or Net(), process or VP(), kind)


def backbone(seed: int = 0) -> SmallConvNet:
    return SmallConvNet(in_channels=1, widths=(4, 8), pretrain="none", seed=seed).double()


def structure(**settings) -> StructureDiscriminator:
    return StructureDiscriminator(encoder=backbone(), **settings)


def siamese(**settings) -> SiameseDiscriminator:
    torch.manual_seed(0)
    return SiameseDiscriminator(backbone=backbone(), width=8, **settings).double()


def projected(**settings) -> ProjectedDiscriminator:
    torch.manual_seed(0)
    return ProjectedDiscriminator(backbone=backbone(), width=8, **settings).double()


def logits(discriminator, x: Tensor, reference: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
    """Logits of images, compared with reference images if there are any; without augmentation."""
    given, draws = Given(labels=labels), Draws(0)
    if reference is not None:
        given = dataclasses.replace(given, reference=discriminator.features(reference, given, draws))
    return discriminator(x, given, draws)


def adt(generator: Denoiser, **settings) -> ADT:
    return ADT(generator, siamese(), **dict(num_steps=4, warmup_steps=0, ramp_steps=0) | settings)


def ddo(generator: Denoiser, num_fakes: int = 12, **settings) -> DDO:
    """DDO with its generated images already there (random ones)."""
    method = DDO(generator, num_fakes=num_fakes, **settings)
    random = torch.Generator().manual_seed(1)
    method.fakes.data = torch.rand(num_fakes, 1, 4, 4, generator=random, dtype=torch.float64) * 2 - 1
    method.fake_labels.data = torch.randint(10, (num_fakes,), generator=random)
    return method


def images_of(n: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def batch_of(n: int = 6, phase: str = "rollout", labels: bool = False, draws: Draws | None = None) -> Batch:
    """The same images every time, with fresh draws of one phase of step 0."""
    classes = torch.arange(n) % 10 if labels else None
    return Batch(images_of(n), classes, draws or Draws(0, phase=phase))


def evaluated(losses) -> dict[str, Tensor]:
    """Losses with the deferred ones called."""
    return {name: value() if callable(value) else value for name, value in losses.items()}


def total(losses) -> Tensor:
    return torch.stack(list(evaluated(losses).values())).sum()


def step_losses(method: Method, rollout: Batch, discriminator: Batch, generator: Batch) -> dict[str, Tensor]:
    """All losses of one step, the opponent frozen in turn as the trainer does; nothing is updated."""
    rollout = method.rollout(rollout)
    losses = {}
    if method.discriminator is not None:
        losses |= {f"d/{k}": v for k, v in evaluated(method.discriminator_loss(discriminator, rollout)).items()}
    with opponent_frozen(method):
        losses |= {f"g/{k}": v for k, v in evaluated(method.generator_loss(generator, rollout)).items()}
    return losses


class opponent_frozen:  # noqa: N801
    """While the generator is updated, the discriminator's trained parameters take no gradient."""

    def __init__(self, method: Method):
        players = [method.discriminator] if method.discriminator is not None else []
        self.parameters = [p for player in players for p in player.parameters() if p.requires_grad]

    def __enter__(self):
        for parameter in self.parameters:
            parameter.requires_grad_(False)

    def __exit__(self, *_):
        for parameter in self.parameters:
            parameter.requires_grad_(True)


def touched(module: nn.Module | None) -> set[str]:
    """Names of the parameters that hold a gradient other than None."""
    return {name for name, p in module.named_parameters() if p.grad is not None} if module is not None else set()


def trained(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def play(method: Method, batches, *, lr: float, discriminator_lr: float = 1e-3, mean_from: int | None = None) -> None:
    """The trainer's loop without its luxury: one rollout, both updates, for every (images, labels) of `batches`.

    From step `mean_from` on, the generator's weights are averaged, and are that average at the end.
    """
    players = [(method.generator, lr, (0.9, 0.999))]
    if method.discriminator is not None:
        players.append((method.discriminator, discriminator_lr, (0.5, 0.999)))
    parameters = [[p for p in player.parameters() if p.requires_grad] for player, _, _ in players]
    optimizers = [torch.optim.Adam(ps, lr, betas) for ps, (_, lr, betas) in zip(parameters, players, strict=True)]
    means = [torch.zeros_like(p) for p in parameters[0]]
    for step, (images, labels) in enumerate(batches):
        method.train()
        method.step = step
        rollout = method.rollout(Batch(images, labels, Draws(0, step=step, phase="rollout")))
        if method.discriminator is not None:
            batch = Batch(images, labels, Draws(0, step=step, phase="discriminator"))
            total(method.discriminator_loss(batch, rollout)).backward(inputs=parameters[1])
            optimizers[1].step()
            optimizers[1].zero_grad()
            method.discriminator.after_update()
        with opponent_frozen(method):
            batch = Batch(images, labels, Draws(0, step=step, phase="generator"))
            total(method.generator_loss(batch, rollout)).backward(inputs=parameters[0])
        optimizers[0].step()
        optimizers[0].zero_grad()
        if mean_from is not None and step >= mean_from:
            for mean, p in zip(means, parameters[0], strict=True):
                mean += (p.detach() - mean) / (step - mean_from + 1)
    if mean_from is not None:
        for mean, p in zip(means, parameters[0], strict=True):
            p.data.copy_(mean)
