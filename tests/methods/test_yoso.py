"""YOSO: the target at both ends of the cooperation, the weights of its terms by hand, what it refuses."""

import math

import pytest
import torch
from diffusers import UNet2DModel
from score_parts import Gaussian, flow
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.generators.middle import middle_map
from sparring.methods.distillation.yoso import YOSO
from sparring.networks import MLP
from sparring.process import EDM, VP, Times


class At(Times):
    """One time for all rows."""

    def __init__(self, t):
        self.t = t

    def __call__(self, process, draws, n):
        return torch.full((n,), self.t)


def yoso(at=0.5, **settings):
    torch.manual_seed(0)
    method = YOSO(Denoiser(MLP(width=16, depth=1), VP(schedule="cosine"), "v"), times=At(at), **settings).double()
    torch.manual_seed(1)
    for parameter in method.generator.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, dtype=torch.float64)
    return method


def plane(phase="rollout", n=6):
    real = torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(real, draws=Draws(0, phase=phase))


@pytest.mark.parametrize("kind", ["v", "eps"])
def test_over_the_whole_way_the_target_is_the_data(kind):
    """At s = 0 a prediction of v or eps is the image itself."""
    method = yoso(cooperation=1.0)
    method.generator.prediction = kind
    batch = plane()
    rollout = method.rollout(batch)
    torch.testing.assert_close(rollout.views.real[0], batch.x_0)
    assert not torch.allclose(rollout.fake, batch.x_0, atol=1e-3)


def test_over_no_way_real_and_fake_are_the_same():
    """Then the discriminator's best logit is 0, and the student rests."""
    method = yoso(cooperation=1e-9)
    views = method.rollout(plane()).views
    torch.testing.assert_close(views.real[0], views.fake[0].detach())
    assert not views.real[0].requires_grad
    assert views.fake[0].requires_grad


def test_the_target_is_the_students_own_prediction_at_lower_noise_from_the_same_noise():
    method = yoso(at=0.75)
    batch = plane()
    rollout = method.rollout(batch)
    process, s = method.generator.process, torch.full((6,), 0.5)
    x_s = process.add_noise(batch.x_0, rollout.noised.eps, s)
    torch.testing.assert_close(rollout.views.real[0], method.generator(x_s, s).x0)
    assert torch.equal(rollout.views.given.t, rollout.noised.t)  # what the discriminator is told


def test_the_terms_of_the_student_have_the_weights_of_the_sheet():
    """Of the cosine schedule: SNR and sigma / alpha are cot^2 and tan of about t pi / 2."""
    at = 0.5
    method = yoso(at, adversarial_weight=0.25, consistency_weight=2.0, data_weight=0.5)
    rollout = method.rollout(plane())
    losses = method.generator_loss(plane("generator"), rollout)
    error = (rollout.fake - rollout.noised.x_0).square().flatten(1).mean(1)
    tangent = [math.tan((t + 0.008) / 1.008 * math.pi / 2) for t in (at, at - 0.025)]
    torch.testing.assert_close(losses["data"], (0.5 * tangent[0] ** -2 * error).mean(), rtol=2e-2, atol=0)
    target, u = method.earlier(plane(), rollout.noised, 0.025)
    assert u.tolist() == pytest.approx([0.475] * 6)
    clean = torch.full((6,), 1e-3)  # the cleanest of 1000 levels, which the network calls 0
    features = [middle_map(method.start, x, clean) for x in (rollout.fake, target)]
    weight = min(1 / (tangent[0] - tangent[1]), 5)
    expected = 2.0 * weight * (features[0] - features[1]).square().mean()
    torch.testing.assert_close(losses["consistency"], expected, rtol=2e-2, atol=0)
    logits = method.head.logits(rollout.views.fake, rollout.views.given)
    torch.testing.assert_close(losses["adversarial"], 0.25 * softplus(-logits).mean())
    real = method.head.logits(rollout.views.real, rollout.views.given)
    theirs = method.discriminator_loss(plane("discriminator"), rollout)["adversarial"]
    torch.testing.assert_close(theirs, softplus(-real).mean() + softplus(logits).mean())


@pytest.mark.parametrize(("at", "snr", "weight"), [(0.05, 5.0, 5.0), (1.0, 0.0, 0.0)])
def test_the_weights_end_at_5_and_at_pure_noise_at_0(at, snr, weight):
    method = yoso(at, adversarial_weight=0.0, consistency_weight=1.0, data_weight=1.0)
    rollout = method.rollout(plane())
    losses = method.generator_loss(plane("generator"), rollout)
    error = (rollout.fake - rollout.noised.x_0).square().flatten(1).mean(1)
    torch.testing.assert_close(losses["data"], snr * error.mean(), rtol=1e-6, atol=1e-6)
    target = method.earlier(plane(), rollout.noised, 0.025)[0]
    features = [middle_map(method.start, x, torch.full((6,), 1e-3)) for x in (rollout.fake, target)]
    expected = weight * (features[0] - features[1]).square().mean()
    torch.testing.assert_close(losses["consistency"], expected, rtol=1e-6, atol=1e-4)


def test_the_noisiest_level_at_which_it_is_sampled_is_trained_in_every_process():
    """EDM's own times have a noise above 20 in one image of 5000."""
    method = YOSO(Denoiser(MLP(width=8), EDM(), "edm"))
    rollout = method.rollout(Batch(torch.zeros(2000, 2, 1, 1), draws=Draws(0)))
    sigma = method.generator.process.sigma(rollout.noised.t)
    assert (sigma > 20).float().mean().item() == pytest.approx(0.23, abs=0.05)


def test_only_the_half_of_the_copy_that_is_read_is_trained():
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8))
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4)
    method = YOSO(Denoiser(UNet2DModel(**sizes, **blocks, add_attention=False), VP(), "v"))
    batch = Batch(torch.rand(4, 1, 8, 8) * 2 - 1, draws=Draws(0))
    method.discriminator_loss(batch, method.rollout(batch))["adversarial"].backward()
    trained = {name for name, p in method.discriminator.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in method.discriminator.named_parameters() if p.grad is not None}
    assert any("mid_block" in name for name in trained)
    assert not any("up_blocks" in name for name in trained)
    assert all(p.requires_grad for p in method.generator.parameters())


def test_what_is_switched_off_is_gone():
    method = yoso(adversarial_weight=0.0)
    assert method.discriminator is None
    assert set(method.generator_loss(plane("generator"), method.rollout(plane()))) == {"consistency", "data"}
    method = yoso(consistency_weight=0.0, data_weight=0.0)
    assert set(method.generator_loss(plane("generator"), method.rollout(plane()))) == {"adversarial"}


def test_what_it_refuses():
    for settings, message in [
        (dict(cooperation=0.0), "cooperation=0"),
        (dict(neighbour=1.5), "neighbour=1.5"),
        (dict(data_weight=-1.0), "data_weight=-1"),
        (dict(adversarial_weight=0.0, consistency_weight=0.0, data_weight=0.0), "nothing would be learned"),
    ]:
        with pytest.raises(ValueError, match=message):
            yoso(**settings)
    with pytest.raises(ValueError, match="prediction=x0"):
        YOSO(Denoiser(MLP(width=16), VP(), "x0"))
    with pytest.raises(ValueError, match="latent z"):
        YOSO(Denoiser(MLP(width=16), VP(), "v", latent_dim=2))
    with pytest.raises(ValueError, match="Gaussian has neither a middle"):
        YOSO(flow(Gaussian()))
