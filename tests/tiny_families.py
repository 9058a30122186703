"""Tiny pipelines of the families after Stable Diffusion: the classes of the real ones, with random weights."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

LETTERS = [chr(ord("a") + i) for i in range(26)]
SMALL = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
CHAT = "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>{% endfor %}"
QUANT = dict(use_quant_conv=False, use_post_quant_conv=False)


def vae(channels: int, halvings: int = 1, **settings: Any):
    """An autoencoder whose latents are 2 to the power of `halvings` smaller than the images."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8,) * halvings + (16,),
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        norm_num_groups=8,
        sample_size=32,
        latent_channels=channels,
        **settings,
    )


def t5(width: int):
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in LETTERS)]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, additional_special_tokens=[])
    sizes = dict(d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=40)
    return tokenizer, T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))


def gemma_tokenizer(length: int | None = None):
    from transformers import GemmaTokenizer

    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    return GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=length)


def gemma(layers: int = 1):
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(Gemma2Config(vocab_size=40, num_hidden_layers=layers, query_pre_attn_scalar=8, **SMALL))


def qwen_tokenizer():
    """Knows every byte."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    words = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return Qwen2Tokenizer(vocab=vocab, merges=[], chat_template=CHAT, additional_special_tokens=words[-2:])


def qwen3(kind: str, layers: int):
    import transformers

    config = transformers.Qwen3Config(vocab_size=260, num_hidden_layers=layers, tie_word_embeddings=True, **SMALL)
    return getattr(transformers, kind)(config)


DYNAMIC = dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=8, max_image_seq_len=128)


def flow(**settings: Any):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**settings)


def flux(folder: Path, dev: bool = True):
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from tiny_pipelines import text_encoder, tokenizer

    tokenizer_2, text_encoder_2 = t5(32)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=dev,
    )
    return FluxPipeline(
        scheduler=flow(shift=3.0, **DYNAMIC) if dev else flow(shift=1.0),
        vae=vae(4, shift_factor=0.1, scaling_factor=0.4, **QUANT),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(folder),
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )


def schnell(folder: Path):
    return flux(folder, dev=False)


def sana(folder: Path):
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    blocks, deep = ("ResBlock", "EfficientViTBlock"), ((), (5,))
    autoencoder = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=deep,
        decoder_qkv_multiscales=deep,
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.4,
    )
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,
    )
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", algorithm_type="dpmsolver++"
    )
    return SanaPipeline(gemma_tokenizer(), gemma(), autoencoder, transformer, scheduler)


def sana_sprint(folder: Path):
    from diffusers import SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler

    parts = sana(folder).components
    config = {name: value for name, value in parts["transformer"].config.items() if not name.startswith("_")}
    transformer = SanaTransformer2DModel(**config | {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"})
    return SanaSprintPipeline(**parts | {"transformer": transformer, "scheduler": SCMScheduler()})


def pixart(folder: Path):
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    tokenizer, text_encoder = t5(32)
    transformer = PixArtTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        cross_attention_dim=16,
        caption_channels=32,
        use_additional_conditions=False,
    )
    scheduler = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    return PixArtSigmaPipeline(tokenizer, text_encoder, vae(4, scaling_factor=0.4), transformer, scheduler)


def lumina2(folder: Path):
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    transformer = Lumina2Transformer2DModel(
        sample_size=4,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        cap_feat_dim=16,
    )
    autoencoder = vae(4, halvings=3, shift_factor=0.1, scaling_factor=0.4, **QUANT)  # the pipeline wants a factor of 8
    return Lumina2Pipeline(transformer, flow(shift=6.0), autoencoder, gemma(2), gemma_tokenizer())


def z_image(folder: Path):
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[1024, 64, 64],
    )
    torch.nn.init.normal_(transformer.x_pad_token)
    torch.nn.init.normal_(transformer.cap_pad_token)
    autoencoder = vae(4, shift_factor=0.1, scaling_factor=0.4, **QUANT)
    return ZImagePipeline(flow(shift=3.0), autoencoder, qwen3("Qwen3Model", 2), qwen_tokenizer(), transformer)


def qwen_image(folder: Path):
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {name: value for name, value in SMALL.items() if name != "head_dim"} | {
        "num_hidden_layers": 2,
        "vocab_size": 260,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=16)
    special = dict(vision_end_token_id=253, vision_start_token_id=252, vision_token_id=254, image_token_id=251)
    encoder = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, video_token_id=250, **special)
    )
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.2, 0.1, 0.0, 0.3],
        latents_std=[1.1, 0.9, 1.3, 0.8],
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )
    scheduler = flow(shift_terminal=0.02, time_shift_type="exponential", **DYNAMIC)
    return QwenImagePipeline(scheduler, autoencoder, encoder, qwen_tokenizer(), transformer)


def flux2(folder: Path):
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
    )
    torch.nn.init.normal_(autoencoder.bn.running_mean, std=0.1)
    torch.nn.init.uniform_(autoencoder.bn.running_var, 0.5, 2)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    encoder = qwen3("Qwen3ForCausalLM", 28)  # whose layers 9, 18 and 27 are read
    scheduler = flow(shift=3.0, use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, autoencoder, encoder, qwen_tokenizer(), transformer)


def prx(folder: Path):
    from diffusers import PRXPipeline, PRXTransformer2DModel
    from transformers import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    stand_in_for_ftfy()
    settings = dict(vocab_size=40, num_hidden_layers=1, query_pre_attn_scalar=8, **SMALL)
    module = T5GemmaModuleConfig(**settings)
    module.dropout_rate = 0.0
    encoder = T5GemmaEncoder(module)
    encoder.config = T5GemmaConfig(encoder=module, is_encoder_decoder=False)  # as the published one is configured
    transformer = PRXTransformer2DModel(
        in_channels=4, context_in_dim=16, hidden_size=16, num_heads=2, depth=1, axes_dim=[4, 4]
    )
    for parameter in transformer.parameters():  # an untrained one gives zeros
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    autoencoder = vae(4, shift_factor=0.1, scaling_factor=0.4, **QUANT)
    parts = (flow(shift=3.0), encoder, gemma_tokenizer(24), autoencoder)
    return PRXPipeline(transformer, *parts, default_sample_size=16)


def stand_in_for_ftfy() -> None:
    """Lets PRX clean its captions without the package ftfy, where that is not installed: ours have nothing to mend."""
    from diffusers.pipelines.prx import pipeline_prx

    if "ftfy" not in vars(pipeline_prx):
        pipeline_prx.ftfy = SimpleNamespace(fix_text=lambda text: text)


FAMILIES = {
    "flux": flux,
    "schnell": schnell,
    "sana": sana,
    "sana_sprint": sana_sprint,
    "pixart": pixart,
    "lumina2": lumina2,
    "z_image": z_image,
    "qwen_image": qwen_image,
    "flux2": flux2,
    "prx": prx,
}

SIZES = {"sana": 32, "sana_sprint": 32, "lumina2": 32}  # the smallest that the pipelines take

SPACED = ("sana", "prx")  # pipelines that let the scheduler space its times

CALLS = {  # how a pipeline is asked for the guidance w
    "flux": lambda w: {"true_cfg_scale": w, "negative_prompt": ["", ""]},
    "schnell": lambda w: {"true_cfg_scale": w, "negative_prompt": ["", ""]},
    "sana": lambda w: {"guidance_scale": w, "use_resolution_binning": False},
    "sana_sprint": lambda w: {"use_resolution_binning": False, "intermediate_timesteps": None},  # it has none
    "pixart": lambda w: {"guidance_scale": w, "use_resolution_binning": False},
    "lumina2": lambda w: {"guidance_scale": w},
    "z_image": lambda w: {"guidance_scale": w - 1},
    "qwen_image": lambda w: {"true_cfg_scale": w, "negative_prompt": ["", ""]},
    "flux2": lambda w: {"guidance_scale": w},
    "prx": lambda w: {"guidance_scale": w, "use_resolution_binning": False},
}
