"""Every method learns: on four Gaussians in the plane, within a second or two, a stated quantity must improve.

One baseline is trained by plain diffusion and tuned by each method; "plain" is as many more steps of plain training.
Thresholds leave room for other seeds and machines: next to each stands what came out over seeds 0, 1, 2 where it was
written. "Distance" is the sliced Wasserstein distance of 2000 samples to 2000 fresh points; 0.04 between two sets of
fresh points, 0.52 for the sampler's noise.
"""

from copy import deepcopy

import pytest
import torch
from method_parts import play
from torch import nn

from sparring.backbones import SmallConvNet
from sparring.data import Batch, Draws, GaussianMixture
from sparring.discriminators import (
    ProjectedDiscriminator,
    SiameseDiscriminator,
    StructureDiscriminator,
    generator_loss,
)
from sparring.generators import Denoiser
from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.distillation.add import ADD
from sparring.methods.tuning.adt import ADT
from sparring.methods.tuning.ddo import DDO
from sparring.methods.tuning.sadm import SADM
from sparring.metrics.toys import good_share, sliced_wasserstein
from sparring.process import VP, LogNormal

SEED = 0
PROCESS = VP()
TIMES = LogNormal(mean=-0.8, std=1.2)
DATA = GaussianMixture(modes=4, radius=0.7, std=0.1)
FRESH = DATA.sample(2000, seed=1)


class Plane(nn.Module):
    """A perceptron on a point and on the log-SNR of its time."""

    def __init__(self, width=64):
        super().__init__()
        torch.manual_seed(SEED)
        sizes = [2 + 8, width, width, width]
        layers = [part for i in range(3) for part in (nn.Linear(sizes[i], sizes[i + 1]), nn.SiLU())]
        self.net = nn.Sequential(*layers, nn.Linear(width, 2))

    def forward(self, x, time):
        level = PROCESS.log_snr(PROCESS.t_from_model_time(time))[:, None] / 4 * torch.tensor([0.5, 1.0, 2.0, 4.0])
        return self.net(torch.cat([x.flatten(1), level.sin(), level.cos()], 1)).view_as(x)


def batches(num_steps, size, seed):
    order = torch.Generator().manual_seed(1000 * SEED + seed)
    images = DATA.images()
    return [(images[torch.randint(len(images), (size,), generator=order)], None) for _ in range(num_steps)]


def tuned(method, num_steps, lr=1e-3):
    """The generator after some steps, averaged over the second half of them."""
    method.prepare(DATA)
    play(method, batches(num_steps, 128, seed=1), lr=lr, discriminator_lr=2e-3, mean_from=num_steps // 2)
    return method.generator


def samples(denoiser, num_steps, scheduler="ddim"):
    latents = torch.randn(2000, 2, 1, 1, generator=torch.Generator().manual_seed(5))
    noise = torch.Generator().manual_seed(6)
    sampler = PROCESS.scheduler(scheduler, "v")
    return denoiser.generate(sampler, num_steps, latents=latents, generator=noise, batch_size=2000)


def distance(denoiser, num_steps, scheduler="ddim"):
    return sliced_wasserstein(samples(denoiser, num_steps, scheduler), FRESH)


def backbone():
    return SmallConvNet(in_channels=2, widths=(16, 16), pretrain="none", seed=SEED)


@pytest.fixture(scope="module")
def baseline():
    method = Diffusion(Denoiser(Plane(), PROCESS, "v"), times=TIMES)
    play(method, batches(400, 256, seed=0), lr=5e-3, mean_from=300)
    return method.generator


@pytest.fixture(scope="module")
def plain(baseline):
    return tuned(Diffusion(deepcopy(baseline), times=TIMES), 100)


def test_plain_diffusion_learns_a_mixture(baseline):
    """Distance at 20 steps of DPM-Solver++, and the share of points within 3 deviations of a mode."""
    assert distance(baseline, 20, "dpm") < 0.12  # 0.06, 0.08, 0.06
    assert good_share(samples(baseline, 20, "dpm"), DATA.centres, 0.3) > 0.65  # 0.82, 0.79, 0.78


def structural_distance(denoiser):
    """S of held-out points, seen by an encoder that nobody trained."""
    method = SADM(denoiser, structure(), mode="frozen", times=TIMES)
    values = []
    with torch.no_grad():
        for i in range(4):
            batch = Batch(DATA.sample(512, seed=7), None, Draws(i, phase="held out"))
            rollout = method.rollout(batch)
            values.append(generator_loss(method.opponent, rollout.views, method.objective))
    return torch.stack(values).mean().item()


def structure():
    torch.manual_seed(SEED + 3)
    return StructureDiscriminator(encoder=nn.Sequential(nn.Flatten(), nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 8)))


@pytest.mark.parametrize("mode", ["frozen", "adversarial"])
def test_sadm_brings_the_structure_of_predictions_closer_to_that_of_the_data(baseline, plain, mode):
    """Held-out structural distance S, same draws for both, against plain training.

    The effect is small. The adversarial encoder also learns to see more than the untrained one, up to its ceiling.
    """
    method = SADM(deepcopy(baseline), structure(), mode=mode, structure_weight=1.0, times=TIMES)
    generator = tuned(method, 100)
    assert structural_distance(generator) < 0.99 * structural_distance(plain)  # 0.971 to 0.982, both modes
    if mode == "adversarial":
        assert method.statistics["structure"] > 1.3 * structural_distance(plain)  # 3.6, 4.3, 1.6 times
        assert method.statistics["structure"] < 0.6  # the ceiling is 0.5


def test_adt_repairs_the_sampler_it_simulates(baseline, plain):
    """Distance at five DDIM steps, the simulated sampler, against plain training."""
    discriminator = SiameseDiscriminator(backbone=backbone(), width=16, augment="")
    settings = dict(num_steps=5, num_grad_steps=1, adversarial_weight=0.2, warmup_steps=0, ramp_steps=0)
    generator = tuned(ADT(deepcopy(baseline), discriminator, times=TIMES, **settings), 100)
    assert distance(generator, 5) < 0.8 * distance(plain, 5)  # 0.61, 0.58, 0.50


def test_ddo_repairs_the_sampler_that_made_its_fakes(baseline, plain):
    """Distance at five DDIM steps against plain training."""
    generator = tuned(DDO(deepcopy(baseline), beta=2.0, num_fakes=1000, num_steps=5, times=TIMES), 100)
    assert distance(generator, 5) < 0.75 * distance(plain, 5)  # 0.46, 0.52, 0.46


def test_add_makes_a_one_step_student_and_the_adversary_does_the_work(baseline):
    """Share of one-step samples within 3 deviations of a mode; distillation alone leaves a student of means."""
    shares = {}
    for weight in (0.5, 0.0):
        torch.manual_seed(SEED)
        discriminator = ProjectedDiscriminator(backbone=backbone(), width=16, augment="")
        settings = dict(num_steps=1, adversarial_weight=weight, distillation_weight=1.0, times=TIMES)
        student = tuned(ADD(deepcopy(baseline), discriminator, **settings), 100, lr=2e-3)
        shares[weight] = good_share(samples(student, 1, "lcm"), DATA.centres, 0.3)
        if weight > 0:
            assert distance(student, 1, "lcm") < 0.7 * distance(baseline, 1, "lcm")  # 0.22, 0.45, 0.16
    assert shares[0.5] > 0.3  # 0.50, 0.54, 0.59
    assert shares[0.0] < 0.1  # 0.00, 0.00, 0.00
