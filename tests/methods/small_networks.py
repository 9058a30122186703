"""Networks of a few hundred weights of the classes that stock denoisers have, on 8x8 grey images."""

import torch
from diffusers import DiTTransformer2DModel, UNet2DModel


def small_dit() -> DiTTransformer2DModel:
    torch.manual_seed(0)
    sizes = dict(sample_size=8, patch_size=2, in_channels=1, out_channels=1, num_layers=4)
    heads = dict(num_attention_heads=2, attention_head_dim=4, num_embeds_ada_norm=10, norm_num_groups=4)
    net = DiTTransformer2DModel(**sizes, **heads)
    for parameter in net.parameters():  # its modulation begins at 0
        parameter.data += 0.05 * torch.randn(parameter.shape)
    return net


def small_unet(classes: int | None = None) -> UNet2DModel:
    torch.manual_seed(0)
    blocks = dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2)
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=[8, 16])
    return UNet2DModel(**sizes, norm_num_groups=4, add_attention=False, num_class_embeds=classes, **blocks)
