"""Every family of text-to-image pipelines is tuned, resumed exactly and shipped; in a covering set of methods.

Each family is tuned by ADT, which simulates its sampler and goes back through its autoencoder, and by one of the other
methods, which take turns.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from captioned_runs import SETTING
from small_runs import AdamW, Trainer, assert_same_checkpoint, method_of
from test_resume import stop_after
from tiny_families import CALLS, FAMILIES, SIZES, SPACED
from tiny_pipelines import Captioned

from sparring.generators import Pretrained
from sparring.methods.method import Method
from sparring.networks.adapters import LoRA
from sparring.process import set_timesteps
from sparring.recipes.compose import compose
from sparring.samplers import Sampler
from sparring.training import Interrupted

pytestmark = pytest.mark.slow

OTHERS = ("diffusion", "sadm", "ddo")
CELLS = [(kind, "adt") for kind in FAMILIES]
CELLS += [(kind, OTHERS[i % len(OTHERS)]) for i, kind in enumerate(FAMILIES)]
CELLS += [("pixart", "add"), ("pixart", "sadm"), ("sana", "add"), ("flux", "add")]  # VP, flows of one shift and by size
CELLS += [
    ("flux2", "dmd2"),
    ("qwen_image", "ladd"),
    ("z_image", "sida"),
    ("flux", "scm"),
    ("sana", "rcm"),
    ("flux", "repa"),
]
CELLS += [
    ("sd3", "apt"),
    ("sd3", "cafm"),
    ("sd3", "dmd2"),
    ("sdxl", "yoso"),
    ("sdxl", "ladd"),
    ("sdxl", "self_perceptual"),
]
KINDS = [kind for kind in FAMILIES if kind != "prx"]  # whose pipeline needs ftfy in the other process
LOADS_ADAPTERS = [kind for kind in KINDS if kind != "pixart"]  # by its pipeline, in diffusers 0.42


def method(pipeline: Path, name: str, tuning: LoRA | None = None) -> Method:
    """A method that tunes the pipeline, a third of its captions dropped; from the same weights every time."""
    torch.manual_seed(0)
    denoiser = Pretrained(str(pipeline), tuning=tuning, condition_dropout=0.3)
    made = method_of(compose(name, SETTING), denoiser)
    made.sample_steps = 2
    return made


def trainer(out: Path, made: Method, **settings):
    chosen = {"steps": 2, "batch_size": 2, "num_samples": 1, "tracker": None, "ema_decay": 0.5, "log_every": 1}
    chosen |= {"generator_optimizer": AdamW(lr=1e-2), "discriminator_optimizer": AdamW(lr=1e-3, betas=(0.5, 0.999))}
    return Trainer(made, Captioned(), out=out, **{**chosen, **settings})


@pytest.mark.parametrize(("kind", "name"), CELLS)
def test_a_stopped_run_of_a_family_ends_where_the_uninterrupted_one_does(tiny, tmp_path, kind, name):
    run = trainer(tmp_path / "whole", method(tiny(kind), name))
    start = {key: value.clone() for key, value in run.method.generator.net.state_dict().items()}
    whole = run.fit()
    assert not run.skipped
    moved = [key for key, value in run.method.generator.net.state_dict().items() if not torch.equal(value, start[key])]
    assert len(moved) > 0.7 * len(start)  # not what the last block of a small network leaves without gradient
    run = trainer(tmp_path / "cut", method(tiny(kind), name))
    stop_after(run, 1)
    with pytest.raises(Interrupted):
        run.fit()
    trainer(tmp_path / "cut", method(tmp_path / "cut", name)).fit(resume=True)  # from its own pipeline
    assert_same_checkpoint(whole, tmp_path / "cut", 2)
    file = "samples/000002.png"
    assert (whole / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


@pytest.mark.parametrize("name", ["add", "ladd", "dmd2"])
def test_the_calls_of_a_student_follow_the_size_of_the_images_as_its_sampler_does(tiny, name):
    made = method_of(compose(name, SETTING), Pretrained(str(tiny("flux"))), num_steps=2)
    seen, scheduler = [], made.generator.process.scheduler(made.sampler, "flow")  # made before the size is known
    for side in (16, 64):
        made.generator.check_shape((3, side, side))
        set_timesteps(scheduler, 2)
        torch.testing.assert_close(1000 * made.levels.sort(descending=True)[0].float(), scheduler.timesteps)
        seen.append(made.levels)
    assert not torch.allclose(*seen)


@pytest.fixture(scope="module")
def adapted(tiny, tmp_path_factory):
    """Runs of two steps of adapters."""
    folder = tmp_path_factory.mktemp("adapted")
    for kind in KINDS:
        run = method(tiny(kind), "diffusion", LoRA(rank=2))
        trainer(folder / kind, run, generator_optimizer=AdamW(lr=0.05)).fit()
    return folder


def test_adapters_are_there_where_the_pipeline_can_load_them(adapted):
    assert [kind for kind in KINDS if (adapted / kind / "lora").is_dir()] == LOADS_ADAPTERS


ALONE = """
import sys
from ast import literal_eval

import numpy as np
import torch
from diffusers import DiffusionPipeline

runs, loads, spaced, *told = sys.argv[1:]
for kind, base, size, settings in zip(*[iter(told)] * 4):
    def images(pipe):
        pipe.set_progress_bar_config(disable=True)
        call = dict(num_inference_steps=3, height=int(size), width=int(size), output_type="pt")
        generator = torch.Generator().manual_seed(3)
        call |= {"generator": generator, **literal_eval(settings)}
        return pipe(prompt=["a red apple", "zebra"], **call).images.numpy() * 2 - 1
    whole = DiffusionPipeline.from_pretrained(f"{runs}/{kind}/pipeline")
    if kind in spaced.split(","):  # which lets the scheduler space its times
        stock = whole.scheduler.set_timesteps
        whole.scheduler.set_timesteps = lambda n, device=None: stock(sigmas=np.linspace(1, 1 / n, n), device=device)
    drawn = {"whole": images(whole)}
    pipe = DiffusionPipeline.from_pretrained(base)
    pipe.scheduler = whole.scheduler
    drawn["plain"] = images(pipe)
    if kind in loads.split(","):
        pipe.load_lora_weights(f"{runs}/{kind}/lora")
        drawn["adapters"] = images(pipe)
    np.savez(f"{kind}.npz", **drawn)
assert "sparring" not in sys.modules
"""


def test_pipelines_and_adapters_draw_the_same_as_sparring_in_a_process_without_it(adapted, tiny, tmp_path):
    code = tmp_path / "alone.py"
    code.write_text(ALONE)
    sizes = {kind: str(SIZES.get(kind, 16)) for kind in KINDS}
    told = [word for kind in KINDS for word in (kind, str(tiny(kind)), sizes[kind], repr(CALLS[kind](3.0)))]
    command = [sys.executable, str(code), str(adapted), ",".join(LOADS_ADAPTERS), ",".join(SPACED), *told]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    for kind in KINDS:
        size, drawn = SIZES.get(kind, 16), np.load(tmp_path / f"{kind}.npz")
        sampler = Sampler(adapted / kind, device="cpu")
        assert sampler.shape == Captioned().image_shape  # whatever the pipeline was made for
        sampler.resize((3, size, size))
        guidance = 1.0 if kind == "sana_sprint" else 3.0
        images = sampler(2, 3, seed=3, guidance=guidance, prompts=["a red apple", "zebra"]).images
        whole = torch.from_numpy(drawn["whole"])
        torch.testing.assert_close(images, whole.clamp(-1, 1), rtol=0, atol=1e-4)
        plain = torch.from_numpy(drawn["plain"])
        assert (plain - whole).abs().max() > 2e-4
        if kind in LOADS_ADAPTERS:
            torch.testing.assert_close(torch.from_numpy(drawn["adapters"]), whole, rtol=0, atol=1e-4)
