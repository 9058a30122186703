"""Heads on what a frozen denoiser makes of noised images, at several depths of its network."""

from typing import Any

from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, cat, nn

from sparring.data import Draws
from sparring.discriminators.discriminator import Discriminator, Features, Given
from sparring.discriminators.heads import Head, advance_spectral_norms
from sparring.generators import Denoiser
from sparring.generators.middle import as_map
from sparring.networks import MLP
from sparring.networks.frozen import copy_of_trained
from sparring.networks.precision import at_least_float32
from sparring.networks.trunk import of_images, token_width, trunk


class DenoiserHeads(Discriminator):
    """Logits [B, M] of images that are noised to `Given.t`, by small heads on the maps of a frozen denoiser.

    The features are the noisy images x_t [B, c, h, w], each with noise of its own, at which penalties attach. The
    denoiser, which is given t and `Given.condition`, is called for the logits. Every place of every map is one logit.
    Source: LADD (Sauer et al., arXiv 2403.12015), whose teacher's features are seen at drawn noise levels; the heads
    are those of `ProjectedDiscriminator`.

    Of a U-Net the maps are those of its middle and of every block that comes after; of a transformer, the tokens after
    half of its blocks, three quarters and all of them; of an MLP, its last hidden layer.

    Args:
        denoiser: a frozen copy of it is kept.
        width: channels of the heads.

    Raises:
        ValueError: a network whose blocks are not known, or one with a latent z; in `features`, no times.
    """

    def __init__(self, denoiser: Denoiser, *, width: int = 64) -> None:
        super().__init__()
        if denoiser.slot is not None:
            raise ValueError("`discriminator`: the features of this denoiser would need a latent z; give another one")
        self.denoiser = copy_of_trained(denoiser).eval().requires_grad_(False)
        self.heads = nn.ModuleList(
            Head(channels=channels, width=width, out_channels=1) for _, channels in blocks_of(self.denoiser.net)
        )

    def features(self, x: Tensor, given: Given, draws: Draws) -> Features:
        if given.t is None:
            raise ValueError("DenoiserHeads noises images to drawn times, and this method has none")
        return [self.denoiser.process.add_noise(x, draws.normal(x.shape).to(x), given.t)]

    def logits(self, features: Features, given: Given) -> Tensor:
        (x_t,), t, process = features, given.t, self.denoiser.process
        assert t is not None
        maps: list[Tensor] = []
        handles = [
            block.register_forward_hook(
                lambda layer, inputs, output: maps.append(as_map(of_images(output), self.denoiser, x_t))
            )
            for block, _ in blocks_of(self.denoiser.net)
        ]
        try:
            self.denoiser.network(process.model_input(x_t, t), process.model_time(t), given.condition)
        finally:
            for handle in handles:
                handle.remove()
        return cat([at_least_float32(head(x)).flatten(1) for head, x in zip(self.heads, maps, strict=True)], 1)

    def after_update(self) -> None:
        """One power iteration of the spectral norms."""
        advance_spectral_norms(self)


def blocks_of(net: nn.Module) -> list[tuple[nn.Module, int]]:
    """The middle and late blocks of a network, in the order of its calls, and the channels of their outputs.

    Raises:
        ValueError: a network whose blocks are not known.
    """
    of: Any = net  # an attribute of a module may be anything to mypy
    if isinstance(net, UNet2DModel | UNet2DConditionModel):
        widths = list(of.config["block_out_channels"])
        middle = [] if of.mid_block is None else [(of.mid_block, widths[-1])]
        return [*middle, *zip(of.up_blocks, reversed(widths), strict=True)]
    if blocks := trunk(net):
        n = len(blocks)
        return [(blocks[depth], token_width(net)) for depth in sorted({n // 2, 3 * n // 4, n - 1})]
    if isinstance(net, MLP):
        return [(of.read_out[0], of.config["width"])]
    raise ValueError(f"`discriminator`: no blocks are known of a {type(net).__name__}; give a discriminator")
