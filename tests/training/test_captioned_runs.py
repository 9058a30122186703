"""Text-to-image pipelines are trained by every method, exactly, and nothing but their network changes."""

import pytest
import torch
from captioned_runs import method, trainer
from small_runs import TUNING, assert_same_checkpoint, checkpoint
from test_resume import stop_after
from test_step import steps
from tiny_pipelines import Captioned

from sparring.data import Batch, Draws
from sparring.generators import load_pipeline
from sparring.samplers import Sampler
from sparring.training import Interrupted
from sparring.training.state import changing_tensors

pytestmark = pytest.mark.slow


def frozen_of(denoiser) -> list[torch.Tensor]:
    parts = [denoiser.space.vae, *denoiser.text.encoders]
    return [tensor.clone() for part in parts for tensor in part.state_dict().values()]


@pytest.mark.parametrize("name", [name for name in TUNING if name != "drifting"])  # which refuses captions
def test_every_method_tunes_a_text_to_image_pipeline(tiny, tmp_path, name):
    run = trainer(tmp_path / "run", tiny("sd15"), name)
    generator = run.method.generator
    before, start = frozen_of(generator), {k: v.clone() for k, v in generator.net.state_dict().items()}
    run.fit()
    assert not run.skipped
    assert all(torch.equal(one, other) for one, other in zip(before, frozen_of(generator), strict=True))
    moved = [k for k, v in generator.net.state_dict().items() if not torch.equal(v, start[k])]
    assert len(moved) > 0.95 * len(start)  # not those that feed biases alone into softmaxes
    assert all(part.text is generator.text and part.space is generator.space for part in run.method.generators())
    written = {key for group in checkpoint(tmp_path / "run", 2)[0].values() for key in group}
    assert not any("vae" in key or "text" in key for key in written)
    shipped = load_pipeline(tmp_path / "run")[0]
    assert all(torch.equal(one, other) for one, other in zip(before, frozen_of(shipped), strict=True))
    average = run.ema.module.net.state_dict()
    assert all(torch.equal(v, average[k]) for k, v in shipped.net.state_dict().items())
    assert Sampler(tmp_path / "run", size=16)(1, 1, prompts=["a fox"]).images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("name", ["adt", "ddo"])
def test_a_stopped_run_of_captions_ends_where_the_uninterrupted_one_does(tiny, tmp_path, name):
    settings = {"steps": 2, "checkpoint_every": 2, "keep_checkpoints": 9, "keep_best": True}
    whole = trainer(tmp_path / "whole", tiny("sd15"), name, **settings).fit()
    run = trainer(tmp_path / "cut", tiny("sd15"), name, **settings)
    stop_after(run, 1)
    with pytest.raises(Interrupted):
        run.fit()
    trainer(tmp_path / "cut", tmp_path / "cut", name, **settings).fit(resume=True)  # from its own pipeline
    assert_same_checkpoint(whole, tmp_path / "cut", 2)
    for file in ("samples/000002.png", "frozen.safetensors"):
        assert (whole / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


def test_four_micro_batches_of_captions_equal_one_batch(tiny, tmp_path):
    one, cut = (trainer(tmp_path / "run", tiny("sd15"), "adt", torch.float64, accumulation=a) for a in (1, 4))
    for line, line_2 in zip(steps(one, 2), steps(cut, 2), strict=True):
        assert line == pytest.approx(line_2, rel=1e-6, abs=1e-9)
    ends = [changing_tensors(run.method) for run in (one, cut)]
    difference = [(a.detach() - b.detach()).abs().max() for a, b in zip(*map(dict.values, ends), strict=True)]
    assert max(difference) < 1e-7


def test_latents_and_captions_are_embedded_once_a_step(tiny, tmp_path):
    run = trainer(tmp_path / "run", tiny("sd15"), "adt", accumulation=2)
    calls = []
    inner = run.method.generator.embed
    run.method.generator.embed = lambda batch: calls.append(len(batch)) or inner(batch)
    steps(run, 2)
    assert calls == [2, 2, 2, 2]


def test_the_judges_gradient_reaches_the_network_through_the_decoder(tiny):
    made = method(tiny("sd15"), "adt")
    batch = made.generator.embed(Batch.of(*Captioned()[range(4)], Draws(0)))
    fake = made.rollout(batch)
    assert batch.x_0.shape == (4, 4, 8, 8)
    made.generator_loss(batch, fake)["adversarial"].backward()
    assert all(parameter.grad.any() for parameter in made.generator.net.conv_out.parameters())
