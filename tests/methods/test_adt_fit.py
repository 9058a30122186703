"""`sparring fit adt` on folders of images: pipelines with classes and without, a discriminator on DINOv2."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DiffusionPipeline, UNet2DModel
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from sparring.cli.main import main


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Five RGB images of 16x16 pixels in each of the classes a, b and c."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(15):
        place = folder / "abc"[i % 3]
        place.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dinov2")
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=16, patch_size=8)
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unconditional")
    blocks = dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, block_out_channels=[8, 8])
    torch.manual_seed(0)
    net = UNet2DModel(sample_size=16, layers_per_block=1, norm_num_groups=4, add_attention=False, **blocks)
    DDPMPipeline(net, DDIMScheduler()).save_pretrained(folder)
    return folder


def fit(init: Path, images: Path, dinov2: Path, out: Path, *flags: str) -> dict[str, list[str]]:
    """Two steps; names of the weights of the pipeline's network that moved, and of those that did not."""
    backbone = [f"--method.discriminator.backbone{x}" for x in ("=DINOv2", f".path={dinov2}", ".image_size=16")]
    short = ["--method.num_steps=3", "--method.warmup_steps=0", "--method.ramp_steps=0"]
    small = [f"--trainer.{x}" for x in ("steps=2", "batch_size=4", "num_samples=2", "tracker=null", "ema_decay=0.5")]
    where = ["--init", str(init), "--data", str(images), "--out", str(out)]
    assert main(["fit", "adt", *where, *backbone, *short, *small, *flags]) == 0
    ends = []
    for folder in (init, out / "pipeline"):
        pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
        ends.append((pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet).state_dict())
    moved: dict[str, list[str]] = {"yes": [], "no": []}
    for name, start in ends[0].items():
        moved["no" if torch.equal(start, ends[1][name]) else "yes"].append(name)
    return moved


def test_an_unconditional_pipeline_is_tuned_on_a_folder(unconditional, images, dinov2, tmp_path):
    moved = fit(unconditional, images, dinov2, tmp_path / "run", "--method.normalise_coeff=true")
    assert not moved["no"]
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "generator/adversarial" in log


def test_a_class_conditional_pipeline_of_latents_is_tuned_on_a_folder(tiny, images, dinov2, tmp_path):
    """With guidance in the rollout, and classes dropped in the denoising loss."""
    flags = [
        "--data.labels=true",
        "--method.guidance=[1, 3]",
        "--denoiser.condition_dropout=0.2",
    ]
    moved = fit(tiny("dit"), images, dinov2, tmp_path / "run", *flags)
    assert moved["yes"]
    assert not [name for name in moved["no"] if "pos_embed" not in name]
