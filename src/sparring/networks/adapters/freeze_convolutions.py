"""The rule of D2O-F: the convolutions inside the blocks are frozen, the rest is trained (arXiv 2506.09376)."""

from torch import nn

from sparring.networks.adapters.tuning import Tuning, names_ending_in, no_match

FROZEN = (
    *("conv1", "conv2", "downsamplers.0.conv", "upsamplers.0.conv", "to_out.0"),  # of U-Nets
    *("to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),  # of transformers
)
"""diffusers' names of the layers in a block whose names there contain "conv" or "proj"."""


class FreezeConvolutions(Tuning):
    """The 3x3 convolutions of all blocks and the outputs of attention are frozen; all else is trained.

    What is trained of a U-Net: normalisations, projections of the time, queries, keys and values, 1x1 skips, the first
    and the last convolution, the embedding of the time. Source: the official program of D2O-F (arXiv 2506.09376), for
    EDM's U-Nets, in which it freezes every parameter inside the numbered blocks whose name contains "conv" or "proj".
    Of a transformer, for which there is no published rule, the outputs of attention and the feed-forward layers are
    frozen (ours).
    """

    def apply(self, net: nn.Module) -> None:
        layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
        found = names_ending_in(layers, FROZEN)
        if not found:
            raise no_match("`tuning=FreezeConvolutions`", "convolution in a block", net, layers, FROZEN)
        for name in found:
            layers[name].requires_grad_(False)
