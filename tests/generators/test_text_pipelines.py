"""Pipelines with an autoencoder: sampled as diffusers samples them, saved whole, opened without sparring."""

import hashlib
import os
import subprocess
import sys
from copy import deepcopy

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from tiny_pipelines import Captioned

from sparring.data import StoredImages
from sparring.evaluation import Evaluator, RealImages
from sparring.generators import Denoiser, load_pipeline
from sparring.process import VP, RectifiedFlow, set_timesteps
from sparring.samplers import Sampler

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize(
    ("kind", "name", "calls"),
    [
        ("PNDMScheduler", "pndm", 5),  # the one that Stable Diffusion 1.5 ships with: twice at its first time
        ("EulerAncestralDiscreteScheduler", "EulerAncestralDiscreteScheduler", 4),
        ("UniPCMultistepScheduler", "unipc", 4),
        ("DDPMScheduler", "ddpm", 4),
    ],
)
def test_a_pipelines_own_scheduler_may_be_any_of_diffusers(tiny, tmp_path, kind, name, calls):
    """Stochastic ones too: their noise comes from the same generator."""
    pipe = DiffusionPipeline.from_pretrained(tiny("sd15"))
    settings = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    settings |= {"skip_prk_steps": True} if kind == "PNDMScheduler" else {}
    pipe.scheduler = getattr(diffusers, kind)(**settings)
    pipe.save_pretrained(tmp_path / "p")
    found = Sampler(tmp_path / "p", device="cpu")(2, 4, seed=3, prompts=PROMPTS, guidance=5.0)
    assert (found.scheduler, found.nfe) == (name, calls)
    expected = by_diffusers(tmp_path / "p", "sd15", 5.0)
    torch.testing.assert_close(found.images, expected.clamp(-1, 1), rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["dpm", "unipc"])
def test_samples_with_our_schedulers_are_those_of_diffusers_pipeline_with_them(tiny, tmp_path, name):
    load_pipeline(tiny("sd15"))[0].save(tmp_path / "p", name)
    found = Sampler(tiny("sd15"), device="cpu")(2, 4, seed=3, prompts=PROMPTS, guidance=5.0, scheduler=name)
    assert (found.scheduler, found.nfe) == (name, 4)
    expected = by_diffusers(tmp_path / "p", "sd15", 5.0)
    torch.testing.assert_close(found.images, expected.clamp(-1, 1), rtol=0, atol=2e-5)


def test_the_paths_are_those_that_the_guide_names():
    """SD 1.5's own PNDM and the DDIM of a tuned pipeline, and the ends of SD3's path in diffusers and here."""
    betas = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    pndm = diffusers.PNDMScheduler(**betas, skip_prk_steps=True, steps_offset=1, set_alpha_to_one=False)
    pndm.set_timesteps(20)
    times = pndm.timesteps.tolist()
    assert (len(times), times[:3], times[-1]) == (21, [951, 901, 901], 1)
    ddim = VP(schedule="scaled_linear", beta_start=0.00085, beta_end=0.012).scheduler("ddim", "eps")
    set_timesteps(ddim, 20)
    times = ddim.timesteps.tolist()
    assert (len(times), times[:2], times[-1]) == (20, [999, 949], 49)
    stock = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock.set_timesteps(20)
    assert stock.sigmas[-3:].tolist() == pytest.approx([0.150, 0.009, 0], abs=5e-4)
    ours = RectifiedFlow(shift=3.0).scheduler("euler", "flow")
    set_timesteps(ours, 20)
    assert ours.sigmas[-3:].tolist() == pytest.approx([0.25, 0.136, 0], abs=5e-4)
    stock.set_timesteps(sigmas=np.linspace(1, 1 / 20, 20).tolist())
    torch.testing.assert_close(stock.sigmas, ours.sigmas)


def digests(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_tuned_network_is_saved_in_a_whole_pipeline_of_the_same_kind(tiny, tmp_path, kind):
    denoiser = load_pipeline(tiny(kind))[0]
    denoiser.save(tmp_path / "p", "euler")
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
    denoiser.save(tmp_path / "p", "euler")
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
    denoiser.save(tmp_path / "p", "ddim")
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
    absent |= {"trust_remote_code": True} if kind == "dit" else {}
    pipe = DiffusionPipeline.from_pretrained(f"{sys.argv[1]}/{kind}", **absent)
    pipe.set_progress_bar_config(disable=True)
    told = {"class_labels": [0]} if kind == "dit" else {"prompt": "a red apple"}
    image = pipe(**told, num_inference_steps=2, guidance_scale=1.0).images[0]
    print(kind, type(pipe).__name__, image.size)
assert "sparring" not in sys.modules
"""


def test_what_was_saved_runs_in_a_process_without_sparring(tiny, tmp_path):
    for kind in NETWORKS:
        load_pipeline(tiny(kind))[0].save(tmp_path / kind, "euler")
    command = [sys.executable, "-c", ALONE, str(tmp_path), *NETWORKS]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.split("\n")[:4] == [
        "sd15 StableDiffusionPipeline (32, 32)",
        "sdxl StableDiffusionXLPipeline (32, 32)",
        "sd3 StableDiffusion3Pipeline (32, 32)",
        "dit DenoiserPipeline (16, 16)",
    ]


def test_prompts_sizes_and_guidance_that_cannot_work_are_refused(tiny):
    text, classes = Sampler(tiny("sd15"), device="cpu"), Sampler(tiny("dit"), device="cpu")
    with pytest.raises(ValueError, match="`prompt`: a text-to-image pipeline needs captions"):
        text(1, 2)
    with pytest.raises(ValueError, match=r"`labels=\[3\]`: UNet2DConditionModel takes no classes; leave it out"):
        text(1, 2, prompts=PROMPTS, labels=[3])
    with pytest.raises(ValueError, match="`prompt`: DiTTransformer2DModel takes no captions"):
        classes(1, 2, prompts=PROMPTS)
    with pytest.raises(ValueError, match="`label=3`: the network has the classes 0 to 2"):
        classes(1, 2, labels=[3], guidance=2.0)
    with pytest.raises(ValueError, match="is made for images of shape"):
        Sampler(tiny("dit"), device="cpu", size=32)
    assert Sampler(tiny("sd15"), device="cpu", size=24)(1, 1, prompts=PROMPTS).images.shape == (1, 3, 24, 24)


class Recorder(Sampler):
    """Remembers how it was called and makes random images."""

    def __init__(self, generator):
        super().__init__(generator, device="cpu")
        self.calls = []
        generator.draw = lambda sampling: iter([torch.rand(sampling.n, *self.shape) * 2 - 1])

    def stream(self, n, steps, **settings):
        self.calls.append(settings)
        return super().stream(n, steps, **settings)


def test_evaluation_asks_for_the_references_captions_size_and_classes(tiny):
    captioned = Recorder(load_pipeline(tiny("sd15"))[0])
    evaluator = Evaluator(RealImages(Captioned(), None), "pixels")
    result = evaluator.sampler(captioned, n=20, steps=2, scheduler=None, seed=0, guidance=3.0)
    assert captioned.shape == (3, 16, 16)
    assert sorted(captioned.calls[0]["prompts"]) == sorted(Captioned().captions())
    assert (captioned.calls[0]["guidance"], result.scheduler) == (3.0, "ddim-w3")
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False)
    sizes = dict(sample_size=16, block_out_channels=(8,), norm_num_groups=4)
    spare = Recorder(Denoiser(UNet2DModel(num_class_embeds=4, **sizes, **blocks), VP(), "v"))
    images = StoredImages(Captioned().images(), torch.arange(12) % 3)
    Evaluator(RealImages(images, None), "pixels").sampler(spare, n=20, steps=2, scheduler=None, seed=0)
    assert spare.calls[0]["labels"] == [0, 1, 2]  # not the network's fourth, which says "none"
    assert spare.calls[0]["prompts"] is None
