"""Pipelines with an autoencoder: sampled as diffusers samples them, saved whole, opened without sparring."""

import hashlib
import os
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from sparring.pipeline import load_pipeline, save_pipeline
from sparring.sampling import Sampler

ABSENT = {"sd3": {"text_encoder_3": None, "tokenizer_3": None}}
PROMPTS = ["a red apple", "zebra"]
NETWORKS = {"sd15": "unet", "sdxl": "unet", "sd3": "transformer", "dit": "transformer"}


def by_diffusers(folder, kind, guidance):
    """Two images of four steps, by the pipeline itself, in [-1, 1]."""
    pipe = DiffusionPipeline.from_pretrained(folder, **ABSENT.get(kind, {}))
    pipe.set_progress_bar_config(disable=True)
    settings = dict(guidance_scale=guidance, generator=torch.Generator().manual_seed(3), output_type="pt")
    if kind == "dit":
        # the pipeline knows ImageNet alone: "none" is class 1000 there
        def known(_, args, kwargs):
            return args, kwargs | {"class_labels": kwargs["class_labels"].clamp(max=3)}

        pipe.transformer.register_forward_pre_hook(known, with_kwargs=True)
        return torch.as_tensor(pipe([0, 2], num_inference_steps=4, **settings).images) * 2 - 1
    if kind == "sd3":
        # left alone, diffusers spaces the times of flow matching so that the last network call does nothing; these are
        # the ones our samplers walk (see process/schedulers.py)
        settings["sigmas"] = np.linspace(1, 1 / 4, 4).tolist()
    return pipe(PROMPTS, num_inference_steps=4, **settings).images * 2 - 1


@pytest.mark.parametrize("kind", NETWORKS)
def test_samples_are_those_of_diffusers_pipeline_with_its_own_scheduler(tiny, kind):
    sampler = Sampler(tiny(kind), device="cpu")
    told = {"labels": [0, 2]} if kind == "dit" else {"prompts": PROMPTS}
    found = {w: sampler(2, 4, seed=3, guidance=w, **told).images for w in (1.0, 5.0)}
    for guidance, images in found.items():
        expected = by_diffusers(tiny(kind), kind, guidance)
        torch.testing.assert_close(images, expected.clamp(-1, 1), rtol=0, atol=2e-5)
    assert (found[1.0] - found[5.0]).abs().max() > 1e-3
    told = {"labels": [1, 1]} if kind == "dit" else {"prompts": ["fox"]}
    assert (sampler(2, 4, seed=3, **told).images - found[1.0]).abs().max() > 1e-3


def digests(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_tuned_network_is_saved_in_a_whole_pipeline_of_the_same_kind(tiny, tmp_path, kind):
    denoiser = load_pipeline(tiny(kind))[0]
    save_pipeline(denoiser, tmp_path / "p", "euler")
    before = digests(tmp_path / "p")
    for name, part in load_pipeline(tiny(kind))[0].space.vae.state_dict().items():
        assert torch.equal(part, denoiser.space.vae.state_dict()[name])
    again, scheduler = load_pipeline(tmp_path / "p")
    assert "Euler" in type(scheduler).__name__
    assert (type(again.text), type(again.space)) == (type(denoiser.text), type(denoiser.space))
    for frozen, loaded in zip(parts(denoiser), parts(again), strict=True):
        for name, tensor in frozen.state_dict().items():
            assert torch.equal(tensor, loaded.state_dict()[name]), name
    with torch.no_grad():
        for parameter in denoiser.net.parameters():
            parameter += 0.5
    save_pipeline(denoiser, tmp_path / "p", "euler")
    after = digests(tmp_path / "p")
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {f"{NETWORKS[kind]}/diffusion_pytorch_model.safetensors"}


def parts(denoiser):
    return [denoiser.net, denoiser.space.vae, *(denoiser.text.encoders if denoiser.text else [])]


def test_frozen_parts_in_half_precision_are_saved_so_that_the_pipeline_runs(tiny, tmp_path):
    denoiser = load_pipeline(tiny("sd15"), torch.bfloat16)[0]
    assert {part.dtype for part in parts(denoiser)[1:]} == {torch.bfloat16}
    assert denoiser.net.dtype == torch.float32
    half = deepcopy(denoiser.space.vae.state_dict())
    save_pipeline(denoiser, tmp_path / "p", "ddim")
    again = load_pipeline(tmp_path / "p")[0]
    assert {part.dtype for part in parts(again)} == {torch.float32}
    for name, tensor in again.space.vae.state_dict().items():
        assert torch.equal(tensor, half[name].float())
    assert by_diffusers(tmp_path / "p", "sd15", 5.0).isfinite().all()


ALONE = """
import sys
from diffusers import DiffusionPipeline
for kind in sys.argv[2:]:
    absent = {"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3" else {}
    pipe = DiffusionPipeline.from_pretrained(f"{sys.argv[1]}/{kind}", **absent)
    pipe.set_progress_bar_config(disable=True)
    told = {"class_labels": [0]} if kind == "dit" else {"prompt": "a red apple"}
    image = pipe(**told, num_inference_steps=2, guidance_scale=1.0).images[0]
    print(kind, type(pipe).__name__, image.size)
assert "sparring" not in sys.modules
"""


def test_what_was_saved_runs_in_a_process_without_sparring(tiny, tmp_path):
    for kind in NETWORKS:
        save_pipeline(load_pipeline(tiny(kind))[0], tmp_path / kind, "euler")
    command = [sys.executable, "-c", ALONE, str(tmp_path), *NETWORKS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split("\n")[:4] == [
        "sd15 StableDiffusionPipeline (32, 32)",
        "sdxl StableDiffusionXLPipeline (32, 32)",
        "sd3 StableDiffusion3Pipeline (32, 32)",
        "dit DiTPipeline (16, 16)",
    ]


def test_prompts_sizes_and_guidance_that_cannot_work_are_refused(tiny):
    text, classes = Sampler(tiny("sd15"), device="cpu"), Sampler(tiny("dit"), device="cpu")
    with pytest.raises(ValueError, match="`prompt`: a text-to-image pipeline needs captions"):
        text(1, 2)
    with pytest.raises(ValueError, match="`prompt`: DiTTransformer2DModel takes no captions"):
        classes(1, 2, prompts=PROMPTS)
    with pytest.raises(ValueError, match="`label=3`: the network has the classes 0 to 2"):
        classes(1, 2, labels=[3], guidance=2.0)
    with pytest.raises(ValueError, match="is made for images of shape"):
        Sampler(tiny("dit"), device="cpu", size=32)
    assert Sampler(tiny("sd15"), device="cpu", size=24)(1, 1, prompts=PROMPTS).images.shape == (1, 3, 24, 24)
