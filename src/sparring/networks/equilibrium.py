"""A transformer that is solved for its fixed point: from noise to an image, after GET (arXiv 2401.08639)."""

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.networks.fixed_point import fixed_point


@dataclass
class Solved:
    """Images [B, C, H, W] of the last iterate and of the one halfway, and the residual [B] of the last step."""

    image: Tensor
    early: Tensor
    residual: Tensor


class EquilibriumBlock(nn.Module):
    """One layer of the map whose fixed point is sought: tokens [B, N, D] and what is injected, [B, N, 3D], to tokens.

    What is injected is added to queries, keys and values. The attention has no residual way around it, and the state is
    normalised at the end (ours): so little of the old state is left in the new one, and the map begins near a
    contraction.

    Args:
        width: D.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.inner, self.outer = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, state: Tensor, injected: Tensor) -> Tensor:
        parts = (self.read(state) + injected).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        h = self.inner(self.mixed(seen))
        return self.outer(h + self.mlp(h))


class EquilibriumTransformer(ModelMixin, ConfigMixin):
    """From noise [B, C H W] to images [B, C, H, W]: `net(z)`, or `net(z, labels)` with classes.

    Blocks of an ordinary transformer read the patches of the noise once and say what is injected; the equilibrium
    blocks are then run again and again on a state that begins at 0, and an image is read from where it comes to rest.
    Few weights, as much computing as one likes. Source: "One-Step Diffusion Distillation via Deep Equilibrium Models"
    (arXiv 2401.08639), with patches of 2x2, 6 blocks before and 3 in the equilibrium, and a random first state. Ours
    are the sizes, the state's start, and the solver: each step goes half of the way, which ends swinging to and fro.

    Args:
        channels: C.
        size: Width and height of the images.
        patch_size: Of a token.
        width: Of the tokens.
        heads: Of each attention; they divide the width.
        injections: Blocks that read the noise.
        blocks: Blocks of the equilibrium, together one step.
        iterations: Steps; 1 is an ordinary transformer.
        gradient: "implicit", that of the fixed point, or "unrolled", that of all steps, which keeps all of them.
        num_classes: Classes that are embedded and added to the tokens; None: none.

    Raises:
        ValueError: Sizes that do not fit; in `forward`, labels without classes, or the reverse.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 1,
        size: int = 8,
        patch_size: int = 2,
        width: int = 64,
        heads: int = 4,
        injections: int = 2,
        blocks: int = 1,
        iterations: int = 12,
        gradient: Literal["implicit", "unrolled"] = "implicit",
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        if min(channels, size, patch_size, width, heads, injections, blocks, iterations) < 1:
            raise ValueError("every size of an EquilibriumTransformer is at least 1")
        if size % patch_size or width % heads:
            raise ValueError(
                f"`patch_size={patch_size}` must divide `size={size}`, and `heads={heads}` the `width={width}`"
            )
        if gradient not in ("implicit", "unrolled"):
            raise ValueError(f"`gradient={gradient}` must be implicit or unrolled")
        self.side, self.patch, self.shape = size // patch_size, patch_size, (channels, size, size)
        self.steps, self.implicit = iterations, gradient == "implicit" and iterations > 1
        numbers = channels * patch_size**2
        self.read_in = nn.Linear(numbers, width)
        self.places = nn.Parameter(0.02 * torch.randn(1, self.side**2, width))
        self.embedding = None if num_classes is None else nn.Embedding(num_classes, width)
        self.readers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(injections)
        )
        self.inject = nn.Linear(width, 3 * width * blocks)
        self.layers = nn.ModuleList(EquilibriumBlock(width, heads) for _ in range(blocks))
        self.read_out = nn.Linear(width, numbers)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images [B, C, H, W], nominally in [-1, 1], of noise [B, C H W] and labels [B]."""
        return self.solve(z, labels).image

    def solve(self, z: Tensor, labels: Tensor | None = None) -> Solved:
        """The image, the one halfway, and how far the iteration is from rest."""
        if (labels is None) != (self.embedding is None):
            raise ValueError(
                "labels and `num_classes` of the EquilibriumTransformer belong together: give both or none"
            )
        patches = F.unfold(z.view(-1, *self.shape), self.patch, stride=self.patch).transpose(1, 2)
        tokens = self.read_in(patches) + self.places
        if self.embedding is not None:
            tokens = tokens + self.embedding(labels)[:, None]
        for reader in self.readers:
            tokens = reader(tokens)
        injected = self.inject(tokens).chunk(len(self.layers), dim=2)

        def step(state: Tensor) -> Tensor:
            mapped = state
            for block, own in zip(self.layers, injected, strict=True):
                mapped = block(mapped, own)
            return (state + mapped) / 2

        found = fixed_point(step, torch.zeros_like(tokens), self.steps, implicit=self.implicit)
        return Solved(self.image(found.state), self.image(found.early), found.residual)

    def image(self, state: Tensor) -> Tensor:
        """Images [B, C, H, W] of tokens [B, N, D]."""
        return F.fold(self.read_out(state).transpose(1, 2), self.shape[1:], self.patch, stride=self.patch)
