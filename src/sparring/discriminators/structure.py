"""The structure judge of SADM: an encoder in whose eyes the pair-wise relations of two batches differ most."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.discriminators.backbones import Backbone

Affinity = Literal["cosine", "euclidean", "rbf", "softmax"]
Distance = Literal["l1", "l2", "huber", "kl"]

TEMPERATURE = 0.1  # of the softmax affinity
HUBER_DELTA = 0.1


def structure_distance(
    z_real: Tensor, z_fake: Tensor, weight: Tensor, *, affinity: Affinity = "cosine", distance: Distance = "l1"
) -> Tensor:
    """Distance between the pair-wise relations (affinity matrices) of two index-aligned batches of features.

    `sum_{i != j} sqrt(w_i w_j) delta(A_real_ij, A_fake_ij) / (B(B-1))`, not divided by the sum of weights: low weights
    mean a small distance. For "kl": `sum_i w_i KL(A_real_i || A_fake_i) / B` over rows.
    All affinities are free of the scale of the features, so that no encoder wins by growing its weights:

    - cosine: cosine of the two vectors, in [-1,1]; "l1" is then at most 2;
    - euclidean: distance over the mean off-diagonal distance of the same batch, mean 1;
    - rbf: `exp(-|z_i-z_j|^2 / (2 h^2))`, h^2 the (detached) median squared distance of the real batch, in (0,1];
    - softmax: row softmax of cosine / 0.1 without the diagonal, rows sum to 1; the only one that "kl" takes.

    "huber" has delta 0.1. Affinities and distances: default (ours), after Yang et al. 2024, "Structure-Guided
    Adversarial Training of Diffusion Models", which does not fix them in the parts we could read.

    Args:
        z_real: [B,d] features of real images.
        z_fake: [B,d] features of the fakes made from the same images.
        weight: [B] weight of each image, >= 0.
        affinity: How two images of a batch are related.
        distance: How two affinities are compared.

    Returns:
        Scalar >= 0, float32 (float64 for float64 features); 0 for equal batches.

    Raises:
        ValueError: Fewer than two images, shapes that differ, "kl" without "softmax".
    """
    if distance == "kl" and affinity != "softmax":
        raise ValueError(f"`distance='kl'` compares distributions, but `affinity={affinity!r}`: use affinity='softmax'")
    if z_real.shape != z_fake.shape or weight.shape != z_real.shape[:1] or z_real.ndim != 2:
        shapes = f"{tuple(z_real.shape)}, {tuple(z_fake.shape)} and {tuple(weight.shape)}"
        raise ValueError(f"features and weight have shapes {shapes}: use [B,d], [B,d] and [B]")
    if len(z_real) < 2:
        raise ValueError(
            f"structure lies in pairs of images, but the batch has {len(z_real)}: use at least 2 (better 32)"
        )
    with torch.autocast(z_real.device.type, enabled=False):
        z_real, z_fake, weight = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (z_real, z_fake, weight))
        b = len(z_real)
        if distance == "kl":
            log_real, log_fake = _log_softmax_rows(z_real), _log_softmax_rows(z_fake)
            rows = (log_real.exp() * (log_real - log_fake)).masked_fill(_diagonal(log_real), 0).sum(1)
            return (weight * rows).sum() / b
        a_real, a_fake = _affinities(z_real, z_fake, affinity)
        if distance == "l1":
            delta = (a_real - a_fake).abs()
        elif distance == "l2":
            delta = (a_real - a_fake).square()
        else:
            delta = F.huber_loss(a_fake, a_real, reduction="none", delta=HUBER_DELTA)
        root = weight.to(delta.dtype).sqrt()
        return (root[:, None] * root * delta).masked_fill(_diagonal(delta), 0).sum() / (b * (b - 1))


def _diagonal(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)


def _cosine(z: Tensor) -> Tensor:
    z = F.normalize(z, dim=1, eps=1e-8)
    return z @ z.T


def _log_softmax_rows(z: Tensor) -> Tensor:
    """Log of the row softmax of cosine / temperature; the diagonal takes no part and has an arbitrary finite value."""
    logits = (_cosine(z) / TEMPERATURE).masked_fill(_diagonal(z), -1e4)
    return logits.log_softmax(1)


def _affinities(z_real: Tensor, z_fake: Tensor, affinity: Affinity) -> tuple[Tensor, Tensor]:
    """Affinity matrices [B,B] of both batches; their diagonals carry no information."""
    if affinity == "cosine":
        return _cosine(z_real), _cosine(z_fake)
    if affinity == "softmax":
        return _log_softmax_rows(z_real).exp(), _log_softmax_rows(z_fake).exp()
    d_real, d_fake = _distances(z_real), _distances(z_fake)
    pairs = len(z_real) * (len(z_real) - 1)
    if affinity == "euclidean":
        return d_real * (pairs / d_real.sum().clamp_min(1e-8)), d_fake * (pairs / d_fake.sum().clamp_min(1e-8))
    h_squared = d_real.detach().square()[~_diagonal(d_real)].median().clamp_min(1e-12)
    return (-d_real.square() / (2 * h_squared)).exp(), (-d_fake.square() / (2 * h_squared)).exp()


def _distances(z: Tensor) -> Tensor:
    """Euclidean distances [B,B], with gradient 0 where two features coincide."""
    return torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")


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
        encoder: Images [B,C,H,W] to features [B,d]; of a `Backbone`, its `features`. BatchNorm stays in eval mode.
        affinity: How two images of a batch are related, see `structure_distance`.
        distance: How two affinities are compared, see `structure_distance`.
        pull: Share of the way back to the start phi_0 that the encoder goes after each update.
        anchor: Factor eta of the penalty `eta * |phi - phi_0|^2` in `losses`.
        ceiling: S above which the encoder is not pushed further; None: no ceiling.
        structure_batch: Images per affinity matrix, S being the mean over matrices; None: all that `forward` gets.

    Attributes:
        gather: Function that joins a [B, ...] tensor with those of other processes into [B_total, ...]; the identity by
            default. The trainer sets it to a differentiable all-gather whose backward sums the gradients over the
            processes; then S is the same everywhere, and averaging the parameters' gradients over processes is exact.

    Raises:
        ValueError: `pull` outside [0, 1), negative `anchor`, "kl" without "softmax", `structure_batch` below 2; in
            forward, fewer than two images, or a number that is no multiple of `structure_batch`.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        affinity: Affinity = "cosine",
        distance: Distance = "l1",
        pull: float = 0.02,
        anchor: float = 0.0,
        ceiling: float | None = 0.5,
        structure_batch: int | None = None,
    ) -> None:
        super().__init__()
        if structure_batch is not None and structure_batch < 2:
            raise ValueError(f"`structure_batch={structure_batch}`: structure lies in pairs; at least 2 (better 32)")
        if not 0 <= pull < 1 or anchor < 0:
            raise ValueError(f"`pull={pull}`, `anchor={anchor}`: pull is in [0, 1), anchor >= 0")
        if distance == "kl" and affinity != "softmax":
            raise ValueError(f"`distance='kl'` with `affinity={affinity!r}`: use affinity='softmax'")
        self.encoder = encoder
        self.affinity, self.distance = affinity, distance
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
        matrices = zip(z_real.split(size), z_fake.split(size), weight.split(size), strict=True)
        settings: dict[str, Any] = {"affinity": self.affinity, "distance": self.distance}
        return torch.stack([structure_distance(*matrix, **settings) for matrix in matrices]).mean()

    def encode(self, images: Tensor) -> Tensor:
        """Features [B,d], in float32: S is a mean of small differences, which half precision would drown."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(torch.promote_types(images.dtype, torch.float32))
            return self.encoder.features(images) if isinstance(self.encoder, Backbone) else self.encoder(images)

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
