"""Memory and time of a step of ADT on a GPU, at the sizes of Stable Diffusion 1.5 and XL: is memory_plan.py right?

    python benchmarks/gpu_memory.py FOLDER              # writes pipelines of random weights to FOLDER (9 GB) and trains
    python benchmarks/gpu_memory.py FOLDER --rows sd15  # those of one pipeline alone

Weights are random, sizes are the real ones: recipes, loading, text encoders, autoencoder and sampler are those that
`sparring fit adt --on sd15 --init PIPELINE` has.
"""

import argparse
import gc
import json
import tempfile
import time
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from memory_plan import clip_big, clip_large, sd15, vae
from PIL import Image
from scale_table import GIB, sdxl
from transformers import CLIPTokenizer, Dinov2Config, Dinov2Model

from sparring.recipes import recipe
from sparring.recipes.compose import compose

NOISE: Any = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
ROWS = [("sd15", True, 4), ("sd15", False, 4), ("sdxl", True, 1), ("sdxl", False, 1)]
NAMES = {"sd15": "SD 1.5, 512x512", "sdxl": "SDXL, 1024x1024"}
STEPS = 4
GRAD_STEPS = 2


def tokenizer(folder: Path) -> CLIPTokenizer:
    """Knows the letters alone; 77 tokens a caption."""
    letters = [chr(ord("a") + i) for i in range(26)]
    words = ["<|start|>", "<|end|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = dict(bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>", unk_token="<|end|>")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77, **special)


def pipeline_of(name: str, folder: Path, device: torch.device) -> DiffusionPipeline:
    words = tokenizer(folder / "words")
    with device:
        if name == "sd15":
            return StableDiffusionPipeline(
                *(vae(), clip_large(), words, sd15(), DDIMScheduler(**NOISE, clip_sample=False, steps_offset=1)),
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
        encoders = dict(text_encoder=clip_large(), text_encoder_2=clip_big(), tokenizer=words, tokenizer_2=words)
        scheduler = EulerDiscreteScheduler(**NOISE, steps_offset=1)
        return StableDiffusionXLPipeline(vae=vae(), unet=sdxl(), scheduler=scheduler, **encoders, add_watermarker=False)


def made(folder: Path, names: list[str], device: torch.device) -> None:
    """Writes what is not there yet: pipelines, a DINOv2-small and images with captions."""
    for name in names:
        if not (folder / name).is_dir():
            pipeline_of(name, folder / f"{name}-parts", device).to(torch.bfloat16).save_pretrained(folder / name)
    if not (folder / "dinov2").is_dir():
        sizes = dict(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
        Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder / "dinov2")
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for i in range(16):
        drawn = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(drawn).save(images / f"{i}.png")
    lines = [json.dumps({"file_name": f"{i}.png", "text": "an image"}) for i in range(16)]
    (images / "metadata.jsonl").write_text("\n".join(lines))


def row(folder: Path, name: str, lora: bool, batch: int, device: torch.device) -> tuple[float, float, float]:
    """GiB at rest, GiB more at the highest point of a step, and seconds for a step."""
    content = compose("adt", name, tuned=True)
    content["data"] = recipe.data_section(str(folder / "images"), content)
    flags = [
        f"--method.discriminator.init_args.backbone.init_args.path={folder / 'dinov2'}",
        *("--method.warmup_steps=0", "--method.ramp_steps=0", f"--method.num_grad_steps={GRAD_STEPS}"),
        *(f"--trainer.batch_size={batch}", "--trainer.accumulation=1", "--trainer.tracker=null"),
        *([] if lora else ["--denoiser.tuning=null"]),
    ]
    before = torch.cuda.memory_allocated(device)
    with tempfile.TemporaryDirectory() as out:
        trainer = recipe.build(content, flags, out=Path(out) / "run", init=str(folder / name), header={})
        trainer.prepare()
        trainer.method.train()
        with closing(trainer.micro_batches()) as windows:
            for trainer.step in range(STEPS):
                if trainer.step == 1:  # the first step makes the moments
                    torch.cuda.synchronize(device)
                    rest = torch.cuda.memory_allocated(device)
                    torch.cuda.reset_peak_memory_stats(device)
                    started = time.perf_counter()
                trainer.train_step(next(windows))
            torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - started) / (STEPS - 1)
    most = torch.cuda.max_memory_allocated(device)
    return (rest - before) / GIB, (most - rest) / GIB, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="+", choices=list(NAMES), default=list(NAMES))
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    device = torch.device("cuda")
    made(options.folder.absolute(), options.rows, device)
    gc.collect()
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, k = {GRAD_STEPS}\n")
    print("| | tuning | images at once | GiB | s/step |\n|---|---|--:|---|--:|", flush=True)
    for name, lora, batch in ROWS:
        if name in options.rows:
            rest, more, seconds = row(options.folder.absolute(), name, lora, batch, device)
            tuning = "LoRA, rank 32" if lora else "full"
            print(f"| {NAMES[name]} | {tuning} | {batch} | {rest:.1f} + {more:.1f} | {seconds:.2f} |", flush=True)
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
