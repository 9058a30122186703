"""Networks that are the slope of an energy: the slope, no curl, gradients, and a folder that keeps what they are."""

import pytest
import torch

from sparring.data import Batch, Draws
from sparring.generators import Denoiser, load_pipeline
from sparring.methods.denoising.diffusion import Diffusion
from sparring.networks import EnergyMLP, EnergyUNet
from sparring.process import VP

NETS = {
    "unet": lambda: EnergyUNet(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, add_attention=False,
    ),
    "mlp": lambda: EnergyMLP(width=16, depth=1),
}  # fmt: skip
SHAPES = {"unet": (1, 8, 8), "mlp": (2, 1, 1)}


def made(kind):
    torch.manual_seed(0)
    x = torch.randn(3, *SHAPES[kind], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return NETS[kind]().double(), x


@pytest.mark.parametrize("kind", NETS)
def test_the_output_is_the_slope_of_the_energy_and_its_field_has_no_curl(kind):
    net, x = made(kind)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    step = 1e-5 * direction
    difference = (net.energy(x + step, 100) - net.energy(x - step, 100)) / 2e-5
    slope = net(x, 100).sample
    torch.testing.assert_close((slope * direction).flatten(1).sum(1), difference, rtol=1e-5, atol=1e-6)
    jacobian = torch.func.jacrev(lambda x: net(x[None], 100).sample[0].flatten())(x[0]).reshape(x[0].numel(), -1)
    torch.testing.assert_close(jacobian, jacobian.T)


@pytest.mark.parametrize("kind", NETS)
def test_it_is_trained_and_sampled_as_any_network(kind):
    net, x = made(kind)
    denoiser = Denoiser(net, VP(schedule="linear"), "eps")
    denoiser.check_shape(SHAPES[kind])
    method = Diffusion(denoiser)
    loss = sum(method.generator_loss(batch := Batch(x, draws=Draws(0)), method.rollout(batch)).values())
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert denoiser.sample(2, 3, scheduler="ddim", seed=0).isfinite().all()
    with torch.no_grad():
        assert not net(x, 100).sample.requires_grad


@pytest.mark.parametrize("kind", NETS)
def test_a_folder_keeps_what_it_is(kind, tmp_path):
    net, x = made(kind)
    denoiser = Denoiser(net.float(), VP(schedule="linear"), "eps")
    denoiser.check_shape(SHAPES[kind])
    denoiser.save(tmp_path / "pipeline")
    again = load_pipeline(tmp_path / "pipeline")[0]
    assert type(again.net) is type(net)
    torch.testing.assert_close(again.net(x.float(), 100).sample, net(x.float(), 100).sample)
