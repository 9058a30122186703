"""GAN-EM: its decisions by class, the Bayes E-step, proportions, its start, and what it refuses."""

import pytest
import torch
from torch.nn.functional import cross_entropy, softplus

from sparring.data import Batch, Draws, GaussianMixture
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Classes, LatentGenerator, Uniform
from sparring.methods.gan.gan_em import GANEM
from sparring.networks import Perceptron
from sparring.objectives import NonSaturating, Scores
from sparring.objectives.classes import Decisions


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_hot_weights_are_a_gan_for_each_class():
    real, fake = random(8, 3), random(8, 3, seed=1)
    labels, classes = torch.arange(8) % 3, torch.tensor([2, 1, 0, 0, 1, 2, 2, 1])
    objective = Decisions(torch.nn.functional.one_hot(labels, 3).float(), classes)
    expected, of_generator = 0.0, 0.0
    for k in range(3):
        mine, its = real[labels == k, k], fake[classes == k, k]
        expected += softplus(-mine).sum() / 8 + softplus(its).sum() / 8
        of_generator += NonSaturating().generator(Scores(its)) * len(its) / 8
    torch.testing.assert_close(objective.discriminator(Scores(real), Scores(fake)), expected)
    torch.testing.assert_close(objective.generator(Scores(fake)), of_generator)


def test_the_best_logit_weighs_the_classes_by_their_shares():
    """Two points, two classes: minimise over free logits and compare with log (mean w_k) p_k / (pi_k q_k)."""
    point = torch.tensor([0] * 6 + [1] * 4)  # of reals; class 0 has 0.9 of point 0 and 0.2 of point 1
    weights = torch.tensor([[0.9, 0.1], [0.2, 0.8]])[point]
    fakes, classes = torch.tensor([0, 0, 1, 1, 0, 1, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    logits = torch.zeros(2, 2, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.05)
    objective = Decisions(weights, classes)
    for _ in range(800):
        optimizer.zero_grad()
        objective.discriminator(Scores(logits[point]), Scores(logits[fakes])).backward()
        optimizer.step()
    real = torch.stack([weights[point == x].sum(0) for x in (0, 1)]) / 10
    made = torch.tensor([[2, 1], [2, 5]]) / 10
    torch.testing.assert_close(logits.detach(), (real / made).log(), rtol=0, atol=5e-3)


def test_classes_are_drawn_in_their_proportions_behind_the_normal_numbers():
    prior = Classes(5, 3)
    prior.logits.data = torch.tensor([0.6, 0.3, 0.1]).log()
    z = prior(random(50_000, 3))
    assert torch.equal(z[:, :2], random(50_000, 3)[:, :2])
    assert torch.equal(z[:, 2:].sum(1), torch.ones(50_000))
    torch.testing.assert_close(z[:, 2:].mean(0), torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=0.01)


def gan_em(classes=3, **settings):
    torch.manual_seed(0)
    prior = Classes(2 + classes, classes)
    net = Perceptron(in_features=2 + classes, out_shape=[2, 1, 1], width=16, depth=2)
    discriminator = PlainDiscriminator(net=Perceptron(out_shape=[classes], width=16, depth=2))
    encoder = Perceptron(out_shape=[classes], width=16, depth=2)
    return GANEM(LatentGenerator(net, 2 + classes, prior=prior), discriminator, encoder, **settings)


def batch(phase="rollout"):
    return Batch(random(6, 2, 1, 1), draws=Draws(0, phase=phase))


@pytest.mark.parametrize("step", [29, 30])
def test_its_losses_by_hand(step):
    method = gan_em()
    method.step, method.steps = step, 100
    rollout = method.rollout(batch())
    losses = method.generator_loss(batch("generator"), rollout)
    noise, prior = Draws(0, phase="rollout").normal((6, 3)), method.generator.prior
    fake, classes = method.generator.net(prior(noise)), prior.component(noise)
    weights = method.encoder(batch().images).softmax(1)
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    logits, real = method.discriminator.net(fake), method.discriminator.net(batch().images)
    own = logits[torch.arange(6), classes]
    torch.testing.assert_close(losses["adversarial"], softplus(-own).mean())
    learns = float(step == 30)
    torch.testing.assert_close(losses["expectation"], learns * cross_entropy(method.encoder(fake), classes))
    torch.testing.assert_close(losses["shares"], -learns * (weights * prior.shares.log()).sum(1).mean())
    loss = method.discriminator_loss(batch("discriminator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, (weights * softplus(-real)).sum(1).mean() + softplus(own).mean())
    assert losses["expectation"].requires_grad
    (slope,) = torch.autograd.grad(losses["expectation"], method.generator.net.read_out.weight, allow_unused=True)
    assert slope is None  # the E-net learns from the fakes, and they not from it


def test_the_proportions_go_to_the_mean_of_the_weights():
    method = gan_em()
    method.steps = 1
    method.step = 1
    rollout, prior = method.rollout(batch()), method.generator.prior
    optimizer = torch.optim.Adam([prior.logits], 0.1)
    for _ in range(400):
        optimizer.zero_grad()
        method.generator_loss(batch("generator"), rollout)["shares"].backward(inputs=[prior.logits])
        optimizer.step()
    torch.testing.assert_close(prior.shares.detach(), rollout.weights.mean(0), rtol=0, atol=1e-3)


def test_the_e_net_of_two_gaussians_tends_to_the_responsibilities():
    """Fakes N(-1, 1) in class 0 with 0.25, N(1, 1) in class 1: p(1 | x) = sigmoid(2 x + log 3)."""
    torch.manual_seed(0)
    net = Perceptron(in_features=1, out_shape=[2], width=16, depth=1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(600):
        classes = (torch.rand(256, generator=torch.Generator().manual_seed(step)) > 0.25).long()
        x = random(256, 1, seed=10_000 + step) + 2.0 * classes[:, None] - 1
        optimizer.zero_grad()
        cross_entropy(net(x), classes).backward()
        optimizer.step()
    x = torch.linspace(-2, 2, 9)[:, None]
    found = net(x).softmax(1)[:, 1].detach()
    torch.testing.assert_close(found, torch.sigmoid(2 * x[:, 0] + torch.tensor(3.0).log()), rtol=0, atol=0.06)


def test_it_starts_with_the_clusters_of_k_means():
    data = GaussianMixture(modes=3, num_samples=300)
    for start, accuracy in (("k-means", 0.98), ("random", 0.0)):
        method = gan_em(start=start)
        method.encoder.requires_grad_(start == "random")  # frozen, it starts there all the same
        before = torch.get_rng_state()
        method.prepare(data, 1)
        assert torch.equal(before, torch.get_rng_state())
        with torch.no_grad():
            found = method.measures(method.generator, data, Draws(0))
        assert found["clustering_accuracy"] >= accuracy
        assert (found["share_error"] < 0.02) or start == "random"
        assert all(p.grad is None for p in method.parameters())
    assert found["clustering_accuracy"] < 0.95


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gan_em(rest=1.0), "`rest=1.0`"),
        (lambda: Classes(3, 3), r"`num_classes=3` must lie in 2..2"),
        (
            lambda: GANEM(
                LatentGenerator(Perceptron(out_shape=[2, 1, 1]), 2, prior=Uniform(2)),
                PlainDiscriminator(net=Perceptron(out_shape=[2])),
                Perceptron(out_shape=[2]),
            ),
            "`prior`: GAN-EM needs",
        ),
        (
            lambda: GANEM(gan_em().generator, gan_em().discriminator, Perceptron(out_shape=[2])),
            r"`encoder`: Perceptron must give \(3,\) numbers",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
