"""AFM: costs of monotone and mirrored maps, the normalised gradient, penalties and steps by hand, what it refuses."""

import pytest
import torch
from method_parts import batch_of, denoiser, siamese
from torch import nn

from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import Given, PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods.gan.afm import AFM
from sparring.objectives import ApproximateR1, ApproximateR2, Centring
from sparring.process import EDM, VP, RectifiedFlow, StudentT
from sparring.rollout.flow_map import flow_map, sampler_levels


class Affine(nn.Module):
    """A flow's velocity at t = 1 that takes noise x to a x + b in one call."""

    def __init__(self, a, b):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x, time):
        return x - (self.a * x + self.b)


class Scaled(nn.Module):
    """Logits c x + d x^2."""

    def __init__(self, c=1.0, d=0.0):
        super().__init__()
        self.c, self.d = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (c, d))

    def forward(self, x):
        return (self.c * x + self.d * x**2).flatten(1)


def line(a=1.0, b=0.0, c=1.0, d=0.0, **settings):
    discriminator = PlainDiscriminator(net=Scaled(c, d))
    method = AFM(Denoiser(Affine(a, b), RectifiedFlow(), "flow"), discriminator, **settings)
    method.steps = 10
    return method


def points(n, phase="rollout", step=0):
    real = 0.5 + 0.7 * torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(real, draws=Draws(0, phase=phase, step=step))


def test_the_monotone_map_of_two_gaussians_costs_least():
    """N(0, 1) to N(m, s^2): m^2 + (1 - s)^2 for x -> s x + m and m^2 + (1 + s)^2 mirrored, 0.34 and 3.14."""
    for slope, expected in ((0.7, 0.34), (-0.7, 3.14)):
        method = line(slope, 0.5, transport=0.2)
        batch = points(100_000)
        loss = method.generator_loss(batch, method.rollout(batch))["transport"]
        assert loss.item() / 0.2 == pytest.approx(expected, rel=0.02)


def test_the_weight_of_the_transport_falls_along_half_a_cosine():
    method, batch = line(0.7, transport=0.2, transport_end=0.1), points(100)
    rollout, losses = method.rollout(batch), []
    for method.step in (0, 5, 10):
        losses.append(method.generator_loss(batch, rollout)["transport"].item())
    assert [loss / losses[0] for loss in losses] == pytest.approx([1, 0.75, 0.5])
    none = line(transport=0.0, transport_end=0.0)
    assert "transport" not in none.generator_loss(batch, none.rollout(batch))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_gradient_at_the_fakes_has_the_norm_one_over_root_n_whatever_the_discriminator(scale):
    method, batch = line(c=scale * 0.1, transport=0.0, transport_end=0.0), points(16)
    rollout = method.rollout(batch)
    loss = method.generator_loss(batch, rollout)["adversarial"]
    (gradient,) = torch.autograd.grad(loss, rollout.step.x_t_fake, retain_graph=True)
    assert gradient.norm().item() == pytest.approx(16**-0.5, rel=1e-4 if scale > 0.1 else 1e-2)
    plain = line(c=scale * 0.1, transport=0.0, transport_end=0.0, normalise=False)
    raw = plain.generator_loss(batch, rollout)["adversarial"]
    torch.testing.assert_close(loss, raw)  # the value is the loss
    (other,) = torch.autograd.grad(raw, rollout.step.x_t_fake)
    torch.testing.assert_close(gradient / gradient.norm(), other / other.norm())
    (slope,) = torch.autograd.grad(loss, method.generator.net.b)
    assert slope < 0  # up, where D is higher


def test_the_mean_of_the_norms_moves_once_a_step():
    """square <- 0.9 square + 0.1 n |g|^2, the first one whole; the current gradient counts in its own step, too."""
    method, norms = line(transport=0.0, transport_end=0.0), []
    for step, scale in enumerate((1.0, 3.0, 2.0)):
        method.discriminator.net.c.data.fill_(scale)
        method.step = step
        batch = points(8, step=step)
        rollout = method.rollout(batch)
        method.discriminator_loss(batch, rollout)
        loss = method.generator_loss(batch, rollout)["adversarial"]
        before = method.square.clone()
        raw = torch.autograd.grad(
            line(c=scale, normalise=False).generator_loss(batch, rollout)["adversarial"],
            rollout.step.x_t_fake,
            retain_graph=True,
        )[0]
        n_square = 8 * raw.square().sum()
        expected = n_square if step == 0 else 0.9 * before + 0.1 * n_square
        (gradient,) = torch.autograd.grad(loss, rollout.step.x_t_fake)
        torch.testing.assert_close(gradient, raw / expected.sqrt(), rtol=1e-6, atol=0)
        assert torch.equal(method.square, before)
        method.after_step()
        torch.testing.assert_close(method.square, expected)
        norms.append(expected.item())
    assert len(set(norms)) == 3


def test_the_losses_of_the_discriminator_are_pairs_penalties_and_centring():
    """Of logits c x, the approximate penalties are c^2 / 2 each, times 0.5, for 1 step."""
    method, batch = line(c=0.8), points(20_000)
    rollout = method.rollout(batch)
    losses = method.discriminator_loss(batch, rollout)
    assert losses["approximate_r1"].item() == pytest.approx(0.5 * 0.5 * 0.64, rel=0.03)
    assert losses["approximate_r2"].item() == pytest.approx(0.5 * 0.5 * 0.64, rel=0.03)
    real, fake = 0.8 * batch.images, 0.8 * rollout.step.x_t_fake
    torch.testing.assert_close(losses["centring"], 0.01 * (real + fake).square().mean())
    torch.testing.assert_close(losses["adversarial"], nn.functional.softplus(fake - real).mean())
    assert {type(p) for p in line(num_steps=2).penalties} == {ApproximateR1, ApproximateR2, Centring}
    assert line(num_steps=2).penalties[0].weight == 0.25


def test_training_finds_the_monotone_map():
    """From the identity, N(0, 1) to N(0.5, 0.7^2): slope 0.7 and shift 0.5, within 0.15 after 400 updates."""
    method = line(1.0, 0.0, 0.0, 0.0, transport_end=0.01)
    method.steps = 400
    players = [(method.discriminator, 0.02), (method.generator, 0.01)]
    optimizers = [torch.optim.Adam(part.parameters(), lr, betas=(0.0, 0.9)) for part, lr in players]
    for method.step in range(400):
        real = 0.5 + 0.7 * Draws(1, step=method.step).normal((256, 1, 1, 1)).double()
        for optimizer, loss_of in zip(optimizers, (method.discriminator_loss, method.generator_loss), strict=True):
            batch = Batch(real, draws=Draws(0, step=method.step, phase=loss_of.__name__))
            rollout = method.rollout(Batch(real, draws=Draws(0, step=method.step, phase="rollout")))
            optimizer.zero_grad()
            sum(loss_of(batch, rollout).values()).backward(inputs=optimizer.param_groups[0]["params"])
            optimizer.step()
        method.after_step()
    net = method.generator.net
    assert (net.a.item(), net.b.item()) == pytest.approx((0.7, 0.5), abs=0.15)


@pytest.mark.parametrize(("process", "kind"), [(VP(), "v"), (RectifiedFlow(), "flow")])
@pytest.mark.parametrize("steps", [1, 3])
def test_steps_of_the_map_are_those_of_the_sampler(process, kind, steps):
    """From the same x_s: what diffusers' DDIM (of a flow, Euler) makes of the prediction there, in one of its steps."""
    from sparring.generators.loop import Walk

    generator, batch = denoiser(process=process, kind=kind), batch_of()
    levels = sampler_levels(process, "ddim", steps, kind)
    assert levels[0] == 0
    step = flow_map(generator, batch, levels)
    walk = Walk(process.scheduler("ddim", kind), steps)
    assert walk.timesteps.tolist() == pytest.approx(process.model_time(levels[1:].flip(0)).tolist(), abs=1e-3)
    for row in range(len(batch)):
        call = steps - int((levels == step.s[row]).nonzero()[0])
        own = Walk(process.scheduler("ddim", kind), steps)
        own.scheduler.timesteps = own.timesteps
        x = step.x_s[row : row + 1]
        output = generator(x, step.s[row : row + 1]).output.detach()
        if call:
            for earlier in range(call):  # schedulers count their steps
                own.scheduler.step(output, own.timesteps[earlier], x)
        made = own.scheduler.step(output, own.timesteps[call], x, return_dict=False)[0]
        torch.testing.assert_close(step.x_t_fake[row : row + 1].detach(), made.double(), rtol=1e-3, atol=2e-3)


def test_real_images_at_the_next_level_have_noise_of_their_own():
    process, n = RectifiedFlow(), 4000
    batch = Batch(torch.zeros(n, 1, 1, 1, dtype=torch.float64), draws=Draws(0))
    step = flow_map(Denoiser(Affine(1.0, 0.0), process, "flow"), batch, torch.tensor([0.0, 0.5, 1.0]))
    at_half = step.t == 0.5
    start, real = step.x_s[at_half].flatten(), step.x_t_real[at_half].flatten()
    assert real.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(torch.corrcoef(torch.stack([start, real]))[0, 1].item()) < 0.08
    assert step.x_t_real[~at_half].abs().max() == 0


def test_it_is_conditioned_on_the_time_it_leads_to():
    method = AFM(denoiser(), _Seen(), num_steps=2)
    rollout = method.rollout(batch_of())
    assert torch.equal(rollout.views.given.t, rollout.step.t)
    assert isinstance(rollout.views.given, Given)


class _Seen(PlainDiscriminator):
    def __init__(self):
        super().__init__(net=nn.Flatten())


def test_what_it_refuses():
    for settings, message in [
        (dict(transport=-1.0), "transport=-1"),
        (dict(decay=1.0), "decay=1"),
        (dict(num_steps=0), "steps"),
    ]:
        with pytest.raises(ValueError, match=message):
            line(**settings)
    with pytest.raises(ValueError, match="EDM.*scale 80"):
        AFM(denoiser(process=EDM(), kind="edm"), _Seen())
    with pytest.raises(ValueError, match="`denoiser.start=StudentTStart`: this method starts from pure noise"):
        AFM(denoiser(process=VP(kernel=StudentT()), kind="v"), _Seen())
    with pytest.raises(ValueError, match="compares fakes"):
        AFM(denoiser(), siamese())


@pytest.mark.parametrize(("a", "expected"), [(0.5, 1.0), (-1.0, None)])
def test_the_measure_is_one_for_the_cheapest_pairing_and_larger_for_a_mirrored_one(a, expected):
    method = line(a)
    found = method.measures(method.generator, StoredImages(torch.zeros(40, 1, 1, 1)), Draws(0, phase="measures"))
    ratio = found["transport_ratio"]
    assert ratio == pytest.approx(1.0) if expected else ratio > 10
