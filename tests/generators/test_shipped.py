"""What is shipped draws in diffusers what we draw: every network that is accepted, with every scheduler it can have."""

import json
import subprocess
import sys

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)
from tiny_pipelines import VAE

from sparring.data import StoredImages
from sparring.generators import Denoiser, Pretrained, load_pipeline
from sparring.generators.loop import Walk
from sparring.generators.predictor import ClassifierFree, wrapped
from sparring.methods.denoising.diffusion import Diffusion
from sparring.process import EDM, VP, Latents, RectifiedFlow
from sparring.samplers import Sampler
from sparring.training import Trainer

pytestmark = pytest.mark.slow

NET = dict(
    sample_size=8,
    in_channels=3,
    out_channels=3,
    layers_per_block=1,
    block_out_channels=(8, 8),
    norm_num_groups=4,
    down_block_types=("DownBlock2D",) * 2,
    up_block_types=("UpBlock2D",) * 2,
    add_attention=False,
)
DIT = dict(sample_size=8, patch_size=2, num_layers=2, num_attention_heads=2, attention_head_dim=8)
FLOW_KINDS = ("euler", "dpm", "heun", "unipc")


def unet(**settings):
    return UNet2DModel(**{**NET, **settings})


def dit(classes=3, **settings):
    net = DiTTransformer2DModel(**{**DIT, "in_channels": 3, "num_embeds_ada_norm": classes, **settings})
    with torch.no_grad():  # a new DiT gives zeros
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return net


def latents(**settings):
    return Latents(AutoencoderKL(latent_channels=4, **VAE, **settings))


def shipped(tmp_path, net, process, kind, sampler, space=None):
    torch.manual_seed(0)
    Denoiser(net().eval(), process, kind, None if space is None else space()).save(tmp_path / "p", sampler)
    return tmp_path / "p"


def by_diffusers(folder, n=3, steps=4, **told):
    """Images [n, C, H, W] in [-1, 1] of the pipeline itself, for the generator of seed 5."""
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    images = pipe(**told, num_inference_steps=steps, generator=generator, output_type="pt").images
    return type(pipe).__name__, torch.as_tensor(images) * 2 - 1


CASES = [
    *[(unet, VP(), "v", name, "DDPMPipeline") for name in ("ddim", "ddpm", "dpm", "lcm")],
    (unet, VP(), "v", "euler", "ConsistencyModelPipeline"),
    *[(unet, VP(), "v", name, "DenoiserPipeline") for name in ("heun", "unipc")],
    *[(unet, EDM(), "edm", name, "ConsistencyModelPipeline") for name in ("euler", "dpm")],
    *[(unet, RectifiedFlow(shift=2.0), "flow", name, "DenoiserPipeline") for name in FLOW_KINDS],
    (lambda: unet(sample_size=(8, 16)), VP(), "v", "ddim", "DDPMPipeline"),
    (lambda: unet(out_channels=6), VP(), "v", "ddim", "DenoiserPipeline"),
    (lambda: unet(out_channels=6), VP(), "v", "ddpm", "DenoiserPipeline"),
]


@pytest.mark.parametrize(("net", "process", "kind", "sampler", "pipeline"), CASES)
def test_an_unconditional_network_draws_the_same_images_in_diffusers(tmp_path, net, process, kind, sampler, pipeline):
    folder = shipped(tmp_path, net, process, kind, sampler)
    found = Sampler(folder, device="cpu")(3, 4, seed=5)
    assert found.scheduler == sampler
    name, expected = by_diffusers(folder, batch_size=3)
    assert name == pipeline
    torch.testing.assert_close(found.images, expected.clamp(-1, 1), rtol=0, atol=2e-5)
    assert len(torch.unique(found.images)) > 100  # and not all at the ends


CLASSES = [
    *[(VP(), "v", name, "ConsistencyModelPipeline", {}) for name in ("ddim", "dpm", "euler")],
    *[(VP(), "v", name, "DenoiserPipeline", {}) for name in ("heun", "unipc")],
    *[(RectifiedFlow(), "flow", name, "DenoiserPipeline", {}) for name in FLOW_KINDS],
    (EDM(), "edm", "euler", "ConsistencyModelPipeline", {}),
    (VP(), "v", "ddim", "DenoiserPipeline", {"sample_size": (8, 16)}),
]


@pytest.mark.parametrize(("process", "kind", "sampler", "pipeline", "settings"), CLASSES)
def test_a_network_with_classes_draws_the_same_images_in_diffusers(
    tmp_path, process, kind, sampler, pipeline, settings
):
    folder = shipped(tmp_path, lambda: unet(num_class_embeds=4, **settings), process, kind, sampler)
    sample = Sampler(folder, device="cpu")
    labels = [2, 0, 1]
    told = {"batch_size": 3, "class_labels": labels}
    name, expected = by_diffusers(folder, **told)
    assert name == pipeline
    found = sample(3, 4, seed=5, labels=labels).images
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=0, atol=2e-5)
    assert (sample(3, 4, seed=5, labels=[0, 2, 1]).images - found).abs().max() > 1e-4
    if name == "DenoiserPipeline":
        guided = sample(3, 4, seed=5, labels=labels, guidance=3.0).images
        _, expected = by_diffusers(folder, **told, guidance_scale=3.0)
        torch.testing.assert_close(guided, expected.clamp(-1, 1), rtol=0, atol=2e-5)
        assert (guided - found).abs().max() > 1e-4
        _, in_turn = by_diffusers(folder, batch_size=3)
        torch.testing.assert_close(sample(3, 4, seed=5).images, in_turn.clamp(-1, 1), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("net", "process", "kind", "sampler", "space", "pipeline"),
    [
        (dit, RectifiedFlow(), "flow", "euler", None, "DenoiserPipeline"),
        (dit, VP(), "v", "ddim", None, "DenoiserPipeline"),
        (lambda: dit(in_channels=4, out_channels=8), VP(), "eps", "ddim", latents, "DenoiserPipeline"),
        (lambda: dit(1000, in_channels=4, out_channels=8), VP(), "eps", "ddim", latents, "DiTPipeline"),
        (lambda: dit(1000, in_channels=4, out_channels=8), VP(), "eps", "euler", latents, "DenoiserPipeline"),
        (
            lambda: dit(1000, in_channels=4),
            VP(),
            "v",
            "dpm",
            lambda: latents(scaling_factor=1.5, shift_factor=0.1),
            "DenoiserPipeline",
        ),
        (
            lambda: unet(in_channels=4, out_channels=4, num_class_embeds=4),
            VP(),
            "v",
            "ddim",
            lambda: latents(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0]),
            "DenoiserPipeline",
        ),
    ],
)
def test_transformers_and_latents_draw_the_same_images_in_diffusers(
    tmp_path, net, process, kind, sampler, space, pipeline
):
    folder = shipped(tmp_path, net, process, kind, sampler, space)
    for guidance in (1.0, 3.0):
        found = Sampler(folder, device="cpu")(2, 4, seed=5, labels=[2, 0], guidance=guidance).images
        name, expected = by_diffusers(folder, class_labels=[2, 0], guidance_scale=guidance)
        assert name == pipeline
        torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=0, atol=2e-5)


def test_heun_for_edm_is_ours_and_euler_is_shipped_in_its_place(tmp_path):
    folder = shipped(tmp_path, unet, EDM(), "edm", "heun")
    _, expected = by_diffusers(folder, batch_size=3)
    sample = Sampler(folder, device="cpu")
    torch.testing.assert_close(sample(3, 4, seed=5).images, expected.clamp(-1, 1), rtol=0, atol=2e-5)
    heun = sample(3, 4, seed=5, scheduler="heun")
    assert (heun.scheduler, heun.nfe) == ("heun", 7)
    assert heun.images.isfinite().all()


ALONE = """
import sys
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
print(type(pipe).__name__, pipe(num_inference_steps=2).images[0].size)
assert "sparring" not in sys.modules
"""


def test_the_pipeline_that_is_ours_needs_no_sparring_and_is_a_file_beside_it(tmp_path):
    folder = shipped(tmp_path, dit, RectifiedFlow(), "flow", "euler")
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == [
        "denoiser_pipeline",
        "DenoiserPipeline",
    ]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder)], capture_output=True, text=True, timeout=100, cwd=tmp_path
    )
    assert done.stdout.strip() == "DenoiserPipeline (8, 8)", done.stderr[-2000:]
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        DiffusionPipeline.from_pretrained(folder)


def test_a_pipeline_with_code_of_its_own_is_not_run(tmp_path):
    folder = shipped(tmp_path, dit, RectifiedFlow(), "flow", "euler")
    code = folder / "denoiser_pipeline.py"
    code.write_text("raise RuntimeError('was run')\n")
    load_pipeline(folder)  # ours comes from the package
    code.rename(folder / "other.py")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": ["other", "Other"]}))
    with pytest.raises(ValueError, match=r"code of its own \(other.py\), which is not run"):
        load_pipeline(folder)


# -- learned variances -------------------------------------------------------------------------------------------------


def learned(folder, **settings):
    torch.manual_seed(0)
    scheduler = DDPMScheduler(variance_type="learned_range", prediction_type="v_prediction", clip_sample=False)
    DDPMPipeline(unet(out_channels=6, **settings), scheduler).save_pretrained(folder)
    return folder


def test_a_learned_variance_is_sampled_as_diffusers_does(tmp_path):
    folder = learned(tmp_path / "lr")
    found = Sampler(folder, device="cpu")(3, 4, seed=5)
    _, expected = by_diffusers(folder, batch_size=3)
    torch.testing.assert_close(found.images, expected.clamp(-1, 1), rtol=0, atol=2e-5)
    fixed = Sampler(folder, device="cpu")(3, 4, seed=5, scheduler="ddpm").images
    assert (fixed - found.images).abs().max() > 1e-2


def test_guidance_mixes_the_outputs_and_keeps_the_variance_of_the_class(tmp_path):
    sample = Sampler(learned(tmp_path / "lr", num_class_embeds=4), device="cpu")
    denoiser, scheduler = sample.generator, sample.generator.own_scheduler
    walk = Walk(scheduler, 4)

    x, time, labels = torch.randn(2, 3, 8, 8), walk.timesteps[0], torch.tensor([0, 1])
    with torch.no_grad():
        told, none = (denoiser.net(x, time, c).sample for c in (labels, torch.full((2,), 3)))
        guided = denoiser.step_output(walk, labels, wrapped(denoiser, [ClassifierFree(3.0)]), 0, x)
    torch.testing.assert_close(guided[:, :3], none[:, :3] + 3 * (told - none)[:, :3], rtol=0, atol=1e-5)
    torch.testing.assert_close(guided[:, 3:], told[:, 3:], rtol=0, atol=1e-5)


def test_a_tuned_network_with_a_learned_variance_ships_what_draws_and_goes_on(tmp_path):
    folder = learned(tmp_path / "lr")
    data = StoredImages(torch.rand(8, 3, 8, 8) * 2 - 1)

    def trainer(steps):
        return Trainer(
            Diffusion(Pretrained(str(folder))), data, out=tmp_path / "run", steps=steps, batch_size=4, num_samples=4
        )

    trainer(1).fit()
    run = trainer(2).fit(resume=True)
    found = Sampler(run, device="cpu")(3, 4, seed=5).images
    _, expected = by_diffusers(run / "pipeline", batch_size=3)
    torch.testing.assert_close(found, expected.clamp(-1, 1), rtol=0, atol=2e-5)


def test_a_scheduler_that_wants_a_variance_which_the_network_lacks_is_refused(tmp_path):
    DDPMPipeline(unet(), DDPMScheduler(variance_type="learned_range")).save_pretrained(tmp_path / "p")
    with pytest.raises(ValueError, match="variance_type='learned_range' and UNet2DModel gives no variance"):
        load_pipeline(tmp_path / "p")


# -- networks whose pipelines could not be called ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["timestep", "identity"])
def test_embeddings_of_numbers_in_place_of_classes_are_refused(tmp_path, kind):
    settings = {"class_embed_type": kind}
    with pytest.raises(ValueError, match=f"class_embed_type='{kind}' takes numbers in place of classes"):
        Denoiser(unet(**settings), VP(), "v")
    DDPMPipeline(unet(**settings), DDIMScheduler()).save_pretrained(tmp_path / "p")
    with pytest.raises(ValueError, match=f"class_embed_type='{kind}' takes numbers in place of classes"):
        load_pipeline(tmp_path / "p")


def test_networks_that_see_more_than_the_noisy_image_are_refused(tiny, tmp_path):
    from diffusers import UNet2DConditionModel

    pipe = DiffusionPipeline.from_pretrained(tiny("sd15"))
    pipe.unet = UNet2DConditionModel.from_config({**pipe.unet.config, "in_channels": 9})
    pipe.save_pretrained(tmp_path / "nine")
    DDPMPipeline(unet(in_channels=6), DDIMScheduler()).save_pretrained(tmp_path / "six")
    for folder, message in (
        ("nine", "UNet2DConditionModel takes 9 channels and its autoencoder makes 4: .* as for inpainting"),
        ("six", "UNet2DModel takes 6 channels and gives 3"),
    ):
        for use in (lambda path: Sampler(path, device="cpu"), lambda path: Pretrained(str(path))):
            with pytest.raises(ValueError, match=message):
                use(tmp_path / folder)
