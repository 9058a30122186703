"""Parallel tempering: mixtures and their moments, the coherency penalty in closed form, losses by hand."""

import pytest
import torch
from gan_parts import batch, discriminator, generator, points
from torch import nn

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.methods.gan.parallel_tempering import ParallelTempering, mixed, mixedness


def method(**settings):
    return ParallelTempering(generator(time=True), discriminator(given=["t"], time=True), **settings)


def test_mixtures_of_two_keep_the_mean_and_lose_variance():
    """E Q = E X and Var Q = (alpha^2 + (1 - alpha)^2) Var X: half of it at 1/2."""
    x = 0.3 + torch.randn(40_000, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for alpha in (1.0, 0.8, 0.5):
        q = mixed(x, torch.full((40_000,), alpha, dtype=torch.float64))
        assert q.mean().item() == pytest.approx(x.mean().item(), abs=1e-9)
        assert q.var().item() == pytest.approx(alpha**2 + (1 - alpha) ** 2, rel=0.04)
    two = mixed(torch.tensor([1.0, 5.0]).view(2, 1, 1, 1), torch.tensor([0.75, 0.25]))
    assert two.flatten().tolist() == [2.0, 2.0]  # 3/4 of the one, in both rows
    assert mixedness(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist() == [0.0, 0.5, 1.0, 0.0]
    with pytest.raises(ValueError, match="images are mixed two by two, but 3 are seen"):
        mixed(torch.zeros(3, 1, 1, 1), torch.zeros(3))


def test_its_losses_by_hand():
    made = method(coherency_weight=3.0, share_of_images=0.5)
    draws = Draws(0, phase="rollout")
    uniform, kind = draws.uniform((6,)), draws.uniform((6,))
    alpha = torch.where(kind < 0.5, 1.0, uniform).double()
    assert 0 < (alpha == 1).sum() < 6
    tau, z, x = mixedness(alpha), draws.normal((6, 2)).double(), points()
    rollout, net = made.rollout(batch()), made.discriminator.net
    fake = made.generator(z, t=tau)
    q1 = alpha.view(-1, 1, 1, 1) * x + (1 - alpha.view(-1, 1, 1, 1)) * x[[1, 0, 3, 2, 5, 4]]
    losses = made.discriminator_loss(batch("discriminator"), rollout)
    torch.testing.assert_close(losses["adversarial"], (net(fake, t=tau) - net(q1, t=tau)).mean())
    torch.testing.assert_close(
        made.generator_loss(batch("generator"), rollout)["adversarial"], -net(fake, t=tau).mean()
    )
    draws = Draws(0, phase="discriminator")
    alpha2, nu = (draws.uniform((6,)).double().view(-1, 1, 1, 1) for _ in range(2))
    q2 = alpha2 * x + (1 - alpha2) * x[[1, 0, 3, 2, 5, 4]]
    at = (nu * q1 + (1 - nu) * q2).requires_grad_()
    t = mixedness((nu * alpha.view(-1, 1, 1, 1) + (1 - nu) * alpha2).flatten())
    (slope,) = torch.autograd.grad(net(at, t=t).sum(), at)
    expected = 3 * (slope * (q1 - q2)).sum((1, 2, 3)).square().mean()
    torch.testing.assert_close(losses["coherency"], expected)
    assert set(method(coherency_weight=0).discriminator_loss(batch("discriminator"), rollout)) == {"adversarial"}


class Plane(nn.Module):
    """D(x, t) = <w, x>."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.6, -0.2], dtype=torch.float64))

    def forward(self, x, t):
        return x.flatten(1) @ self.w


def test_the_coherency_of_a_plane():
    """With r = 0, Q1 - Q2 = (alpha - alpha2)(X1 - X2): w'Sw / 3, as E (alpha - alpha2)^2 = 1/6 and X1 - X2 has 2S."""
    made = ParallelTempering(
        generator(time=True), PlainDiscriminator(net=Plane(), given=["t"]), share_of_images=0, coherency_weight=1
    )
    root = torch.tensor([[1.0, 0.0], [0.5, 0.8]], dtype=torch.float64)
    x = torch.randn(60_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ root.T
    data = Batch(x[..., None, None], draws=Draws(0, phase="rollout"))
    rollout = made.rollout(data)
    found = made.discriminator_loss(Batch(data.images, draws=Draws(0, phase="discriminator")), rollout)["coherency"]
    w = made.discriminator.net.w
    expected = w @ root @ root.T @ w / 3
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)


def test_samples_are_not_mixed():
    made = method()
    z = torch.randn(4, 2, dtype=torch.float64)
    torch.testing.assert_close(made.generator(z), made.generator(z, t=torch.zeros(4, dtype=torch.float64)))
    assert not torch.allclose(made.generator(z), made.generator(z, t=torch.ones(4, dtype=torch.float64)))


def test_pictures_show_the_potential_of_three_mixtures():
    found = method().fields(batch(), points())
    assert [field.caption for field in found] == ["tau 0.0", "tau 0.5", "tau 1.0"]
    assert not torch.equal(found[0].logits, found[2].logits)


def test_what_is_refused():
    with pytest.raises(ValueError, match="use `time: true`"):
        ParallelTempering(generator(), discriminator(given=["t"], time=True))
    with pytest.raises(ValueError, match="`share_of_images=1.5`"):
        method(share_of_images=1.5)
    with pytest.raises(ValueError, match="`batch_size=7`: images are mixed two by two"):
        method().check(7)
