"""ASBM: pairs and steps of both directions, rounds, what it ships, and what it refuses."""

import pytest
import torch
from torch.nn.functional import softplus

from sparring.data import Batch, Digits, Draws, GaussianMixture, SwissRoll, UnpairedData
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Bridge, load_generator
from sparring.methods import ASBM
from sparring.methods.method import held_out
from sparring.metrics.toys import sliced_wasserstein
from sparring.networks import MLP, StepPerceptron
from sparring.objectives import R1
from sparring.recipes.compose import compose
from sparring.recipes.recipe import data_section
from sparring.samplers import Sampler


def asbm(**settings):
    torch.manual_seed(0)
    generator = Bridge(MLP(width=8, depth=1), num_steps=3, variance=0.2, latent_dim=4)
    generator.check_shape((2, 1, 1))
    net = StepPerceptron(width=8, depth=2)
    return ASBM(generator, PlainDiscriminator(net=net, given=["t", "x_t"]), **settings).double()


def batch(phase="rollout", n=6):
    x, source = torch.randn(2, n, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Batch(x, draws=Draws(0, phase=phase), source=source)


def test_its_losses_by_hand():
    method = asbm(penalty=R1(weight=2.0))
    steps = method.rollout(batch())
    found = method.discriminator_loss(batch("discriminator"), steps)
    learned = method.generator_loss(batch("generator"), steps)
    assert list(found) == ["adversarial", "r1", "reverse_adversarial", "reverse_r1"]
    for name, discriminator, step in zip(("", "reverse_"), method.discriminator, steps, strict=True):
        given = step.views.given
        x_s = step.x_s_real.clone().requires_grad_()
        real, fake = (discriminator.net(x, t=given.t, x_t=step.x_t) for x in (x_s, step.x_s_fake))
        torch.testing.assert_close(found[f"{name}adversarial"], softplus(-real).mean() + softplus(fake).mean())
        (gradient,) = torch.autograd.grad(real.sum(), x_s)
        torch.testing.assert_close(found[f"{name}r1"], gradient.square().sum((1, 2, 3)).mean())
        torch.testing.assert_close(learned[f"{name}adversarial"], softplus(-fake).mean())


def test_ends_are_real_at_first_and_then_drawn_by_the_other_direction_of_the_last_round():
    method = asbm(round_steps=5)
    one, other = method.rollout(batch())
    assert torch.equal(one.x_0, batch().images)
    assert torch.equal(one.x_1, batch().source)
    assert torch.equal(other.x_0, batch().source)
    assert torch.equal(other.x_1, batch().images)
    with torch.no_grad():
        for offset, part in ((0.1, method.generator), (0.2, method.reverse)):
            for parameter in part.parameters():
                parameter += offset
    before = [part.module.net.read_in.weight.clone() for part in method.drawn_by]
    method.decay = 0.0  # the averages are the models
    method.step = 3
    method.after_step()
    assert all(
        torch.equal(part.module.net.read_in.weight, old) for part, old in zip(method.drawn_by, before, strict=True)
    )
    method.step = 4
    method.after_step()
    assert torch.equal(method.drawn_by[0].module.net.read_in.weight, method.reverse.net.read_in.weight)
    assert torch.equal(method.drawn_by[1].module.net.read_in.weight, method.generator.net.read_in.weight)
    method.step = 5
    for step, real in zip(method.rollout(batch()), (batch().images, batch().source), strict=True):
        assert torch.equal(step.x_0, real)
        assert not step.x_1.requires_grad
        assert not any(torch.equal(step.x_1, x) for x in (batch().images, batch().source))
    draws = Draws(0, phase="rollout")
    drawn = method.drawn_by[0].module.walk(batch().images, draws.normal((6, method.generator.noise_dim)).double())
    torch.testing.assert_close(method.rollout(batch())[0].x_1, drawn)


class Exact(Bridge):
    """Draws x_0 of N(0, 1) given x_t, for pairs of ends of N(0, 1) with a covariance: what a round learns at best."""

    covariance = 0.0

    def forward(self, x_t, t, z):
        t, c = t.view(-1, 1, 1, 1), self.covariance
        with_x_0 = 1 - t + t * c
        slope = with_x_0 / ((1 - t) ** 2 + t**2 + 2 * t * (1 - t) * c + self.variance * t * (1 - t))
        return slope * x_t + (1 - slope * with_x_0).clamp(min=0).sqrt() * z.view_as(x_t)


def test_its_rounds_bring_gaussian_ends_to_the_schroedinger_bridge():
    """With two steps and variance 1 the covariance of the pairs goes 0, 1/3, 0.485, 0.555 … to 0.618, either way.

    Each round the copies are the best models of the pairs before; what is drawn are the pairs that the next learns on.
    """
    n = 50_000  # of two coordinates: three standard errors of a covariance are 0.011
    generator = Exact(MLP(width=8, depth=1), num_steps=2, variance=1.0, latent_dim=2)
    generator.check_shape((2, 1, 1))
    net = StepPerceptron(width=8, depth=2)
    method = ASBM(generator, PlainDiscriminator(net=net, given=["t", "x_t"]), round_steps=1).double()
    method.step, found = 1, 0.0
    for number, expected in enumerate([0.3333, 0.4848, 0.5554]):
        for copy in method.drawn_by:
            copy.module.covariance = found
        x, source = torch.randn(2, n, 2, 1, 1, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
        with torch.no_grad():
            steps = method.rollout(Batch(x, draws=Draws(number, phase="rollout"), source=source))
        for step in steps:
            assert (step.x_0 * step.x_1).mean().item() == pytest.approx(expected, abs=0.012)
            assert step.x_1.var().item() == pytest.approx(1.0, abs=0.02)
        found = expected


def test_the_pairs_are_drawn_by_averages():
    """A tenth of the way in each step: after two of them 0.19 of it, and the copies follow at the end of the round."""
    method = asbm(round_steps=2, decay=0.9)
    starts = [part.net.read_in.weight.detach().clone() for part in method.others]
    with torch.no_grad():
        for offset, part in ((0.1, method.reverse), (0.2, method.generator)):
            part.net.read_in.weight += offset
    for step, share in ((0, 0.0), (1, 0.19)):
        method.step = step
        method.after_step()
        for offset, start, copy in zip((0.1, 0.2), starts, method.drawn_by, strict=True):
            torch.testing.assert_close(copy.module.net.read_in.weight, start + share * offset)


def test_a_network_that_knows_the_end_gets_there_and_x_0_is_x_t_less_the_way():
    method = asbm()
    generator, x = method.generator, batch().source
    t, z = torch.full((6,), 0.5, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    with generator.slot.given(z):
        way = generator.net(x, 500.0).sample
    torch.testing.assert_close(generator(x, t, z), x - 0.5 * way)
    states = []
    end = generator.walk(x, torch.randn(6, generator.noise_dim, dtype=torch.float64), states.append)
    assert len(states) == 4
    assert torch.equal(states[0], x)
    assert torch.equal(states[-1], end)
    assert generator.noise_dim == 3 * 4 + 2 * 2


def test_it_samples_from_sources_and_its_folder_opens(tmp_path):
    generator = asbm().generator.float()
    sources = batch().source.float()
    expected = generator.sample(8, sources=sources, seed=1)
    assert expected.shape == (8, 2, 1, 1)
    assert torch.equal(generator.sample(8, sources=sources, seed=1), expected)
    assert not torch.equal(generator.sample(8, sources=sources.flip(0), seed=1), expected)
    assert generator.save(tmp_path / "pipe")
    opened = load_generator(tmp_path / "pipe")
    assert torch.equal(opened.sample(8, sources=sources, seed=1), expected)
    assert Sampler(opened).generator.plan(10) == ("bridge", 3)
    with pytest.raises(ValueError, match="starts at source images"):
        generator.sample(2)
    with pytest.raises(ValueError, match="walks its own 3 steps"):
        generator.sample(2, sources=sources, scheduler="ddim")
    with pytest.raises(ValueError, match="takes none"):
        generator.sample(2, sources=sources, guidance=2.0)


def test_the_cost_of_its_transport_is_measured():
    """A network that predicts no way leaves x_0 = x_t: what is left is the noise between the steps."""
    method = asbm()
    torch.nn.init.zeros_(method.generator.net.read_out[-1].weight)
    torch.nn.init.zeros_(method.generator.net.read_out[-1].bias)
    data = UnpairedData.of(GaussianMixture(), SwissRoll())
    generator = method.generator.float()
    with torch.no_grad():
        found = method.measures(generator, data, Draws(0, phase="measures"))
    cost, draws = found["cost"], Draws(0, phase="measures")
    batch = held_out(data, draws)
    with torch.no_grad():
        made = generator.walk(batch.source, draws.normal((len(batch), generator.noise_dim)))
    assert found["distance"] == pytest.approx(sliced_wasserstein(made, batch.images), rel=1e-5)
    # steps of variance v s (t - s) / t at (s, t) = (2/3, 1) and (1/3, 2/3), two coordinates
    assert cost == pytest.approx(2 * 0.2 * (2 / 9 + 1 / 6), rel=0.15)


def test_a_word_names_the_images_and_the_source_stays():
    data = data_section("grid25", compose("asbm", "ring"))
    assert data == {"class_path": "sparring.data.UnpairedData", "init_args": {"path": "grid25", "source": "swissroll"}}


def test_what_it_cannot_work_with_is_refused():
    with pytest.raises(ValueError, match="ring` has no sources: give UnpairedData"):
        asbm().generator.check(GaussianMixture())
    asbm().generator.check(UnpairedData.of(GaussianMixture(), SwissRoll()))
    with pytest.raises(ValueError, match="MLP cannot take images of shape"):
        asbm().generator.check(UnpairedData.of(Digits(), Digits("validation")))
    with pytest.raises(ValueError, match="`decay=1` must lie in"):
        asbm(decay=1)
    with pytest.raises(ValueError, match="`round_steps=0`"):
        asbm(round_steps=0)
    with pytest.raises(ValueError, match=r"`variance=0\.0` above 0"):
        Bridge(MLP(), variance=0.0)
