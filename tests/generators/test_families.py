"""Families of text-to-image pipelines: captions, networks and samples are those of diffusers' own pipelines."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from tiny_families import CALLS, FAMILIES, SIZES, SPACED
from tiny_pipelines import Captioned

from sparring.data import Batch, Draws
from sparring.discriminators import DenoiserDiscriminator, Given
from sparring.generators import Pretrained, load_pipeline
from sparring.generators.condition import concatenate
from sparring.generators.families import families
from sparring.generators.families.packing import packed, unpacked
from sparring.networks.adapters import LoRA
from sparring.process import FlowBySize, RectifiedFlow, set_timesteps
from sparring.samplers import Sampler

pytestmark = pytest.mark.slow

KINDS = list(FAMILIES)
PROMPTS = ["a red apple", "zebra"]


def opened(folder):
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def by_pipeline(pipe, kind, guidance, size):
    """Two images of four steps, by the pipeline itself, in [-1, 1]."""
    settings = dict(num_inference_steps=4, generator=torch.Generator().manual_seed(3), output_type="pt")
    settings |= {"height": size, "width": size, **CALLS[kind](guidance)}
    if kind == "prx":  # which is guided for one prompt at a time (diffusers 0.42)
        return torch.cat([pipe(prompt=[prompt], **settings).images for prompt in PROMPTS]) * 2 - 1
    return pipe(prompt=[*PROMPTS], **settings).images * 2 - 1


def walk_our_times(pipe):
    """Two pipelines let the scheduler space its times; ours are 1, ..., 1/m, not rounded (process/schedulers.py)."""
    stock = type(pipe.scheduler)

    class Ours(stock):
        def set_timesteps(self, num_inference_steps, device=None, **settings):
            plain = stock.from_config(self.config)
            set_timesteps(plain, num_inference_steps, device)
            self.__dict__.update(vars(plain))

    pipe.scheduler = Ours.from_config(pipe.scheduler.config)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_those_of_the_pipeline(tiny, kind):
    size = SIZES.get(kind, 16)
    sampler, pipe = Sampler(tiny(kind), device="cpu", size=size), opened(tiny(kind))
    if kind in SPACED:
        walk_our_times(pipe)
    found = {w: sampler(2, 4, seed=3, guidance=w, prompts=PROMPTS).images for w in (1.0, 5.0)}
    for guidance, images in found.items():
        if guidance > 1 and kind == "sana_sprint":  # whose pipeline has no guidance but that of the network
            continue
        expected = by_pipeline(pipe, kind, guidance, size)
        torch.testing.assert_close(images, expected.clamp(-1, 1), rtol=0, atol=5e-5)
    assert (found[1.0] - found[5.0]).abs().max() > 1e-3
    assert (sampler(2, 4, seed=3, prompts=["fox"]).images - found[1.0]).abs().max() > 1e-4
    wide = sampler.generator.latent_shape((3, size, 2 * size))
    sampler.resize((3, size, 2 * size))  # sides are not confused
    assert sampler(1, 2, prompts=["fox"]).images.shape == (1, 3, size, 2 * size)
    assert wide[2] == 2 * wide[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_side_that_is_no_multiple_of_a_patch_is_one_line_that_says_of_what(tiny, kind):
    """And the multiples are taken."""
    denoiser = load_pipeline(tiny(kind))[0]
    step = denoiser.space.factor * denoiser.text.patch
    denoiser.check_shape((3, 4 * step, 5 * step))
    wrong = 5 * step + (denoiser.space.factor if denoiser.text.patch > 1 else 1)
    with pytest.raises(ValueError, match=rf"`size`: images of .* sides must be multiples of {step}$"):
        denoiser.check_shape((3, 4 * step, wrong))


@pytest.mark.parametrize("kind", KINDS)
def test_the_space_is_that_of_the_pipelines_autoencoder(tiny, kind):
    """A decoded sample of the encoder's Gaussian is what the autoencoder makes of it, and its scale is its own."""
    space, images = load_pipeline(tiny(kind))[0].space, Captioned()[range(2)][0]
    latents = space.encode(images, torch.zeros(2, *space.shape((3, 16, 16))))
    frames = images[:, :, None] if kind == "qwen_image" else images
    encoded = space.vae.encode(frames)
    mode = encoded.latent if "sana" in kind else encoded.latent_dist.mode()
    expected = space.vae.decode(mode, return_dict=False)[0]
    expected = expected[:, :, 0] if kind == "qwen_image" else expected
    torch.testing.assert_close(space.decode(latents), expected, rtol=0, atol=2e-5)
    if "sana" not in kind:  # whose encoder has no Gaussian
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        assert not torch.equal(space.encode(images, noise), latents)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_see_each_other_and_captions_of_other_lengths_do_not_matter(tiny, kind):
    denoiser = load_pipeline(tiny(kind))[0]
    texts = ["a red apple on a table", "zebra", ""]
    images = Captioned()[range(3)][0]
    batch = denoiser.embed(Batch(images, texts=texts, draws=Draws(0)))
    t = torch.full((3,), 0.5)
    with torch.no_grad():
        whole = denoiser.eval()(batch.x_0, t, batch.condition).output
        for row in range(3):
            alone = denoiser.embed(Batch(images[row : row + 1], texts=texts[row : row + 1], draws=Draws(0)))
            output = denoiser(batch.x_0[row : row + 1], t[:1], alone.condition).output
            torch.testing.assert_close(output, whole[row : row + 1], rtol=0, atol=2e-5)
        nothing = denoiser.unconditional(batch.condition)
        joined = concatenate(nothing, batch.condition)
        both = denoiser(torch.cat([batch.x_0] * 2), torch.cat([t] * 2), joined).output
        torch.testing.assert_close(both[3:], whole, rtol=0, atol=2e-5)
        torch.testing.assert_close(both[:3], denoiser(batch.x_0, t, nothing).output, rtol=0, atol=2e-5)  # filled up


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_go_where_the_family_says_and_gradient_passes_with_and_without_checkpointing(tiny, kind):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        denoiser = Pretrained(str(tiny(kind)), tuning=LoRA(rank=2)).train()
        adapted = {name.split(".lora_A")[0] for name, _ in denoiser.net.named_parameters() if ".lora_A" in name}
        assert {name.rpartition(".")[2] for name in adapted} - {"0"} <= {*denoiser.text.attention}
        for ending in {"flux2": ("to_qkv_mlp_proj", "to_out"), "prx": ("img_qkv_proj", "txt_kv_proj")}.get(kind, ()):
            assert any(name.endswith(ending) for name in adapted)
        for name, parameter in denoiser.net.named_parameters():
            if ".lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        if checkpointing:
            denoiser.enable_gradient_checkpointing()
        batch = denoiser.embed(Batch.of(*Captioned()[range(2)], Draws(0)))
        denoiser.error(batch).sum().backward()
        gradients.append({name: p.grad for name, p in denoiser.net.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(".lora_" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)
    assert sum(gradient.abs().sum() for gradient in gradients[0].values()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_the_network_can_be_a_discriminator(tiny, kind):
    denoiser = load_pipeline(tiny(kind))[0]
    batch = denoiser.embed(Batch.of(*Captioned()[range(3)], Draws(0)))
    discriminator = DenoiserDiscriminator(denoiser)
    x_t, given = batch.x_0.requires_grad_(), Given(t=torch.full((3,), 0.5), condition=batch.condition)
    logits = discriminator.logits([x_t], given)
    assert logits.shape == (3,)
    (gradient,) = torch.autograd.grad(logits[0], x_t)
    assert gradient[0].abs().sum() > 0
    assert gradient[1:].abs().max() < 1e-6  # rows do not see each other


# -- what is particular ------------------------------------------------------------------------------------------------


def test_tokens_are_packed_as_flux_and_qwen_image_pack_them():
    from diffusers import FluxPipeline

    x = torch.randn(2, 4, 6, 8)
    tokens = FluxPipeline._pack_latents(x, 2, 4, 6, 8)
    assert torch.equal(packed(x), tokens)
    assert torch.equal(unpacked(tokens, (6, 8)), x)


def test_the_shift_follows_the_size_and_copies_and_schedulers_follow_with_it(tiny):
    denoiser = load_pipeline(tiny("flux"))[0]
    process = denoiser.process
    assert isinstance(process, FlowBySize)
    early, copy = process.scheduler("euler", "flow"), deepcopy(denoiser)
    for side, places in ((16, 16), (32, 64)):  # 8 to 128 places are a mu of 0.5 to 1.15 in the tiny pipeline
        denoiser.check_shape((3, side, side))
        shift = np.exp(0.5 + (places - 8) / 120 * 0.65)
        assert process.shift == copy.process.shift == pytest.approx(shift)
        set_timesteps(early, 4)
        t = np.linspace(1, 1 / 4, 4)
        expected = [*(shift * t / (1 + (shift - 1) * t)), 0]
        np.testing.assert_allclose(early.sigmas, expected, rtol=1e-6)
        for name in ("unipc", "dpm"):
            other = process.scheduler(name, "flow")
            set_timesteps(other, 4)
            assert other.config.flow_shift == pytest.approx(shift)
    with pytest.raises(ValueError, match="'heun' does not exist for a flow whose shift follows the size"):
        process.scheduler("heun", "flow")
    assert not isinstance(load_pipeline(tiny("schnell"))[0].process, FlowBySize)
    plain = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    with pytest.raises(ValueError, match="its pipeline does not say how the shift follows the size"):
        set_timesteps(plain, 4)
    with pytest.raises(ValueError, match="cannot end at its `shift_terminal` in one step"):
        set_timesteps(FlowMatchEulerDiscreteScheduler(shift_terminal=0.02), 1)


def test_the_shift_of_flux_2_follows_the_steps_too(tiny):
    process = load_pipeline(tiny("flux2"))[0].process
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    process.resize(4096)
    for steps in (4, 20, 50):
        assert process.shift_of(steps) == pytest.approx(np.exp(compute_empirical_mu(4096, steps)))
    assert process.shift_of(4) != process.shift_of(50)


def test_a_tuned_pipeline_keeps_the_shift_that_follows_the_size(tiny, tmp_path):
    denoiser = load_pipeline(tiny("qwen_image"))[0]
    denoiser.check_shape((3, 16, 16))
    denoiser.save(tmp_path / "p", "euler")
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "p", subfolder="scheduler")
    stock = FlowMatchEulerDiscreteScheduler.from_pretrained(tiny("qwen_image"), subfolder="scheduler")
    assert scheduler.config == stock.config
    denoiser.save(tmp_path / "q", "unipc")
    again = load_pipeline(tmp_path / "q")[0].process
    assert type(again) is RectifiedFlow
    assert again.shift == pytest.approx(denoiser.process.shift)


def test_flux_dev_is_told_the_guidance_of_its_pipeline_and_schnell_is_not(tiny):
    seen = []
    for kind in ("flux", "schnell"):
        denoiser = load_pipeline(tiny(kind))[0]
        denoiser.net.register_forward_pre_hook(
            lambda net, args, kwargs: seen.append(kwargs["guidance"]), with_kwargs=True
        )
        batch = denoiser.embed(Batch.of(*Captioned()[range(2)], Draws(0)))
        denoiser.error(batch)
    assert seen[0].tolist() == [3.5, 3.5]
    assert seen[1] is None


def test_two_steps_of_sana_sprint_are_those_of_its_pipeline(tiny):
    """Two steps have a time of their own in the middle."""
    sampler, pipe = Sampler(tiny("sana_sprint"), device="cpu", size=32), opened(tiny("sana_sprint"))
    settings = dict(output_type="pt", height=32, width=32, use_resolution_binning=False, num_inference_steps=2)
    expected = pipe(prompt=[*PROMPTS], generator=torch.Generator().manual_seed(3), **settings).images * 2 - 1
    images = sampler(2, 2, seed=3, prompts=PROMPTS).images
    torch.testing.assert_close(images, expected.clamp(-1, 1), rtol=0, atol=5e-5)


def test_captions_that_are_cut_are_counted_with_their_template(tiny):
    text = load_pipeline(tiny("lumina2"))[0].text
    room = 256 - len(text.pipe.tokenizer(text.written(""))["input_ids"])
    with pytest.warns(UserWarning, match="1 of 2 captions are longer than the 256 tokens"):
        text.warn_of_cut(["ab" * 3, "ab" * room], "captions")


def test_every_known_pipeline_is_one_of_diffusers_and_others_are_refused_with_their_names(tiny, tmp_path):
    import shutil

    import diffusers

    known = families()
    assert all(hasattr(diffusers, name) for name in known)
    assert len(known) == 13
    shutil.copytree(tiny("flux"), tmp_path / "other")
    index = tmp_path / "other" / "model_index.json"
    index.write_text(index.read_text().replace('"FluxPipeline"', '"FluxFillPipeline"'))
    with pytest.raises(ValueError, match="a FluxFillPipeline takes its captions in a way .* known: Flux2KleinPipeline"):
        load_pipeline(tmp_path / "other")


def test_prx_without_the_package_that_cleans_its_captions_is_refused(tiny, monkeypatch):
    from diffusers.pipelines.prx import pipeline_prx

    folder = tiny("prx")
    monkeypatch.delattr(pipeline_prx, "ftfy")
    with pytest.raises(ValueError, match="PRXPipeline cleans its captions with the package ftfy: install it"):
        load_pipeline(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_embedded_as_before_once_the_pipeline_was_saved(tiny, tmp_path, kind):
    denoiser = Pretrained(str(tiny(kind)))
    before = denoiser.text(["a red apple", "zebra"], (32, 32), "cpu").tokens
    denoiser.save(tmp_path / "pipeline", "euler" if kind != "pixart" else "ddim")
    assert torch.equal(denoiser.text(["a red apple", "zebra"], (32, 32), "cpu").tokens, before)


def test_pixart_can_be_sampled_with_another_scheduler(tiny):
    """Its process is one with betas, so that methods for those (ADD) can tune it."""
    denoiser = load_pipeline(tiny("pixart"))[0]
    assert isinstance(denoiser.process.scheduler("ddim", denoiser.prediction), DDIMScheduler)
