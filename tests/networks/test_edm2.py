"""EDM2's layers: unit magnitude of each, an output of 0 at the start, weights of constant norm in training."""

import pytest
import torch
from diffusers import DiffusionPipeline

from sparring.generators import Denoiser
from sparring.generators.loading import load_denoiser
from sparring.networks import MPUNet
from sparring.networks.edm2 import MPConv, mp_cat, mp_silu, mp_sum, normalised, pixel_norm
from sparring.process import EDM, VP
from sparring.recipes import recipe
from sparring.recipes.compose import compose


def rms(x):
    return x.square().mean().sqrt().item()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def opened():
    """A network whose gains are no longer 0."""
    torch.manual_seed(0)
    net = MPUNet(sample_size=8, widths=[16, 32], num_class_embeds=3)
    for name, parameter in net.named_parameters():
        if name.endswith("gain"):
            parameter.data.fill_(1.0)
    return net


def test_each_layer_keeps_unit_magnitude():
    x = normal(64, 32, 16, 16)
    assert rms(mp_silu(x)) == pytest.approx(1, abs=0.01)
    assert rms(mp_sum(x, normal(64, 32, 16, 16, seed=1), 0.3)) == pytest.approx(1, abs=0.01)
    assert rms(pixel_norm(7 * x)) == pytest.approx(1, abs=1e-3)
    torch.manual_seed(0)
    for layer, given in ((MPConv(32, 48, 3), x), (MPConv(32, 48, 1), x), (MPConv(32, 48, 0), normal(4096, 32))):
        assert rms(layer(given)[..., 1:-1]) == pytest.approx(1, abs=0.05)
        layer.weight.data *= 5
        assert rms(layer(given)[..., 1:-1]) == pytest.approx(1, abs=0.05)


def test_joined_parts_have_equal_shares_of_the_magnitude():
    a, b = normal(64, 8, 8, 8), normal(64, 40, 8, 8, seed=1)
    joined = mp_cat(a, b)
    assert rms(joined) == pytest.approx(1, abs=0.01)
    assert joined[:, :8].square().sum().item() == pytest.approx(joined[:, 8:].square().sum().item(), rel=0.05)


def test_the_output_is_zero_at_the_start_and_of_unit_magnitude_with_a_gain_of_one():
    net = MPUNet(sample_size=8, widths=[16, 32])
    x, t = normal(8, 1, 8, 8), torch.zeros(8)
    assert not net(x, t).sample.any()
    output = opened()(x, t, torch.arange(8) % 3).sample
    assert 0.5 < rms(output) < 2
    assert not torch.equal(output, opened()(x, t, (torch.arange(8) + 1) % 3).sample)
    assert not torch.equal(output, opened()(x, t + 0.5, torch.arange(8) % 3).sample)
    with pytest.raises(ValueError, match="belong together"):
        net(x, t, torch.zeros(8, dtype=torch.long))
    with pytest.raises(ValueError, match="must be a multiple of 2"):
        MPUNet(sample_size=7)
    with pytest.raises(ValueError, match=r"`denoiser.net=MPUNet` reads ln\(sigma\) / 4 and VP tells it other times"):
        Denoiser(net, VP(), "v")


def test_weights_keep_their_norm_in_training(tmp_path):
    flags = ["--denoiser.net=sparring.networks.MPUNet", "--denoiser.net.widths=[8,16]", "--trainer.steps=8"]
    header = {"recipe": "edm2", "setting": "tiny", "init": None, "allow": []}
    trainer = recipe.build(compose("edm2", "tiny"), flags, out=tmp_path / "run", init=None, header=header)
    before = {name: p.detach().clone() for name, p in trainer.method.generator.named_parameters()}
    trainer.fit()
    for name, layer in trainer.method.generator.named_modules():
        if isinstance(layer, MPConv):
            assert not torch.equal(layer.weight, before[f"{name}.weight"])
            torch.testing.assert_close(layer.weight, normalised(layer.weight), rtol=1e-3, atol=1e-4)
    opened = load_denoiser(tmp_path / "run")
    assert isinstance(opened.net, MPUNet)
    assert opened.net.config["widths"] == [8, 16]


def test_frozen_weights_are_left_alone():
    denoiser = Denoiser(opened(), EDM(), "edm")
    frozen, trained = denoiser.net.read_in.weight, denoiser.net.read_out.weight
    frozen.requires_grad_(False)
    for weight in (frozen, trained):
        weight.data *= 2
    before = frozen.clone()
    denoiser.after_update()
    assert torch.equal(frozen, before)
    torch.testing.assert_close(trained, normalised(trained), rtol=1e-3, atol=1e-4)


def test_without_forced_normalisation_the_norm_grows():
    torch.manual_seed(0)
    layer, x, target = MPConv(4, 4, 0), normal(256, 4), normal(256, 4, seed=1)
    optimiser = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(50):
        optimiser.zero_grad()
        (layer(x) - target).square().mean().backward()
        optimiser.step()
    assert layer.weight.norm() > 4.02  # of 4 rows of norm 2
    layer.normalise()
    assert layer.weight.norm().item() == pytest.approx(4, rel=1e-3)


def test_a_pipeline_of_it_opens_and_draws(tmp_path):
    denoiser = Denoiser(opened(), EDM(), "edm")
    assert denoiser.save(tmp_path / "pipeline")
    twin = load_denoiser(tmp_path / "pipeline")
    x, t = normal(2, 1, 8, 8), torch.full((2,), 0.4)
    assert torch.equal(twin(x, t, torch.tensor([0, 2])).output, denoiser(x, t, torch.tensor([0, 2])).output)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "pipeline", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(batch_size=2, num_inference_steps=2, output_type="np").images.shape == (2, 8, 8, 1)
