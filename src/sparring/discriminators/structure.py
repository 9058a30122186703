"""The structure discriminator of SADM: an encoder that tells two batches apart by the relations of their images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparring.backbones import Backbone, images_to_learn
from sparring.data import Draws, ImageData
from sparring.discriminators.discriminator import Discriminator, Features, Given, identity
from sparring.networks.precision import at_least_float32
from sparring.objectives import Scores, structure_distance

START_EVERY = 10  # steps between looks through the encoder as it was at its start


class StructureDiscriminator(Discriminator):
    """An encoder; the logit of a batch of fakes is minus its structure distance S from the real batch it was made from.

    With the Wasserstein objective the generator minimises S and the encoder maximises it, as SADM does. A free encoder
    wins outright, so it is held near its start: after each update it is pulled back by `pull`, and the `ceiling` of the
    objective ends its climb. Source: Yang et al. 2024, "Structure-Guided Adversarial Training of Diffusion Models"
    (comparison of affinity matrices, encoder trained to maximise); distance, pull and anchor: default (ours).

    One logit belongs to one affinity matrix. It spans what `logits` gets: one micro-batch, times the processes when
    `gather` is set. Cutting a batch into micro-batches then averages S over smaller matrices, which is not the S of the
    joined batch; with `structure_batch` the size of the matrices is fixed, and every cut gives the same mean S.

    Args:
        encoder: Images [B,C,H,W] to features [B,d], as a `Backbone` does. BatchNorm stays in eval mode.
        pull: Share of the way back to the start phi_0 that the encoder goes after each update.
        anchor: Factor eta of the penalty `eta * |phi - phi_0|^2` in `losses`.
        structure_batch: Images per affinity matrix; None: all that `logits` gets.

    Raises:
        ValueError: `pull` outside [0, 1), negative `anchor`, `structure_batch` below 2; in `logits`, no reference,
            fewer than two images, or a number that is no multiple of `structure_batch`.
    """

    needs_reference = "aligned"

    def __init__(
        self, *, encoder: nn.Module, pull: float = 0.02, anchor: float = 0.0, structure_batch: int | None = None
    ) -> None:
        super().__init__()
        if structure_batch is not None and structure_batch < 2:
            raise ValueError(f"`structure_batch={structure_batch}`: structure lies in pairs; at least 2")
        if not 0 <= pull < 1 or anchor < 0:
            raise ValueError(f"`pull={pull}`, `anchor={anchor}`: pull is in [0, 1), anchor >= 0")
        self.encoder = encoder
        self.pull, self.anchor = pull, anchor
        self.structure_batch = structure_batch
        self._start_names: dict[str, str] = {}
        if pull > 0 or anchor > 0:
            for name, parameter in encoder.named_parameters():
                if parameter.requires_grad:
                    self._start_names[name] = "start_" + name.replace(".", "_")
                    self.register_buffer(self._start_names[name], parameter.detach().clone())
        self.train()

    def train(self, mode: bool = True) -> "StructureDiscriminator":
        """Sets the mode, except for BatchNorm: batch statistics would tell real from fake and couple the images."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        """The images themselves: the encoder is trained, so it belongs to `logits`."""
        return [x]

    def logits(self, features: Features, given: Given) -> Tensor:
        """-S for each affinity matrix, float32 and at most 0; 0 if the images are their own reference."""
        return self.scores([features], given)[0].logits

    def scores(self, candidates: Sequence[Features], given: Given) -> list[Scores]:
        """Scores of each batch of candidates; their reference is encoded once for all."""
        if given.reference is None:
            raise ValueError(
                "`StructureDiscriminator` compares a batch with the real images it was made from: give them"
            )
        (real,) = given.reference
        size = self.structure_batch
        alone = size is not None and len(real) % size == 0  # whole matrices need no other process
        joined = identity if alone else self.gather
        z_real = joined(self.encode(real))
        z_fakes = [z_real if x is real else joined(self.encode(x)) for (x,) in candidates]
        weight = joined(real.new_ones(len(real)) if given.weight is None else given.weight)
        size = size or len(z_real)
        if len(z_real) % size:
            raise ValueError(
                f"`structure_batch={size}` does not divide the {len(z_real)} images that are seen at once: give a "
                "divisor of the batch size over `accumulation`"
            )
        found = []
        for z_fake, features in zip(z_fakes, candidates, strict=True):
            parts = zip(z_real.split(size), z_fake.split(size), weight.split(size), strict=True)
            found.append(Scores(-torch.stack([structure_distance(*part) for part in parts]), features))
        return found

    def encode(self, images: Tensor) -> Tensor:
        """Features [B,d], in float32: S is a mean of small differences, which half precision would drown."""
        with torch.autocast(images.device.type, enabled=False):
            return self.encoder(at_least_float32(images))

    def losses(self) -> dict[str, Tensor]:
        """The penalty "anchor", if it has weight."""
        return {"anchor": self.anchor * self.anchor_penalty()} if self.anchor > 0 else {}

    def statistics(self, real: Scores, fake: Scores, given: Given, step: int) -> dict[str, Tensor]:
        """`structure`: S of the fakes; and, every tenth step, `structure_start`: what the encoder saw at its start."""
        found = {"structure": real.logits.mean() - fake.logits.mean()}
        if step % START_EVERY == 0 and self._start_names:
            with torch.no_grad(), self.at_start():
                found["structure_start"] = -self.logits(fake.features, given).mean()
        return found

    @property
    def needs_images(self) -> bool:
        return isinstance(self.encoder, Backbone) and self.encoder.needs_images

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the encoder if it needs that, and makes the result its start phi_0."""
        if not isinstance(self.encoder, Backbone) or not self.needs_images:
            return
        if self.encoder.prepare(*images_to_learn(data), seed):
            for parameter, start in self._pairs():
                start.copy_(parameter.detach())

    def check(self, batch_size: int) -> None:
        if batch_size < 2:
            raise ValueError(
                f"`batch_size={batch_size}`: StructureDiscriminator compares the pairs of a batch and needs 2 or more"
            )
        size = self.structure_batch
        if size is not None and batch_size % size and size % batch_size:
            raise ValueError(f"`structure_batch={size}` must divide the {batch_size} images that are seen at once")

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """The encoder as it was at its start, for a look without gradient: what has its training found since?"""
        pairs = self._pairs()
        now = [parameter.data for parameter, _ in pairs]
        for parameter, start in pairs:
            parameter.data = start
        try:
            yield
        finally:
            for (parameter, _), data in zip(pairs, now, strict=True):
                parameter.data = data

    def anchor_penalty(self) -> Tensor:
        """Squared distance of the encoder's trainable weights from their start, without the factor `anchor`."""
        pairs = self._pairs()
        if not pairs:
            raise ValueError(
                "no start to compare with: `anchor=0` and `pull=0`, or the encoder has no trainable weights"
            )
        return torch.stack([(parameter.float() - start.float()).square().sum() for parameter, start in pairs]).sum()

    @torch.no_grad()
    def after_update(self) -> None:
        """Pulls the encoder towards its start: phi <- phi + pull * (phi_0 - phi)."""
        if self.pull > 0:
            for parameter, start in self._pairs():
                parameter.lerp_(start, self.pull)

    def _pairs(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Trainable weights of the encoder, each with its start."""
        return [(self.encoder.get_parameter(n), self.get_buffer(start)) for n, start in self._start_names.items()]
