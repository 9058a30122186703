"""SLOGAN: the gradients of its prior against closed forms, its losses by hand, its clusters, and what it refuses."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator, Mixture, Uniform, load_generator
from sparring.methods.gan.slogan import SLOGAN, proportions
from sparring.networks import Perceptron

WEIGHTS = torch.tensor([1.5, -0.5], dtype=torch.float64)


def mixture():
    torch.manual_seed(0)
    prior = Mixture(2, 3, spread=1.0).double()
    prior.logits.data = torch.tensor([0.5, -0.5, 0.0], dtype=torch.float64)
    prior.log_stds.data = torch.tensor([[0.1, -0.2], [0.0, 0.3], [-0.4, 0.2]], dtype=torch.float64)
    return prior


def noise(n, dim=3):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_latents_have_the_mixtures_moments_and_the_value_of_plain_draws():
    prior, rows = mixture(), noise(200_000)
    z, component = prior(rows).detach(), prior.component(rows)
    means, deviations = prior.means.detach(), prior.log_stds.detach().exp()
    shares = torch.bincount(component).double() / len(rows)
    torch.testing.assert_close(shares, prior.shares.detach(), rtol=0, atol=5e-3)
    torch.testing.assert_close(z, means[component] + deviations[component] * rows[:, :2])
    for k in range(3):
        torch.testing.assert_close(z[component == k].mean(0), means[k], rtol=0, atol=0.02)
        torch.testing.assert_close(z[component == k].std(0), deviations[k], rtol=0, atol=0.02)
    found = prior.responsibilities(z).detach()
    torch.testing.assert_close(found.mean(0), prior.shares.detach(), rtol=0, atol=5e-3)
    near = (found[:, 0] > 0.3) & (found[:, 0] < 0.5)
    assert (component[near] == 0).double().mean() == pytest.approx(found[near, 0].mean().item(), abs=0.02)


def test_gradients_of_means_and_deviations_are_those_of_the_expectation():
    """f = sum_d a_d z_d^2 / 2: E f = sum_k pi_k sum_d a_d (mu_kd^2 + s_kd^2) / 2."""
    prior = mixture()
    (0.5 * WEIGHTS * prior(noise(400_000)).square()).sum(1).mean().backward()
    share = prior.shares[:, None].detach()
    torch.testing.assert_close(prior.means.grad, share * WEIGHTS * prior.means.detach(), rtol=0, atol=0.01)
    expected = share * WEIGHTS * (2 * prior.log_stds.detach()).exp()
    torch.testing.assert_close(prior.log_stds.grad, expected, rtol=0, atol=0.01)
    assert prior.logits.grad is None


def test_gradients_are_means_over_rows_weighted_by_responsibility():
    prior, rows = mixture(), noise(50)
    z = prior(rows).detach().requires_grad_()
    (g,) = torch.autograd.grad(z.sin().sum(), z)
    prior(rows).sin().sum(1).mean().backward()
    share = prior.responsibilities(z)
    torch.testing.assert_close(prior.means.grad, (share[:, :, None] * g[:, None]).mean(0).detach())
    moved = share[:, :, None] * (z[:, None] - prior.means) * g[:, None]
    torch.testing.assert_close(prior.log_stds.grad, moved.mean(0).detach())


def test_the_gradient_of_the_proportions():
    prior, z = mixture(), mixture()(noise(200_000)).detach()
    f = (0.5 * WEIGHTS * z.square()).sum(1)
    proportions(prior, z, f).backward()
    share = prior.shares.detach()
    expected = ((prior.responsibilities(z) - share) * f[:, None]).mean(0).detach()
    torch.testing.assert_close(prior.logits.grad, expected)
    inside = 0.5 * (WEIGHTS * (prior.means.square() + (2 * prior.log_stds).exp())).sum(1).detach()
    torch.testing.assert_close(expected, share * (inside - (share * inside).sum()), rtol=0, atol=0.02)
    assert prior.means.grad is None
    assert prior.log_stds.grad is None
    constant = mixture()
    proportions(constant, z, torch.full((len(z),), 3.0)).backward()
    assert constant.logits.grad.abs().max() < 0.01


def test_a_folder_keeps_the_mixture(tmp_path):
    torch.manual_seed(0)
    generator = LatentGenerator(Perceptron(out_shape=[2, 1, 1]), 2, prior=Mixture(2, 3, spread=2.0))
    assert generator.save(tmp_path)
    torch.testing.assert_close(load_generator(tmp_path).sample(9), generator.sample(9))


def slogan(encoder=None, prior=None, **settings):
    torch.manual_seed(0)
    prior = prior or Mixture(2, 3, spread=1.0)
    generator = LatentGenerator(Perceptron(out_shape=[2, 1, 1], width=8, depth=2), 2, prior=prior)
    encoder = encoder or Perceptron(out_shape=[2], width=8, depth=2)
    return SLOGAN(generator, PlainDiscriminator(net=Perceptron(width=8, depth=2)), encoder, **settings)


def batch(phase="rollout"):
    return Batch(torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(0)), draws=Draws(0, phase=phase))


def test_its_losses_by_hand():
    method = slogan(contrast=2.0, scale=3.0)
    method.step, method.steps = 25, 100
    losses = method.generator_loss(batch("generator"), method.rollout(batch()))
    rows, prior = Draws(0, phase="rollout").normal((6, 3)), method.generator.prior
    z, component = prior(rows), prior.component(rows)
    fake = method.generator.net(z)
    logits, real = method.discriminator.net(fake)[:, 0], method.discriminator.net(batch().images)[:, 0]
    torch.testing.assert_close(losses["adversarial"], -logits.mean())
    codes = method.encoder(fake)
    closeness = 3 * torch.stack([cosine_similarity(codes, mean[None]) for mean in prior.means], 1) + prior.shares.log()
    torch.testing.assert_close(losses["u2c"], 0.75 * 2 * cross_entropy(closeness, component))
    density = prior.log_joint(z).logsumexp(1)
    torch.testing.assert_close(losses["shares"], ((real - logits) * density).mean())
    losses["adversarial"].backward(retain_graph=True)
    assert prior.means.grad.abs().max() > 0


class Same(torch.nn.Module):
    def forward(self, x):
        return x.flatten(1)


def test_an_encoder_that_points_to_the_means_finds_the_classes():
    prior = Mixture(2, 3)
    prior.means.data = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    prior.logits.data = torch.tensor([0.6, 0.3, 0.1]).log()
    labels = torch.tensor([2] * 6 + [0] * 3 + [1])
    data = StoredImages(prior.means.data[(labels + 1) % 3].view(10, 2, 1, 1) * 0.3, labels)
    method = slogan(Same(), prior, scale=20.0)
    with torch.no_grad():
        found = method.measures(method.generator, data, Draws(0))
    assert found["clustering_accuracy"] == found["rand"] == found["kmeans_accuracy"] == 1
    assert found["share_error"] == pytest.approx(0, abs=1e-6)
    assert method.measures(method.generator, StoredImages(data.images()), Draws(0)) == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prior": Uniform(2)}, "`prior`: SLOGAN needs sparring.generators.Mixture"),
        ({"encoder": Perceptron(out_shape=[3])}, "`encoder`: Perceptron must give"),
        ({"contrast": -1.0}, "`contrast=-1.0`"),
    ],
)
def test_what_cannot_work_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        slogan(**settings)


def test_a_mixture_of_one_is_refused():
    with pytest.raises(ValueError, match="`components=1`"):
        Mixture(2, 1)
