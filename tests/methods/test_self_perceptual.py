"""The self-perceptual loss: 0 for an exact prediction, its gradient, the copy, and its controls."""

import pytest
import torch
from method_parts import batch_of, denoiser, evaluated
from torch import nn

from sparring.data import Batch, Draws
from sparring.methods.tuning.self_perceptual import SelfPerceptual
from sparring.process import VP, AdaptiveTimes


class Halves(nn.Module):
    """Predicts half of what it sees, or `exact`ly the images of `batch_of`, plus a number; its middle doubles."""

    def __init__(self, exact=False):
        super().__init__()
        self.mid_block = nn.Conv2d(1, 1, 1, bias=False).double()
        self.mid_block.weight.data.fill_(2.0)
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.exact = exact

    def forward(self, x, time):
        seen = self.mid_block(x) / 4
        return (batch_of().images if self.exact else seen) + self.shift


def method(exact=False, **settings):
    return SelfPerceptual(denoiser(Halves(exact), kind="x0"), **settings)


def loss_of(chosen, name="perceptual"):
    return evaluated(chosen.generator_loss(batch_of(phase="generator"), chosen.rollout(batch_of())))[name]


@pytest.mark.parametrize("through", ["copy", "shuffled", "pixels"])
@pytest.mark.parametrize("noise", ["shared", "predicted"])
def test_an_exact_prediction_has_no_distance(through, noise):
    assert loss_of(method(exact=True, through=through, noise=noise)).item() == pytest.approx(0, abs=1e-9)


def times_of(chosen):
    """t' of the loss, from the same draws."""
    draws = Draws(0, phase="generator")
    return VP().snap(chosen.low + (chosen.high - chosen.low) * draws.uniform((6,)))


def test_the_distance_is_that_of_the_middle_layer_at_the_new_level():
    """Off by d and noised alike: alpha' d apart, doubled by the middle: 4 alpha'^2 d^2, with slope 8 alpha'^2 d."""
    for through, factor in (("copy", 4.0), ("pixels", 1.0)):
        chosen = method(exact=True, through=through, weight=3.0)
        chosen.generator.net.shift.data += 0.1
        loss = loss_of(chosen)
        alpha = VP().alpha(times_of(chosen)).square().mean().item()
        assert loss.item() == pytest.approx(3 * factor * alpha * 0.01, rel=1e-5)
        (slope,) = torch.autograd.grad(loss, chosen.generator.net.shift)
        assert slope.item() == pytest.approx(3 * factor * alpha * 0.2, rel=1e-5)


def test_the_predicted_noise_comes_with_the_predicted_image():
    """x_t = alpha x_0 + sigma eps holds for both pairs, so that eps is off by -alpha d / sigma at the step's level."""
    chosen = method(exact=True, noise="predicted", through="pixels")
    chosen.generator.net.shift.data += 0.1
    rollout = chosen.rollout(batch_of())
    t = rollout.noised.t
    new = times_of(chosen)
    apart = VP().alpha(new) * 0.1 - VP().sigma(new) * VP().alpha(t) * 0.1 / VP().sigma(t)
    assert loss_of(chosen).item() == pytest.approx(apart.square().mean().item(), rel=1e-4)


def test_the_new_levels_lie_between_low_and_high():
    seen = []
    chosen = method(low=0.3, high=0.4)
    chosen.eyes.net.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    loss_of(chosen)
    assert len(seen) == 2  # clean and predicted, at the same levels
    assert torch.equal(*seen)
    assert (seen[0] / 1000 >= 0.299).all()
    assert (seen[0] / 1000 <= 0.401).all()


def test_the_copy_stays_and_only_the_prediction_gets_gradient():
    chosen = method()
    before = {name: tensor.clone() for name, tensor in chosen.eyes.state_dict().items()}
    loss_of(chosen).backward()
    assert all(p.grad is None for p in chosen.eyes.parameters())
    with torch.no_grad():
        chosen.generator.net.mid_block.weight.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in chosen.eyes.state_dict().items())


def test_a_shuffled_copy_has_the_same_numbers_and_leaves_the_model_alone():
    torch.manual_seed(0)
    net = Halves()
    net.mid_block = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    chosen = SelfPerceptual(denoiser(net, kind="x0"), through="shuffled")
    own, theirs = net.mid_block.weight.flatten(), chosen.eyes.net.mid_block.weight.flatten()
    assert torch.equal(own.sort().values, theirs.sort().values)
    assert not torch.equal(own, theirs)


def test_both_terms_have_their_weights():
    chosen = method(weight=0.1, diffusion_weight=2.0)
    chosen.generator.net.shift.data += 0.1
    rollout = chosen.rollout(batch_of())
    plain = (rollout.prediction.x0 - batch_of().images).square().mean()
    assert loss_of(chosen, "diffusion").item() == pytest.approx(2 * plain.item(), rel=1e-9)
    assert method(weight=0.0, diffusion_weight=1.0).eyes is None


def test_what_cannot_be_is_refused_in_one_line():
    for settings in (
        dict(weight=-1.0),
        dict(weight=0.0),
        dict(low=0.0),
        dict(low=0.5, high=0.4),
        dict(layer="nothing"),
    ):
        with pytest.raises(ValueError, match=f"`{list(settings)[0]}="):
            method(**settings)
    with pytest.raises(ValueError, match="AdaptiveTimes"):
        method(times=AdaptiveTimes()).rollout(batch_of())


def test_a_network_without_a_middle_asks_for_a_layer():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.only = nn.Conv2d(1, 1, 1).double()

        def forward(self, x, time):
            return self.only(x)

    with pytest.raises(ValueError, match="neither a middle block nor transformer blocks: name a `layer`"):
        SelfPerceptual(denoiser(Plain()))
    chosen = SelfPerceptual(denoiser(Plain()), layer="only")
    chosen.generator.net.only.bias.data += 0.5
    assert loss_of(chosen) > 0
    batch = Batch(batch_of().images, draws=Draws(0))
    assert chosen.see(batch.images, torch.full((6,), 0.5), batch).shape == (6, 1, 4, 4)
