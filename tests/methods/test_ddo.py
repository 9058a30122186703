"""DDO: the implicit logit, its loss and gradient against a hand derivation, the reference and its generated images."""

import math
from types import SimpleNamespace

import pytest
import torch
from method_parts import ClassNet, LatentNet, Net, batch_of, ddo, denoiser, evaluated, images_of, latent_space, play
from torch import nn

from sparring.backbones import Pixels
from sparring.data import Batch, Digits, Draws, StoredImages
from sparring.generators import Denoiser
from sparring.methods.tuning.ddo import DDO
from sparring.process import EDM, SNR, VP, LogNormal, RectifiedFlow
from sparring.training.state import changing_tensors


def test_the_logit_is_exactly_zero_at_the_start():
    """Also with dropout in the network, and in training mode."""
    method = ddo(denoiser(Net(dropout=0.5)), weighting=SNR(), times=LogNormal())
    method.train()
    ratio = method.rollout(batch_of())
    assert torch.equal(ratio.real, torch.zeros(6).double())
    assert torch.equal(ratio.fake, torch.zeros(6).double())
    assert ratio.real.requires_grad


@pytest.mark.parametrize("fake_weight", [1.0, 0.5, 3.0])
def test_the_loss_starts_at_log_2_for_each_side(fake_weight):
    method = ddo(denoiser(), fake_weight=fake_weight)
    losses = evaluated(method.generator_loss(batch_of(), method.rollout(batch_of())))
    assert losses["real"].item() == pytest.approx(math.log(2), abs=1e-14)
    assert losses["fake"].item() == pytest.approx(fake_weight * math.log(2), abs=1e-14)


class OneParameter(nn.Module):
    """The exact denoiser of N(theta, s^2) in one dimension, as images [B, 1, 1, 1]: theta + k (x_t - alpha theta)."""

    def __init__(self, process, theta, s=1.0):
        super().__init__()
        self.process, self.theta, self.variance = process, nn.Parameter(torch.tensor(theta, dtype=torch.float64)), s**2

    def forward(self, x, time):
        t = self.process.t_from_model_time(time.double())[:, None, None, None]
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        k = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.theta + k * (x - alpha * self.theta)


def gaussian_ddo(reals, fakes, theta, **settings):
    """DDO whose reference is N(0, 1) and whose model is N(theta, 1)."""
    method = DDO(Denoiser(OneParameter(VP(), 0.0), VP(), "x0"), num_fakes=len(fakes), **settings)
    method.fakes.data = fakes.view(-1, 1, 1, 1)
    method.generator.net.theta.data.fill_(theta)
    return method, Batch(reals.view(-1, 1, 1, 1), None, Draws(0, phase="rollout"))


def residuals(x, eps, t, theta):
    """u and theta-residual r of the error (D_theta(x_t) - x)^2 = r^2, with d r / d theta = u.

    D - x = theta + k (alpha x + sigma eps - alpha theta) - x with k = alpha / (alpha^2 + sigma^2), and 1 - alpha k =
    sigma^2 / (alpha^2 + sigma^2) =: u, so r = u (theta - x) + k sigma eps.
    """
    alpha, sigma = VP().alpha(t.double()), VP().sigma(t.double())
    u, k = sigma**2 / (alpha**2 + sigma**2), alpha / (alpha**2 + sigma**2)
    return u, u * (theta - x) + k * sigma * eps


@pytest.mark.parametrize("theta", [0.0, 0.4])
def test_the_gradient_is_the_hand_derivation_for_a_one_parameter_gaussian(theta):
    """Logit Delta = beta (r_0^2 - r_theta^2), so d Delta / d theta = -2 beta u r_theta, and

    dL/d theta = 2 beta ( mean_real[ s(-Delta) u r ] - f mean_fake[ s(Delta) u r ] ),   s the sigmoid, f fake_weight.
    """
    generator = torch.Generator().manual_seed(0)
    reals, fakes = torch.randn(32, generator=generator).double() + 1, torch.randn(20, generator=generator).double()
    method, batch = gaussian_ddo(reals, fakes, theta, beta=3.0, fake_weight=0.7)
    losses = method.generator_loss(batch, method.rollout(batch))
    (losses["real"] + losses["fake"]).backward()
    draws = Draws(0, phase="rollout")  # the same numbers in the same order
    index = draws.integers(20, (32,))
    expected = 0.0
    for x, sign, weight in ((reals, -1, 1.0), (fakes[index], 1, -0.7)):
        t = VP().time_from_uniform(draws.uniform((32,)))
        eps = draws.normal((32, 1, 1, 1)).double().flatten()
        u, r_0 = residuals(x, eps, t, 0.0)
        _, r = residuals(x, eps, t, theta)
        delta = 3.0 * (r_0**2 - r**2)
        expected += weight * (torch.sigmoid(sign * delta) * u * r).mean().item()
    assert method.generator.net.theta.grad.item() == pytest.approx(2 * 3.0 * expected, rel=1e-6)  # t is float32


def test_the_expected_gradient_at_the_start_is_the_gap_of_the_means():
    """At theta = 0, f = 1: both sigmoids are 1/2 and eps has mean 0, so dL/d theta = beta E[u^2] (E fake - E real).

    It vanishes where the fakes are distributed as the reals. 4 standard errors of 60 000 samples, by the spread of the
    per-sample terms.
    """
    n = 60_000
    generator = torch.Generator().manual_seed(0)
    reals, same, shifted = torch.randn(3, n, generator=generator).double() + torch.tensor([[1.0], [1.0], [0.0]])
    for fakes, gap in ((same, 0.0), (shifted, -1.0)):
        method, batch = gaussian_ddo(reals, fakes, 0.0, beta=1.0)
        losses = method.generator_loss(batch, method.rollout(batch))
        (losses["real"] + losses["fake"]).backward()
        t = (torch.arange(1000, dtype=torch.float64) + 1) / 1000
        u = VP().sigma(t) ** 2
        error = 4 * math.sqrt(2 * 2.0 / n)  # u r has a variance below 2
        assert method.generator.net.theta.grad.item() == pytest.approx(gap * u.square().mean().item(), abs=error)


@pytest.mark.parametrize(
    ("process", "kind"), [(VP(), "eps"), (VP(), "v"), (VP(), "x0"), (EDM(), "edm"), (RectifiedFlow(), "flow")]
)
def test_the_logit_follows_beta_and_the_weighting(process, kind):
    """Delta = beta w(log SNR) (|x_ref - x|^2 - |x_theta - x|^2), whatever the network predicts."""
    method = ddo(denoiser(process=process, kind=kind), beta=2.0, weighting=SNR())
    method.generator.net.last.bias.data += 0.3
    ratio = method.rollout(batch_of())
    draws = Draws(0, phase="rollout")
    draws.integers(12, (6,))
    t, eps = process.default_times()(process, draws, 6), draws.normal((6, 1, 4, 4)).double()
    x_0 = batch_of().images
    x_t = process.add_noise(x_0, eps, t)
    errors = [(d(x_t, t).x0 - x_0).square().mean((1, 2, 3)) for d in (method.reference, method.generator)]
    expected = 2.0 * process.log_snr(t).exp() * (errors[0] - errors[1])
    torch.testing.assert_close(ratio.real, expected, rtol=1e-5, atol=1e-7)


def test_the_reference_and_its_images_never_change():
    method = ddo(denoiser())
    before = {k: v.clone() for k, v in method.state_dict().items() if not k.startswith("generator.")}
    images = batch_of().images
    play(method, [(images, None)] * 5, lr=1e-2)
    after = method.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
    assert not torch.equal(after["generator.net.last.bias"], after["reference.net.last.bias"])
    assert (method.rollout(batch_of()).real != 0).all()


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_prepare_samples_the_reference_and_does_not_depend_on_the_global_seed(scheduler):
    made = []
    for seed in (1, 2):
        method = DDO(denoiser(), num_fakes=5, num_steps=4, scheduler=scheduler)
        torch.manual_seed(seed)
        method.prepare(Digits("validation"))
        made.append(method.fakes)
    assert torch.equal(*made)
    assert made[0].shape == (5, 1, 8, 8)
    assert made[0].abs().max() <= 1
    if scheduler == "ddim":
        latents = Draws(0, phase="fakes").normal((5, 1, 8, 8))
        expected = method.reference.generate(VP().scheduler("ddim", "v"), 4, latents=latents)
        assert torch.equal(made[0], expected.clamp(-1, 1))
        assert method.generator.images_seen == 0


def test_the_generated_images_follow_the_seed_of_the_run():
    """Latents and, of a sampler that adds noise, its noise."""
    data, shape = StoredImages(torch.zeros(5, 1, 4, 4)), (5, 1, 4, 4)
    for scheduler in ("ddim", "ddpm"):
        method = DDO(denoiser(), num_fakes=5, num_steps=4, scheduler=scheduler)
        made = []
        for seed in (0, 1):
            method.prepare(data, seed)
            made.append(method.fakes.clone())
            expected = method.reference.generate(
                VP().scheduler(scheduler, "v"),
                4,
                latents=Draws(seed, phase="fakes").normal(shape),
                generator=torch.Generator().manual_seed(seed),
            )
            assert torch.equal(made[-1], expected.clamp(-1, 1))
        assert not torch.equal(*made)


@pytest.mark.parametrize(
    ("process", "kind", "scheduler"),
    [
        (VP(), "v", "dpm"),
        (VP(), "v", "heun"),
        (VP(), "v", "unipc"),
        (EDM(), "edm", "dpm"),
        (EDM(), "edm", "heun"),
        (RectifiedFlow(), "flow", "heun"),
    ],
)
def test_any_sampler_of_any_process_makes_the_fakes(process, kind, scheduler):
    method = DDO(denoiser(process=process, kind=kind), num_fakes=5, num_steps=4, scheduler=scheduler)
    method.prepare(StoredImages(torch.zeros(5, 1, 4, 4)))
    latents = Draws(0, phase="fakes").normal((5, 1, 4, 4))
    expected = method.reference.generate(process.scheduler(scheduler, kind), 4, latents=latents)
    assert torch.equal(method.fakes, expected.clamp(-1, 1))


def test_latents_that_the_reference_makes_are_not_clamped_as_pixels_are():
    method = DDO(Denoiser(LatentNet(), VP(), "v", latent_space()), num_fakes=5, num_steps=4)
    method.prepare(StoredImages(torch.zeros(5, 1, 8, 8)))
    latents = Draws(0, phase="fakes").normal((5, 3, 4, 4))
    assert torch.equal(method.fakes, method.reference.generate(VP().scheduler("ddim", "v"), 4, latents=latents))
    assert method.fakes.abs().max() > 1


def test_prepare_gives_a_conditional_network_classes_of_the_data():
    data = StoredImages(torch.zeros(40, 1, 4, 4), torch.tensor([3, 7] * 20), num_classes=10)
    net = ClassNet()
    method = DDO(denoiser(net), num_fakes=30, num_steps=4)
    method.prepare(data)
    assert sorted(method.fake_labels.unique().tolist()) == [3, 7]
    assert all(torch.equal(labels, method.fake_labels) for labels in method.reference.net.labels)
    with pytest.raises(ValueError, match="class-conditional"):
        method.prepare(StoredImages(torch.zeros(40, 1, 4, 4)))


def test_a_generated_image_comes_with_its_own_label():
    """In the rollout's calls first the reals, then the fakes."""
    net = ClassNet()
    method = ddo(denoiser(net))
    method.rollout(batch_of(labels=True))
    own = method.fake_labels[Draws(0, phase="rollout").integers(12, (6,))]
    for network in (method.generator.net, method.reference.net):
        assert [labels.tolist() for labels in network.labels] == [list(range(6)), own.tolist()]


def test_the_model_is_trained_in_eval_mode_as_the_reference_is():
    assert not ddo(denoiser(Net(dropout=0.5))).train().generator.training


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="num_fakes=0"):
        DDO(denoiser(), num_fakes=0)
    with pytest.raises(ValueError, match="'lcm' does not exist for EDM"):
        DDO(denoiser(process=EDM(), kind="edm"), scheduler="lcm")
    with pytest.raises(ValueError, match="`beta=0` must be above 0: without the ratio nothing would be learned"):
        DDO(denoiser(), beta=0)
    with pytest.raises(ValueError, match="num_steps=101"):
        DDO(denoiser(), num_steps=101)
    with pytest.raises(ValueError, match="prepare"):
        DDO(denoiser()).rollout(batch_of())


def test_the_fakes_follow_the_seed_of_the_run():
    """Latents, labels and the noise of a stochastic sampler; seed 0 is what a call without a seed gives."""
    data = StoredImages(torch.zeros(40, 1, 4, 4), torch.arange(40) % 8, num_classes=10)
    made = {}
    for seed in (0, 1):
        method = DDO(denoiser(ClassNet()), num_fakes=8, num_steps=3, scheduler="ddpm")
        method.prepare(data, seed)
        made[seed] = (method.fakes.clone(), method.fake_labels.clone())
    plain = DDO(denoiser(ClassNet()), num_fakes=8, num_steps=3, scheduler="ddpm")
    plain.prepare(data)
    assert torch.equal(plain.fakes, made[0][0])
    assert not torch.allclose(made[0][0], made[1][0])
    assert not torch.equal(made[0][1], made[1][1])


def test_fakes_are_clamped_in_pixel_space_only(monkeypatch):
    """Latents have no bounds: clamped they would be other images."""
    monkeypatch.setattr(Denoiser, "generate", lambda self, *_, latents, **__: 3 * torch.ones_like(latents))
    method = DDO(denoiser(), num_fakes=4)
    method.prepare(Digits("validation"))
    assert torch.equal(method.fakes, torch.ones(4, 1, 8, 8))
    method = DDO(denoiser(), num_fakes=4)
    method.generator.space = method.reference.space = SimpleNamespace(
        factor=2, shape=lambda image_shape, patch: (1, 4, 4)
    )
    method.prepare(Digits("validation"))
    assert torch.equal(method.fakes, 3 * torch.ones(4, 1, 4, 4))


# -- rounds ------------------------------------------------------------------------------------------------------------

DIGITS = StoredImages(images_of(40).float(), torch.tensor([3, 7] * 20), num_classes=10)


def in_rounds(net=None, steps=4, **settings):
    """DDO in two rounds that is prepared, with a model that has moved and is in the last step of the first round."""
    method = DDO(denoiser(net), **{"num_fakes": 5, "num_steps": 3, "rounds": 2} | settings)
    method.steps = steps
    method.prepare(DIGITS, seed=3)
    method.generator.net.last.bias.data += 0.2
    method.step = steps // method.rounds - 1
    return method


def generated(method, network, number):
    latents = Draws(3, phase="fakes", step=number).normal((5, 1, 4, 4))
    return network.generate(VP().scheduler("ddim", "v"), 3, latents=latents).clamp(-1, 1)


def test_a_round_ends_with_the_model_as_the_reference_and_fakes_of_its_own():
    method = in_rounds()
    first = method.fakes.clone()
    torch.testing.assert_close(first, generated(method, method.reference.module, 0))
    method.step -= 1
    method.after_step()
    assert torch.equal(method.fakes, first)
    assert method.accepted == 0
    method.step += 1
    assert (method.rollout(batch_of()).real != 0).all()
    method.after_step()
    assert method.accepted == 1
    torch.testing.assert_close(method.fakes, generated(method, method.generator, 1))
    assert not torch.allclose(method.fakes, first, atol=0.05)
    assert (method.rollout(batch_of()).real == 0).all()  # the model is the reference
    assert not method.jumped
    fakes = method.fakes.clone()
    method.step = 3
    method.after_step()  # the last round is followed by none
    assert torch.equal(method.fakes, fakes)
    assert method.accepted == 1


def test_the_average_becomes_the_reference_and_the_next_round_starts_from_it():
    """From bias b the average is at b + 0.25 * 0.2 after one step with a decay of 0.75."""
    method = in_rounds(average=0.75, steps=2)
    start = method.reference.module.net.last.bias.item()
    method.after_step()
    for network in (method.reference.module, method.generator):
        assert network.net.last.bias.item() == pytest.approx(start + 0.05, abs=1e-12)
    assert method.jumped
    assert (method.rollout(batch_of()).real == 0).all()


@pytest.mark.parametrize("better", [True, False])
def test_the_self_play_ends_when_samples_come_no_nearer(better, monkeypatch):
    method = in_rounds(validate=True)
    assert method.jumps
    assert not in_rounds().jumps
    before = method.reference.module.net.last.bias.clone()
    fakes = method.fakes.clone()
    distance = float(method.distance)
    monkeypatch.setattr(DDO, "distance_to_held_out", lambda self, fakes: distance - 0.1 * better)
    method.after_step()
    if better:
        assert method.accepted == 1
        assert float(method.distance) == pytest.approx(distance - 0.1)
        assert not method.over
        return
    assert method.over
    assert method.jumped
    assert torch.equal(method.fakes, fakes)
    for network in (method.generator, method.reference.module):
        assert torch.equal(network.net.last.bias, before)
    assert method.generator_loss(batch_of(), method.rollout(batch_of())) == {}
    method.step = 3
    method.after_step()
    assert method.measures(method.generator, DIGITS, Draws(0)) == {"rounds": 0, "energy distance": distance}


def test_the_distance_is_the_energy_distance():
    """Of two points a apart 2 a; images of 16 pixels of 0.1, and of 0.6: 2 * 4 * 0.5; doubled, twice that."""

    class Twice(Pixels):
        def features(self, images):
            return 2 * super().features(images)

    for features, expected in ((None, 4.0), (Twice(), 8.0)):
        method = DDO(denoiser(), num_fakes=5, validate=True, features=features)
        method.size_for(StoredImages(torch.full((7, 1, 4, 4), 0.1)))
        assert method.distance_to_held_out(torch.full((5, 1, 4, 4), 0.6)) == pytest.approx(expected, rel=1e-6)


def test_classes_stay_with_the_fakes_from_round_to_round():
    net = ClassNet()
    method = in_rounds(net)
    labels = method.fake_labels.clone()
    assert sorted(labels.unique().tolist()) == [3, 7]
    net.labels.clear()
    method.after_step()
    assert all(torch.equal(seen, labels) for seen in net.labels)
    assert torch.equal(method.fake_labels, labels)


def test_rounds_bring_the_model_to_the_data():
    """From N(0, 0.1^2) to N(0.3, 0.1^2): with each round the fakes come nearer, and at the data the gradient is 0.

    With a reference that stays, the fakes stay behind and push the model on past the data.
    """
    ends = {}
    reals = 0.3 + 0.1 * torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    for rounds in (1, 20):
        net = OneParameter(VP(), 0.0, s=0.1)
        method = DDO(Denoiser(net, VP(), "x0"), num_fakes=256, beta=1.0, rounds=rounds)
        method.steps = 200
        method.prepare(StoredImages(reals.float()))
        optimizer = torch.optim.SGD([net.theta], lr=0.05)
        for method.step in range(200):
            batch = Batch(reals, None, Draws(0, step=method.step, phase="rollout"))
            optimizer.zero_grad()
            torch.stack(list(method.generator_loss(batch, method.rollout(batch)).values())).sum().backward()
            optimizer.step()
            method.after_step()
        ends[rounds] = net.theta.item() - reals.mean().item()
    assert abs(ends[20]) < 0.03, ends
    assert ends[1] > 0.3, ends


def test_one_round_keeps_what_it_kept():
    """Nothing that moves, so that its checkpoints hold the model only."""
    assert {name for name, _ in DDO(denoiser()).named_buffers()} == set()
    assert changing_tensors(DDO(denoiser())).keys() == {f"generator.net.{n}" for n, _ in Net().named_parameters()}


def test_rounds_that_cannot_be_are_refused():
    for settings in (dict(rounds=0), dict(rounds=2, average=1.0), dict(average=0.5), dict(features=Pixels())):
        with pytest.raises(ValueError, match=f"`{list(settings)[-1]}"):
            DDO(denoiser(), **settings)
    method = DDO(denoiser(), rounds=3)
    method.steps = 2
    with pytest.raises(ValueError, match="`rounds=3`: the run has 2 steps"):
        method.prepare(DIGITS)
