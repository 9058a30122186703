"""What a sampler begins from: the law of the kernel, a fitted density; shipped, opened, and without it a gap."""

import math

import pytest
import torch
from diffusers import DiffusionPipeline
from scipy.stats import betaprime, kstest

from sparring.data import Draws, StoredImages
from sparring.generators import Denoiser, Pretrained
from sparring.generators.drawing import start_state
from sparring.generators.loading import load_denoiser
from sparring.generators.loop import Walk
from sparring.generators.start import MixtureStart, StudentTStart
from sparring.networks import MLP
from sparring.networks.adapters import LoRA, Parts
from sparring.networks.time_blind import first_time_layers
from sparring.process import EDM, VP, RectifiedFlow, StudentT

POINTS = StoredImages(
    torch.cat([torch.full((400, 2, 1, 1), side) for side in (-1.0, 1.0)])
    + 0.1 * torch.randn(800, 2, 1, 1, generator=torch.Generator().manual_seed(0))
)


def prepared(denoiser):
    denoiser.check(POINTS)
    denoiser.prepare(POINTS)
    return denoiser


def short(components=2, covariance="full", last_time=0.3):
    start = MixtureStart(components, covariance)
    return prepared(Denoiser(MLP(width=8), VP(last_time=last_time), "v", start=start))


def test_a_short_process_is_the_beginning_of_the_whole_one():
    whole, part = VP(schedule="cosine"), VP(schedule="cosine", last_time=0.3)
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(part.log_snr(t), whole.log_snr(0.3 * t), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(part.model_time(t), whole.model_time(0.3 * t))
    scheduler = part.scheduler("ddim", "v")
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == 299


def test_the_gap_of_a_short_process_is_known_and_closed_by_the_fitted_density():
    """Data N(0, 4): KL(N(0, v) | N(0, 1)) = (v - 1 - ln v) / 2 with v = alpha^2 4 + sigma^2; 0 for the fitted one."""
    data = StoredImages(2 * torch.randn(20000, 1, 1, 1, generator=torch.Generator().manual_seed(0)))
    process = VP(last_time=0.36)
    alpha = process.alpha(torch.ones(1, dtype=torch.float64)).item()
    v = 4 * alpha**2 + 1 - alpha**2
    denoiser = Denoiser(MLP(in_channels=1, width=8), process, "v", start=MixtureStart(1))
    denoiser.check(data)
    denoiser.prepare(data)
    fitted = denoiser.start.roots.item() ** 2
    assert fitted == pytest.approx(v, rel=0.03)
    gap = lambda v, of: 0.5 * (v / of - 1 - math.log(v / of))  # noqa: E731
    assert gap(v, 1.0) > 0.05
    assert gap(v, fitted) < 1e-3


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_the_mixture_has_the_modes_of_noisy_data(covariance):
    denoiser = short(covariance=covariance, last_time=0.1)
    x = denoiser.start(Draws(0).normal((4000, 2, 1, 1)), Draws(1).uniform((4000,)))
    alpha, sigma = (float(f(torch.ones(()))) for f in (denoiser.process.alpha, denoiser.process.sigma))
    sides = x[:, 0, 0, 0] > 0
    assert sides.float().mean().item() == pytest.approx(0.5, abs=0.05)
    one = x[sides].flatten(1)
    assert one.mean(0).tolist() == pytest.approx([alpha, alpha], abs=0.05)
    assert one.var(0).tolist() == pytest.approx([sigma**2 + (0.1 * alpha) ** 2] * 2, rel=0.15)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpm", "heun"])
def test_a_walk_begins_at_the_density_in_the_coordinates_of_its_scheduler(name):
    denoiser = short()
    walk = Walk(denoiser.process.scheduler(name, "v"), 5)
    z = Draws(0).normal((64, 2, 1, 1))
    state = start_state(denoiser, walk, z, Draws(1))
    x_t = denoiser.start(z, Draws(1).uniform((64,)) + 2**-25)
    torch.testing.assert_close(walk.level(0, denoiser.process).x_t(state), x_t)
    denoiser.generate(denoiser.process.scheduler(name, "v"), 5, latents=z)


def test_student_noise_is_what_sampling_starts_from():
    denoiser = Denoiser(MLP(width=8), EDM(sigma_max=20.0, kernel=StudentT(dimension=6)), "edm")
    walk = Walk(denoiser.process.scheduler("ddim", "edm"), 5)
    state = start_state(denoiser, walk, Draws(0).normal((5000, 2, 1, 1)), Draws(1))
    radii = (state / 20).double().square().flatten(1).sum(1) / 6
    assert kstest(radii, betaprime(1, 3).cdf).pvalue > 0.01
    vp = Denoiser(MLP(width=8), VP(kernel=StudentT()), "v")
    with pytest.raises(ValueError, match="`scheduler=ddpm` adds Gaussian noise"):
        vp.stepper("ddpm")


@pytest.mark.parametrize("kind", ["mixture", "student"])
def test_the_start_is_in_the_pipeline_and_found_again(kind, tmp_path):
    student = Denoiser(MLP(width=8), EDM(kernel=StudentT(dimension=6)), "edm")
    denoiser = short() if kind == "mixture" else prepared(student)
    assert denoiser.save(tmp_path / "pipeline")
    opened = load_denoiser(tmp_path / "pipeline")
    assert type(opened.start) is type(denoiser.start)
    z, u = Draws(0).normal((9, 2, 1, 1)), Draws(1).uniform((9,)) + 1e-4
    torch.testing.assert_close(opened.start(z, u), denoiser.start(z, u))
    if kind == "student":
        assert opened.process.kernel.dimension == 6
        assert isinstance(opened.start, StudentTStart)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "pipeline", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    begun = []
    pipe.start.register_forward_hook(lambda *call: begun.append(call[-1]))
    images = pipe(
        batch_size=4, num_inference_steps=3, output_type="pt", generator=torch.Generator().manual_seed(0)
    ).images
    assert images.shape == (4, 2, 1, 1)
    assert len(begun) == 1


def test_a_start_needs_enough_images_and_its_own_size():
    denoiser = Denoiser(MLP(width=8), VP(last_time=0.3), "v", start=MixtureStart(500))
    denoiser.check(POINTS)
    with pytest.raises(ValueError, match="`start.components=500`: 800 images are too few"):
        denoiser.prepare(POINTS)
    with pytest.raises(ValueError, match="fitted to 2 numbers, not to 3"):
        short().start.size_for((3, 1, 1))
    with pytest.warns(UserWarning, match="`last_time=0.3` without `denoiser.start`"):
        Denoiser(MLP(width=8), VP(last_time=0.3), "v")
    with pytest.raises(ValueError, match="`last_time=0`"):
        VP(last_time=0)
    with pytest.raises(ValueError, match="knows nothing of the class or source that MLP is conditioned on"):
        Denoiser(MLP(width=8, num_class_embeds=3), VP(last_time=0.3), "v", start=MixtureStart(2))
    Denoiser(MLP(width=8, num_class_embeds=3), VP(kernel=StudentT()), "v")  # whose start is the same for all classes


def test_a_blind_network_ignores_the_time_stays_so_and_is_stock():
    denoiser = Denoiser(MLP(width=8), RectifiedFlow(), "flow", time_blind=True)
    x = Draws(0).normal((4, 2, 1, 1))
    early, late = (denoiser.network(x, time) for time in (3.0, 900.0))
    assert torch.equal(early, late)
    denoiser.network(x, 5.0).sum().backward()
    (layer,) = first_time_layers(denoiser.net)
    assert layer.weight.grad is None
    assert layer.bias.grad.abs().sum() > 0  # the constant it is told instead is trained
    aware = Denoiser(MLP(width=8), RectifiedFlow(), "flow")
    aware.net.load_state_dict(denoiser.net.state_dict())
    assert torch.equal(aware.network(x, 5.0), early)
    reopened = Denoiser(aware.net, RectifiedFlow(), "flow")
    assert not next(first_time_layers(reopened.net)).weight.requires_grad
    with pytest.raises(ValueError, match="`time_blind`: no time embedding is known in a Still"):
        Denoiser(Still(), RectifiedFlow(), "flow", time_blind=True)


@pytest.mark.parametrize(
    "tuning", [Parts(pattern="time"), LoRA(rank=2, targets=["time_embedding.0", "time_embedding.2"])]
)
def test_a_blind_network_stays_blind_when_what_reads_the_time_is_tuned(tuning, tmp_path):
    denoiser = Denoiser(MLP(width=8), RectifiedFlow(), "flow", time_blind=True)
    denoiser.check(POINTS)
    assert denoiser.save(tmp_path / "folder")
    tuned = Pretrained(str(tmp_path / "folder"), tuning=tuning)
    trained = [parameter for parameter in tuned.net.parameters() if parameter.requires_grad]
    assert trained
    x = Draws(0).normal((4, 2, 1, 1))
    before = tuned.network(x, 3.0)
    for parameter in trained:
        parameter.data += 0.3
    assert not torch.equal(tuned.network(x, 3.0), before)
    assert torch.equal(tuned.network(x, 3.0), tuned.network(x, 900.0))


class Still(torch.nn.Module):
    def forward(self, x, time):
        return x
