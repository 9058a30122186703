"""SADM through every kind of encoder and on every kind of network, by the command line's own way."""

import json

import pytest
import torch
from tiny_pipelines import TinyPipelines

from sparring.backbones import AutoencoderFeatures, SmallConvNet, freeze, save_encoder
from sparring.backbones.denoiser_features import DenoiserFeatures
from sparring.cli.main import main
from sparring.data import Digits
from sparring.discriminators import Given, StructureDiscriminator
from sparring.recipes import recipe
from sparring.recipes.compose import compose

ENCODER = "--method.discriminator.encoder"
QUICK = ["--trainer.steps=2", "--trainer.batch_size=8", "--trainer.tracker=null", "--trainer.num_samples=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sadm")


@pytest.fixture(scope="module")
def base(folder):
    """A run of two steps on digits, to start from and to look through."""
    assert main(["fit", "diffusion", "--on", "digits", "--out", str(folder / "base"), *QUICK]) == 0
    return folder / "base"


@pytest.fixture(scope="module")
def pipelines(folder):
    return TinyPipelines(folder / "pipelines")


@pytest.fixture(scope="module")
def dino(folder):
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2)
    Dinov2Model(Dinov2Config(**sizes, image_size=32, patch_size=8)).save_pretrained(folder / "dino")
    return folder / "dino"


@pytest.fixture(scope="module")
def encoder_file(folder):
    net = SmallConvNet(in_channels=1, widths=(4, 6), pretrain="self-supervised", epochs=1)
    net.prepare(Digits().images(64), None)
    save_encoder(net, folder / "encoder.safetensors", Digits().images(64))
    return folder / "encoder.safetensors"


def flags_of(kind, request):
    """Flags that put an encoder of that kind into the recipe."""
    if kind == "file":
        return [f"{ENCODER}=FileEncoder", f"{ENCODER}.path={request.getfixturevalue('encoder_file')}"]
    if kind == "resnet":
        weights = request.getfixturevalue("shared") / "weights" / "resnet20-12fca82f.th"
        return [f"{ENCODER}=CifarResNet", f"{ENCODER}.path={weights}"]
    if kind == "dino":
        path = request.getfixturevalue("dino")
        return [f"{ENCODER}=DINOv2", f"{ENCODER}.path={path}", f"{ENCODER}.image_size=32"]
    if kind == "denoiser":
        path = request.getfixturevalue("base")
        return [f"{ENCODER}=sparring.backbones.denoiser_features.DenoiserFeatures", f"{ENCODER}.path={path}"]
    if kind == "vae":
        path = request.getfixturevalue("pipelines")("dit")
        return [f"{ENCODER}=AutoencoderFeatures", f"{ENCODER}.path={path}", f"{ENCODER}.pool=2"]
    return [f"{ENCODER}.pretrain={kind}", f"{ENCODER}.epochs=1", f"{ENCODER}.widths=[4,6]"]


KINDS = ["classifier", "self-supervised", "none", "file", "resnet", "dino", "denoiser", "vae"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_works_from_a_recipe(kind, request, base, folder):
    """Trained against the denoiser it moves; the step leaves finite numbers."""
    settings = compose("sadm", "digits", tuned=True)
    flags = [*QUICK, *flags_of(kind, request)]
    out = folder / f"run-{kind}"
    trainer = recipe.build(settings, flags, out=out, init=str(base), header={})
    method = trainer.method
    trained = {k: p.detach().clone() for k, p in method.discriminator.encoder.named_parameters() if p.requires_grad}
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    assert method.discriminator.encode(images).shape == (5, method.discriminator.encoder.dim)
    trainer.fit()
    moved = [
        k for k, p in method.discriminator.encoder.named_parameters() if k in trained and not torch.equal(p, trained[k])
    ]
    assert set(moved) == set(trained)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["generator/structure"] < 1 for line in lines if "generator/structure" in line)


@pytest.mark.parametrize("kind", ["denoiser", "vae", "dino"])
def test_frozen_encoders_pass_gradient_to_the_images_alone(kind, request):
    if kind == "denoiser":
        encoder = DenoiserFeatures(path=str(request.getfixturevalue("base")))
    elif kind == "vae":
        encoder = AutoencoderFeatures(path=str(request.getfixturevalue("pipelines")("dit") / "vae"), pool=2)
    else:
        from sparring.backbones import DINOv2

        encoder = DINOv2(path=str(request.getfixturevalue("dino")), image_size=32)
    discriminator = freeze(StructureDiscriminator(encoder=encoder))
    fake = (torch.rand(6, 1, 8, 8) * 2 - 1).requires_grad_()
    discriminator.logits([fake], Given(reference=[torch.rand(6, 1, 8, 8) * 2 - 1])).sum().backward()
    assert fake.grad.abs().sum() > 0
    torch.testing.assert_close(
        discriminator.encode(fake[2:3]), discriminator.encode(fake)[2:3]
    )  # rows do not influence each other


def test_features_of_a_denoiser_are_those_of_its_middle(base):
    """The pooled output of the middle block; what comes after has no part in it."""
    features = DenoiserFeatures(path=str(base), t=0.3)
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    seen = []
    denoiser = features._denoiser[0]
    handle = denoiser.net.mid_block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    eps = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1, -1)
    t = torch.full((3,), 0.3)
    denoiser(denoiser.process.add_noise(images, eps, t), t)
    handle.remove()
    torch.testing.assert_close(features.features(images), seen[0].mean((2, 3)))
    assert (features.channels, features.dim) == ([32], 32)
    assert not any(p.requires_grad for p in denoiser.net.up_blocks.parameters())
    assert all(p.requires_grad for p in denoiser.net.mid_block.parameters())
    calls = denoiser.images_seen
    assert not [part for part in features.modules() if part is denoiser]
    features.features(images)
    assert denoiser.images_seen == calls + 3


def test_features_of_a_transformer_of_latents(pipelines):
    features = DenoiserFeatures(path=str(pipelines("dit")))
    latents = torch.randn(2, 4, 8, 8)
    (grid,) = features.maps(latents)
    assert grid.shape == (2, 16, 4, 4)  # tokens of 2x2 latents
    torch.testing.assert_close(features.features(latents), grid.mean((2, 3)))
    with pytest.raises(ValueError, match="it works on latents, so set discriminator_input='latents'"):
        features(torch.zeros(2, 3, 16, 16))


def test_user_errors(pipelines, base, tmp_path):
    with pytest.raises(ValueError, match="takes captions"):
        DenoiserFeatures(path=str(pipelines("sd15")))
    with pytest.raises(ValueError, match="`t=1.0`"):
        DenoiserFeatures(path=str(base), t=1.0)
    with pytest.raises(ValueError, match="cannot be read as AutoencoderKL .it holds no weights"):
        AutoencoderFeatures(path=str(tmp_path))
    with pytest.raises(ValueError, match="images have 2 channels and this autoencoder takes 3"):
        AutoencoderFeatures(path=str(pipelines("dit")))(torch.zeros(1, 2, 16, 16))


@pytest.mark.parametrize("network", ["edm", "dit"])
def test_two_steps_from_scratch_on_other_networks(network, folder):
    """EDM preconditioning, and a class-conditional transformer on a rectified flow."""
    settings = compose("sadm", "digits-dit" if network == "dit" else "digits")
    flags = [*QUICK, f"{ENCODER}.pretrain=none"]
    if network == "edm":
        flags += ["--denoiser.process=sparring.process.EDM", "--denoiser.prediction=edm"]
    out = folder / network
    trainer = recipe.build(settings, flags, out=out, init=None, header={})
    trainer.fit()
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["generator/structure"] > 0
    assert last["skipped"] == 0
