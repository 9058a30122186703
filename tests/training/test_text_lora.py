"""Stable Diffusion 1.5, XL and 3 in small, tuned by the recipes as shipped: from images with captions to adapters that
diffusers loads in a process without sparring."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from small_runs import assert_same_checkpoint

from sparring.cli.main import main
from sparring.recipes.compose import compose

pytestmark = pytest.mark.slow

KINDS = {"sd15": "unet", "sdxl": "unet", "sd3": "transformer"}
SMALL = ["--data.size", "32", "--method.num_steps", "2", "--method.num_grad_steps", "1", "--method.warmup_steps", "0"]
SMALL += ["--method.ramp_steps", "0", "--trainer.batch_size", "2", "--trainer.accumulation", "1"]
SMALL += [
    "--trainer.num_samples",
    "1",
    "--trainer.tracker",
    "null",
    "--trainer.sample_every",
    "0",
    "--trainer.log_every",
    "1",
]
SMALL += [
    "--trainer.ema_decay",
    "0.5",
    "--trainer.generator_optimizer.lr",
    "0.05",
    "--method.discriminator.backbone.image_size",
    "32",
]


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny):
    """A folder with images and their captions, and a tiny DINOv2; how to fit from it."""
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("text_lora")
    (folder / "images").mkdir()
    rng, lines = np.random.default_rng(0), []
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"picture {'abcdef'[i]}"}))
    (folder / "images" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=32, patch_size=8)
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder / "dinov2")

    def fit(kind, out, *flags):
        origin = ["--init", str(tiny(kind)), "--data", str(folder / "images")] if "--resume" not in flags else []
        judge = ["--method.discriminator.backbone.path", str(folder / "dinov2")] if origin else []
        small = SMALL if origin else []
        return main(["fit", "adt", "--on", kind, "--out", str(folder / out), *origin, *judge, *small, *flags])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparring.report.write_run_report", lambda run: run)
        yield folder, fit


@pytest.fixture(scope="module")
def runs(start):
    """A run of two steps of each recipe; weights that do not change are kept in float32."""
    folder, fit = start
    for kind in KINDS:
        assert fit(kind, kind, "--trainer.steps", "2", "--denoiser.frozen", "fp32") == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_keeps_adapters_and_no_copy_of_what_it_started_from(runs, tiny, kind):
    run, part = runs / kind, KINDS[kind]
    trained = load_file(run / "checkpoints" / "000002" / "generator.safetensors")
    assert trained
    assert all(".lora_" in name for name in trained)
    assert set(load_file(run / "frozen.safetensors")) >= {"read again"}
    assert not [name for name in load_file(run / "frozen.safetensors") if "generator" in name]
    for file in sorted(path.relative_to(tiny(kind)) for path in tiny(kind).rglob("*.safetensors")):
        before, after = load_file(tiny(kind) / file), load_file(run / "pipeline" / file)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert before.keys() == after.keys()
        assert bool(changed) == (file.parts[0] == part)
        assert all("attn" in name for name in changed)
    shipped = load_file(run / "lora" / "pytorch_lora_weights.safetensors")
    assert all(name.startswith(f"{part}.") for name in shipped)
    assert {tensor.shape[0] for name, tensor in shipped.items() if name.endswith("lora_A.weight")} == {32}


ALONE = """
import sys, torch
from diffusers import DiffusionPipeline
for kind, base, run in zip(*[iter(sys.argv[1:])] * 3):
    absent = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3" else {}
    def images(pipe):
        pipe.set_progress_bar_config(disable=True)
        settings = dict(num_inference_steps=3, guidance_scale=2.0, output_type="pt", height=32, width=32)
        return pipe("picture a", generator=torch.Generator().manual_seed(0), **settings).images
    pipe = DiffusionPipeline.from_pretrained(base, **absent)
    plain = images(pipe)
    pipe.load_lora_weights(run + "/lora")
    adapted = images(pipe)
    whole = DiffusionPipeline.from_pretrained(run + "/pipeline", **absent)
    whole.scheduler = pipe.scheduler
    print(kind, (images(whole) - adapted).abs().max().item(), (plain - adapted).abs().max().item())
assert "sparring" not in sys.modules
"""


def test_the_adapters_and_the_whole_pipeline_make_the_same_images_in_a_process_without_sparring(runs, tiny):
    told = [word for kind in KINDS for word in (kind, str(tiny(kind)), str(runs / kind))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ALONE, *told]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=runs)
    assert done.returncode == 0, done.stderr[-4000:]
    found = {line.split()[0]: [float(number) for number in line.split()[1:]] for line in done.stdout.splitlines()}
    assert found.keys() == KINDS.keys()
    for difference, change in found.values():
        assert difference < 1e-4
        assert change > 20 * difference
        assert change > 1e-3


@pytest.fixture(scope="module")
def cut(start):
    """A run in half precision that was stopped after a step."""
    _, fit = start
    assert fit("sd15", "cut", "--trainer.steps", "1") == 0
    assert fit("sd15", "cut", "--resume", "--trainer.steps", "2") == 0


def test_resume_is_exact_with_captions_latents_and_half_precision(start, cut):
    folder, fit = start
    assert fit("sd15", "whole", "--trainer.steps", "2") == 0
    assert_same_checkpoint(folder / "whole", folder / "cut", 2)
    config = yaml.safe_load((folder / "cut" / "config.yaml").read_text())
    assert config["denoiser"]["frozen"] == "bf16"
    assert config["denoiser"]["condition_dropout"] == 0.1
    assert config["data"]["init_args"]["text_column"] == "text"


def test_another_autoencoder_is_noticed_when_a_run_goes_on(start, cut, tiny, capsys):
    folder, fit = start
    shutil.copytree(tiny("sd15"), folder / "changed")
    from safetensors.torch import save_file

    file = folder / "changed" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    assert fit("sd15", "cut", "--resume", "--trainer.steps", "3", "--denoiser.path", str(folder / "changed")) == 2
    assert "changed are not those that this run started with" in capsys.readouterr().err


def test_images_without_captions_are_refused(start, capsys):
    folder, fit = start
    plain = folder / "plain"
    plain.mkdir()
    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "png")
    (plain / "0.png").write_bytes(picture.getvalue())
    assert fit("sd15", "no captions", "--trainer.steps", "1", "--data", str(plain)) == 2
    assert "takes captions" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipes_are_the_defaults_of_the_method_in_writing(kind):
    settings = compose("adt", kind, tuned=True)
    method, trainer = settings["method"]["init_args"], settings["trainer"]
    assert (method["num_steps"], method["num_grad_steps"], method["adversarial_weight"]) == (20, 2, 0.1)
    assert (method["warmup_steps"], method["ramp_steps"], method["diffusion_weight"]) == (200, 500, 1.0)
    assert settings["denoiser"]["tuning"] == {
        "class_path": "sparring.networks.adapters.LoRA",
        "init_args": {"rank": 32},
    }
    assert (trainer["generator_optimizer"]["lr"], trainer["precision"]) == (1e-4, "bf16")
    assert "net" not in settings["denoiser"]
