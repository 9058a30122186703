"""Tiny pipelines with random weights and the real architectures, as folders: the path that real checkpoints take."""

import json
from pathlib import Path

import torch
from tiny_families import FAMILIES

from sparring.data import ImageData

UNET = dict(
    sample_size=16,
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=8,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)
VAE = dict(
    block_out_channels=(16, 32),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=8,
    sample_size=32,
)
SIZES = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, projection_dim=32)


def tokenizer(folder: Path):
    """Knows the letters alone; 16 tokens a caption."""
    from transformers import CLIPTokenizer

    letters = [chr(ord("a") + i) for i in range(26)]
    words = ["<|start|>", "<|end|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = dict(bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>", unk_token="<|end|>")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16, **special)


def text_encoder(projected: bool = False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    special = dict(bos_token_id=0, eos_token_id=1, pad_token_id=1)
    config = CLIPTextConfig(vocab_size=54, max_position_embeddings=16, **SIZES, **special)
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def sd15(folder: Path):
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    return StableDiffusionPipeline(
        vae=AutoencoderKL(latent_channels=4, **VAE),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(folder),
        unet=UNet2DConditionModel(cross_attention_dim=32, attention_head_dim=8, **UNET),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl(folder: Path):
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        **UNET,
    )
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(latent_channels=4, **VAE),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(projected=True),
        tokenizer=tokenizer(folder),
        tokenizer_2=tokenizer(folder),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )


def sd3(folder: Path):
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
    )
    quant = dict(use_quant_conv=False, use_post_quant_conv=False)
    return StableDiffusion3Pipeline(
        vae=AutoencoderKL(latent_channels=16, shift_factor=0.06, scaling_factor=1.5, **quant, **VAE),
        text_encoder=text_encoder(projected=True),
        text_encoder_2=text_encoder(projected=True),
        text_encoder_3=None,
        tokenizer=tokenizer(folder),
        tokenizer_2=tokenizer(folder),
        tokenizer_3=None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )


def dit(folder: Path):
    """Class-conditional, in latents of 16x16 RGB images."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_embeds_ada_norm=3,
    )
    return DiTPipeline(transformer, AutoencoderKL(latent_channels=4, **VAE), DDIMScheduler(clip_sample=False))


KINDS = {"sd15": sd15, "sdxl": sdxl, "sd3": sd3, "dit": dit, **FAMILIES}


class TinyPipelines:
    """Builds each kind once and keeps its folder.

    Args:
        folder: where the folders lie.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, kind: str) -> Path:
        """The pipeline folder of a kind; the same in every call, so do not write there."""
        path = self.folder / kind
        if not path.is_dir():
            with torch.random.fork_rng():
                torch.manual_seed(0)
                KINDS[kind](self.folder / "tokenizer").save_pretrained(path)
        return path


class Captioned(ImageData):
    """A dozen random RGB images of 16x16 pixels, each with a caption."""

    name, image_shape, text = "captioned", (3, 16, 16), True

    def __init__(self, dtype: torch.dtype = torch.float32):
        self._images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype) * 2 - 1

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices):
        return self._images[list(indices)], [f"picture {'abcdefghijkl'[i]}" for i in indices]
