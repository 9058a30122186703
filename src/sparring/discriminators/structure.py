"""The structure judge of SADM: an encoder in whose eyes the pair-wise relations of two batches differ most."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sparring.backbones import Backbone
from sparring.objectives import structure_distance


def _identity(tensor: Tensor) -> Tensor:
    return tensor


class StructureDiscriminator(nn.Module):
    """An encoder and the structure distance S it sees between a real and a fake batch; it has no logits.

    The generator minimises S, the encoder maximises it (`losses`). A free encoder wins outright, so it is held near its
    start: after each update it is pulled back by `pull`, and it stops climbing where S exceeds `ceiling`.
    Source: Yang et al. 2024, "Structure-Guided Adversarial Training of Diffusion Models" (comparison of affinity
    matrices, encoder trained to maximise); distances, pull, anchor and ceiling: default (ours).

    One affinity matrix spans what `forward` gets: one micro-batch, times the processes when `gather` is set. Cutting a
    batch into micro-batches then averages S over smaller matrices, which is not the S of the joined batch; with
    `structure_batch` the size of the matrices is fixed, and every cut gives the same S.

    Args:
        encoder: Images [B,C,H,W] to features [B,d], as a `Backbone` does. BatchNorm stays in eval mode.
        pull: Share of the way back to the start phi_0 that the encoder goes after each update.
        anchor: Factor eta of the penalty `eta * |phi - phi_0|^2` in `losses`.
        ceiling: S above which the encoder is not pushed further; None: no ceiling.
        structure_batch: Images per affinity matrix, S being the mean over matrices; None: all that `forward` gets.

    Attributes:
        gather: Function that joins a [B, ...] tensor with those of other processes into [B_total, ...]; the identity by
            default. The trainer sets it to a differentiable all-gather whose backward sums the gradients over the
            processes; then S is the same everywhere, and averaging the parameters' gradients over processes is exact.

    Raises:
        ValueError: `pull` outside [0, 1), negative `anchor`, `structure_batch` below 2; in forward, fewer than two
            images, or a number that is no multiple of `structure_batch`.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        pull: float = 0.02,
        anchor: float = 0.0,
        ceiling: float | None = 0.5,
        structure_batch: int | None = None,
    ) -> None:
        super().__init__()
        if structure_batch is not None and structure_batch < 2:
            raise ValueError(f"`structure_batch={structure_batch}`: structure lies in pairs; at least 2")
        if not 0 <= pull < 1 or anchor < 0:
            raise ValueError(f"`pull={pull}`, `anchor={anchor}`: pull is in [0, 1), anchor >= 0")
        if ceiling is not None and ceiling <= 0:
            raise ValueError(f"`ceiling={ceiling}` must be above 0, or the encoder would learn nothing")
        self.encoder = encoder
        self.pull, self.anchor, self.ceiling = pull, anchor, ceiling
        self.structure_batch = structure_batch
        self.gather: Callable[[Tensor], Tensor] = _identity
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

    @property
    def needs_images(self) -> bool:
        """Whether `prepare` looks at the images."""
        return isinstance(self.encoder, Backbone) and self.encoder.needs_images

    def prepare(self, images: Tensor, labels: Tensor | None) -> bool:
        """Trains the encoder where it needs that, and makes the result its start phi_0; once, before training.

        Returns:
            Whether the weights changed.
        """
        changed = isinstance(self.encoder, Backbone) and self.encoder.prepare(images, labels)
        if changed:
            for parameter, start in self._pairs():
                start.copy_(parameter.detach())
        return changed

    def forward(self, real: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
        """S, a float32 scalar >= 0, of images [B,C,H,W] in [-1,1] and weights [B].

        With `fake.detach()` only the encoder gets gradient; with a frozen encoder only the fakes.
        """
        size = self.structure_batch
        gather = self.gather if size is None or len(real) % size else _identity  # whole matrices need nobody else
        z_real, z_fake, weight = gather(self.encode(real)), gather(self.encode(fake)), gather(weight)
        size = size or len(z_real)
        if len(z_real) % size:
            raise ValueError(
                f"`structure_batch={size}` does not divide the {len(z_real)} images that are seen at once: give a "
                "divisor of the batch size over `accumulation`"
            )
        parts = zip(z_real.split(size), z_fake.split(size), weight.split(size), strict=True)
        return torch.stack([structure_distance(*part) for part in parts]).mean()

    def encode(self, images: Tensor) -> Tensor:
        """Features [B,d], in float32: S is a mean of small differences, which half precision would drown."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(torch.promote_types(images.dtype, torch.float32))
            return self.encoder(images)

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

    @property
    def knows_its_start(self) -> bool:
        """Whether the start phi_0 is kept: `pull` or `anchor` is above 0, and some weight of the encoder is trained."""
        return bool(self._start_names)

    def losses(self, distance: Tensor) -> dict[str, Tensor]:
        """What the encoder minimises, given S with gradient to it: "structure" = -min(S, ceiling), "anchor" if used."""
        losses = {"structure": -(distance if self.ceiling is None else distance.clamp(max=self.ceiling))}
        if self.anchor > 0:
            losses["anchor"] = self.anchor * self.anchor_penalty()
        return losses

    def anchor_penalty(self) -> Tensor:
        """Squared distance of the encoder's trainable weights from their start, without the factor `anchor`."""
        pairs = self._pairs()
        if not pairs:
            raise ValueError(
                "no start to compare with: `anchor=0` and `pull=0`, or the encoder has no trainable weights"
            )
        return torch.stack([(parameter.float() - start.float()).square().sum() for parameter, start in pairs]).sum()

    @torch.no_grad()
    def pull_back(self) -> None:
        """Moves the encoder towards its start: phi <- phi + pull * (phi_0 - phi)."""
        if self.pull > 0:
            for parameter, start in self._pairs():
                parameter.lerp_(start, self.pull)

    def after_update(self) -> None:
        """To be called after each update of this discriminator: the pull back to the start."""
        self.pull_back()

    def _pairs(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Trainable weights of the encoder, each with its start."""
        return [(self.encoder.get_parameter(n), self.get_buffer(start)) for n, start in self._start_names.items()]
