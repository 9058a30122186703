"""What each family of text-to-image pipelines keeps in memory while adapters are trained, from parameter counts.

    python benchmarks/family_memory.py   # the table of docs/guides/families.md, in a minute

Networks are made of their configurations on the meta device, which holds no numbers. Frozen weights are counted in bf16
(`frozen: bf16`), adapters of rank 32 with their moments and average. Text encoders are on the device all the time, or,
with `offload`, while captions are embedded. What a step needs beside them is not counted here; `memory_plan.py`
computes it for Stable Diffusion.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
import transformers
from memory_plan import HALF, PROJECTED, clip_big, clip_large, count, sd3, sd15, t5, vae
from scale_table import GIB, STATE, sdxl
from torch import nn

from sparring.generators.families import family_of_class
from sparring.networks.adapters import LoRA
from sparring.networks.quantized import GROUP

warnings.filterwarnings("ignore")
RANK = 32


def gemma2() -> nn.Module:
    """Gemma 2 of 2B parameters, the defaults of transformers."""
    return transformers.Gemma2Model(transformers.Gemma2Config())


def t5_gemma() -> nn.Module:
    """The encoder of T5Gemma, of the size of Gemma 2 with 2B parameters."""
    return gemma2()


def qwen3() -> nn.Module:
    """Qwen 3 of 4B parameters."""
    sizes = dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32)
    config = transformers.Qwen3Config(**sizes, num_key_value_heads=8, head_dim=128, vocab_size=151936)
    return transformers.Qwen3Model(config)


def qwen_vl() -> nn.Module:
    """Qwen 2.5 VL of 7B parameters."""
    text = dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28)
    text |= dict(num_key_value_heads=4, vocab_size=152064)
    vision = dict(depth=32, hidden_size=1280, intermediate_size=3420, num_heads=16, out_hidden_size=3584)
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def mistral() -> nn.Module:
    """Mistral Small 3 of 24B parameters, without its eyes."""
    sizes = dict(hidden_size=5120, intermediate_size=32768, num_hidden_layers=40, num_attention_heads=32)
    config = transformers.MistralConfig(**sizes, num_key_value_heads=8, head_dim=128, vocab_size=131072)
    return transformers.MistralForCausalLM(config)


@dataclass(frozen=True)
class Parts:
    """The parts of a pipeline.

    Args:
        pipeline: name of diffusers' class.
        net: makes the network.
        encoders: make the text encoders.
        autoencoder: makes the autoencoder.
    """

    pipeline: str
    net: Callable[[], nn.Module]
    encoders: list[Callable[[], nn.Module]]
    autoencoder: Callable[[], nn.Module]


def klein() -> nn.Module:
    """FLUX.2 klein of 4B parameters."""
    sizes = dict(num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=3 * 2560)
    return diffusers.Flux2Transformer2DModel(**sizes, guidance_embeds=False)


def pixart() -> nn.Module:
    """PixArt-Sigma XL."""
    return diffusers.PixArtTransformer2DModel(sample_size=128, caption_channels=4096)


def sprint() -> nn.Module:
    """SANA-Sprint of 1.6B parameters."""
    return diffusers.SanaTransformer2DModel(guidance_embeds=True, qk_norm="rms_norm_across_heads")


def of_16_channels() -> nn.Module:
    """The autoencoder of SD3 and FLUX.1."""
    return vae(16)


FAMILIES = {
    "Stable Diffusion 1.5": Parts("StableDiffusionPipeline", sd15, [clip_large], vae),
    "SDXL": Parts("StableDiffusionXLPipeline", sdxl, [clip_large, clip_big], vae),
    "SD3 medium": Parts("StableDiffusion3Pipeline", sd3, [PROJECTED, clip_big, t5], of_16_channels),
    "FLUX.1 dev": Parts(
        "FluxPipeline", lambda: diffusers.FluxTransformer2DModel(guidance_embeds=True), [clip_large, t5], of_16_channels
    ),
    "FLUX.2 dev": Parts("Flux2Pipeline", diffusers.Flux2Transformer2DModel, [mistral], diffusers.AutoencoderKLFlux2),
    "FLUX.2 klein 4B": Parts("Flux2KleinPipeline", klein, [qwen3], diffusers.AutoencoderKLFlux2),
    "Z-Image": Parts("ZImagePipeline", diffusers.ZImageTransformer2DModel, [qwen3], of_16_channels),
    "Qwen-Image": Parts(
        "QwenImagePipeline", diffusers.QwenImageTransformer2DModel, [qwen_vl], diffusers.AutoencoderKLQwenImage
    ),
    "SANA 1.6B": Parts("SanaPipeline", diffusers.SanaTransformer2DModel, [gemma2], diffusers.AutoencoderDC),
    "SANA-Sprint 1.6B": Parts("SanaSprintPipeline", sprint, [gemma2], diffusers.AutoencoderDC),
    "PixArt-Sigma": Parts("PixArtSigmaPipeline", pixart, [t5], vae),
    "Lumina-Image 2.0": Parts(
        "Lumina2Pipeline", lambda: diffusers.Lumina2Transformer2DModel(cap_feat_dim=2304), [gemma2], of_16_channels
    ),
    "PRX": Parts("PRXPipeline", diffusers.PRXTransformer2DModel, [t5_gemma], of_16_channels),
}


def row(parts: Parts) -> list[float]:
    """Parameters in billions of network, text encoders and adapters; GiB with the text encoders, without, and without
    them with the network's linear layers in 8 and in 4 bits."""
    with torch.device("meta"):
        net: Any = parts.net()
        whole = count(net)
        adapters = LoRA(rank=RANK)
        adapters.attention = family_of_class(parts.pipeline).attention
        adapters.apply(net)
        texts, autoencoder = count(*(make() for make in parts.encoders)), count(parts.autoencoder())
    trained = count(net, trained=True)
    kept = (sum(STATE.values()) - STATE["gradients"]) * trained
    linear = [m for m in net.modules() if type(m) is nn.Linear and not m.weight.requires_grad]
    weights, rows = sum(m.weight.numel() for m in linear), sum(m.out_features for m in linear)
    int8 = weights + HALF * rows - HALF * weights
    nf4 = weights / 2 + HALF * weights / GROUP - HALF * weights
    plain = HALF * (whole + autoencoder) + kept
    rest = [(plain + more) / GIB for more in (HALF * texts, 0, int8, nf4)]
    return [whole / 1e9, texts / 1e9, trained / 1e9, *rest]


def line(name: str, parts: Parts) -> str:
    """A line of the table."""
    net, texts, trained, *memory = row(parts)
    numbers = " | ".join(f"{gib:.1f}" for gib in memory)
    return f"| {name} | {net:.1f} | {texts:.1f} | {1000 * trained:.0f} | {numbers} |"


if __name__ == "__main__":
    print(
        "| pipeline | network, B | text encoders, B | adapters, M | GiB with text encoders | without "
        "| without, int8 | without, nf4 |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, parts in FAMILIES.items():
        print(line(name, parts), flush=True)
