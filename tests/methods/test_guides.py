"""Training of guides: their losses by hand, the optimum of a discriminator, what is kept, and what is refused."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Digits, Draws, GaussianMixture, StoredImages
from sparring.generators import Denoiser, Guide, load_generator
from sparring.methods.guides.minority_classifier import MinorityClassifier
from sparring.methods.guides.noisy_classifier import NoisyClassifier
from sparring.methods.guides.noisy_discriminator import NoisyDiscriminator
from sparring.networks import MLP, HalfUNet
from sparring.process import EDM, VP, RectifiedFlow, Times


class At(Times):
    """Always the same time."""

    def __init__(self, t):
        self.t = t

    def __call__(self, process, draws, n):
        return torch.full((n,), self.t, dtype=torch.float64)


class Quadratic(nn.Module):
    """a x^2 + b x + c of numbers, in float64."""

    def __init__(self, a=0.0, b=0.0, c=0.0):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([a, b, c], dtype=torch.float64))

    def forward(self, x, time):
        x = x.flatten(1)[:, :1]
        return torch.cat([x * x, x, torch.ones_like(x)], dim=1) @ self.weights[:, None]


class Zero(nn.Module):
    """A denoiser that says nothing."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, time):
        return self.scale * x


def test_the_loss_of_the_classifier_is_minus_the_log_probability_of_the_noised_image():
    torch.manual_seed(0)
    guide = Guide(HalfUNet(widths=(8,), groups=4, out_channels=3), VP()).double()
    guide.check_shape((1, 4, 4))
    method = NoisyClassifier(guide, times=At(0.3))
    images, labels = torch.randn(6, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 0, 2, 2])
    batch = Batch(images, labels, Draws(3, phase="x"))
    loss = method.generator_loss(batch, method.rollout(batch))["classification"]
    t, eps = torch.full((6,), 0.3).double(), Draws(3, phase="x").normal((6, 1, 4, 4)).double()
    logits = guide(VP().add_noise(images, eps, t), t)
    expected = -(logits.exp() / logits.exp().sum(1, keepdim=True)).log()[torch.arange(6), labels].mean()
    torch.testing.assert_close(loss, expected)


def test_the_best_discriminator_is_the_log_ratio_of_the_noised_densities():
    """Data N(1, 1/4), fakes N(0, 4), noised to t: at the log ratio the gradient vanishes, elsewhere it does not.

    100 000 numbers each: the standard error of a gradient is about 0.003.
    """
    process, t, n = VP(), 0.4, 100_000
    alpha, sigma = (float(f(torch.tensor(t, dtype=torch.float64))) for f in (process.alpha, process.sigma))
    real, fake = alpha**2 / 4 + sigma**2, 4 * alpha**2 + sigma**2
    best = (
        0.5 / fake - 0.5 / real,
        alpha / real,
        -0.5 * alpha**2 / real - 0.5 * torch.tensor(real / fake).log().item(),
    )
    draws = torch.Generator().manual_seed(0)
    images = 1 + torch.randn(n, 1, 1, 1, generator=draws, dtype=torch.float64) / 2

    def gradient(a, b, c):
        guide = Guide(Quadratic(a, b, c), process)
        method = NoisyDiscriminator(guide, Denoiser(Zero(), VP(), "v"), times=At(t))
        method.fakes.data = 2 * torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        batch = Batch(images, draws=Draws(0, phase="x"))
        losses = method.generator_loss(batch, method.rollout(batch))
        (found,) = torch.autograd.grad(sum(losses.values()), guide.net.weights)
        return found

    assert gradient(*best).abs().max() < 0.015
    assert gradient(-best[0], -best[1], -best[2]).abs().max() > 0.3
    assert gradient(best[0], best[1], best[2] + 0.5).abs().max() > 0.05


def test_fakes_are_the_denoisers_own_by_the_seed_of_the_run_and_the_denoiser_never_learns():
    class Shift(Zero):
        def forward(self, x, time):
            return x + 1

    guide = Guide(HalfUNet(widths=(8,), groups=4, out_channels=1), VP())
    made = []
    for seed in (0, 0, 1):
        method = NoisyDiscriminator(guide, Denoiser(Shift(), VP(), "x0"), num_fakes=5, num_steps=2)
        method.prepare(Digits("validation"), seed)
        made.append(method.fakes.clone())
        assert not any(p.requires_grad for p in method.denoiser.parameters())
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert made[0].shape == (5, 1, 8, 8)
    assert made[0].max() <= 1
    empty = NoisyDiscriminator(guide, Denoiser(Shift(), VP(), "x0"))
    with pytest.raises(ValueError, match="no generated images yet"):
        empty.rollout(Batch(torch.zeros(2, 1, 8, 8), draws=Draws(0)))


def test_a_classifier_needs_labels_and_as_many_outputs():
    guide = Guide(HalfUNet(widths=(8,), groups=4, out_channels=7), VP())
    guide.check(Digits())
    with pytest.raises(ValueError, match="the classifier gives 7 numbers and `.*` has 10 classes: set"):
        NoisyClassifier(guide).prepare(Digits())
    points = Guide(MLP(width=8, out_channels=8), VP())
    points.check(GaussianMixture())
    NoisyClassifier(points).prepare(GaussianMixture())


@pytest.mark.parametrize("process", [VP(schedule="cosine"), EDM(), RectifiedFlow(shift=2.0)])
@pytest.mark.parametrize("net", [HalfUNet(widths=(8, 16), groups=4, out_channels=3), MLP(width=8, out_channels=3)])
def test_a_guide_is_kept_and_opened_again_with_its_process(process, net, tmp_path):
    guide = Guide(net, process)
    guide.check_shape((2, 1, 1) if isinstance(net, MLP) else (1, 8, 8))
    assert guide.save(tmp_path)
    opened = load_generator(tmp_path)
    assert isinstance(opened, Guide)
    x_t, t = torch.randn(4, *guide.image_shape), torch.linspace(0.1, 1, 4)
    assert torch.equal(opened(x_t, t), guide(x_t, t))
    assert (opened.outputs, opened.image_shape) == (3, guide.image_shape)
    torch.testing.assert_close(opened.process.log_snr(t), process.log_snr(t))


def test_rows_of_a_guide_do_not_see_each_other_and_time_matters():
    torch.manual_seed(0)
    net = HalfUNet(widths=(8, 16), groups=4, out_channels=3).double()
    x, time = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([1.0, 10.0, 100.0, 900.0]).double()
    whole = net(x, time)
    for row in range(4):
        torch.testing.assert_close(net(x[row : row + 1], time[row : row + 1])[0], whole[row])
    assert not torch.allclose(net(x[:1], time[3:]), whole[:1])
    with pytest.raises(ValueError, match="the groups divide the widths"):
        HalfUNet(widths=(6,), groups=4)


def test_what_makes_no_images_says_so():
    guide = Guide(HalfUNet(widths=(8,), groups=4), VP())
    with pytest.raises(ValueError, match="makes no images: sample the denoiser that it guides"):
        guide.sample(1)
    with pytest.raises(ValueError, match="has seen no images yet"):
        _ = guide.image_shape
    with pytest.raises(ValueError, match=r"HalfUNet cannot take images of shape \(3, 8, 8\)"):
        guide.check_shape((3, 8, 8))


# -- rarity ------------------------------------------------------------------------------------------------------------


class Shrink(nn.Module):
    """The best denoiser of data N(0, 1/4), predicting x_0."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, time):
        t = VP().t_from_model_time(time.double())[:, None, None, None]
        alpha, sigma = VP().alpha(t), VP().sigma(t)
        return self.scale * x * alpha / 4 / (alpha**2 / 4 + sigma**2)


def rarity(**settings):
    guide = Guide(Bins(), VP())
    guide.check_shape((1, 2, 2))
    return MinorityClassifier(guide, Denoiser(Shrink(), VP(), "x0"), **settings)


class Bins(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))

    def forward(self, x, time):
        return x.flatten(1).to(self.weights.dtype) @ self.weights


def test_the_score_of_an_image_is_the_closed_form_of_a_gaussian():
    """(1 - k alpha)^2 x_0^2 + k^2 sigma^2 a number, over 20 000 noises: standard errors of 1 percent."""
    method = rarity(level=0.4, noises=20_000)
    method.eps.data = torch.randn(20_000, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha, sigma = (float(f(torch.tensor(0.4, dtype=torch.float64))) for f in (VP().alpha, VP().sigma))
    k = alpha / 4 / (alpha**2 / 4 + sigma**2)
    images = torch.tensor([0.0, 0.5, -1.0], dtype=torch.float64).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    expected = (1 - k * alpha) ** 2 * torch.tensor([0.0, 0.25, 1.0]).double() + k**2 * sigma**2
    torch.testing.assert_close(method.score(images), expected, rtol=0.02, atol=0)


def test_bins_hold_as_many_images_each_the_last_the_rarest():
    method = rarity(level=0.4)
    images = torch.linspace(-1, 1, 400).view(400, 1, 1, 1).expand(400, 1, 2, 2).contiguous()
    method.prepare(StoredImages(images))
    bins = method.classes(Batch(images))
    assert bins.bincount().tolist() == [100] * 4
    assert images[bins == 3].abs().min() > images[bins == 0].abs().max()
    again = rarity(level=0.4)
    again.prepare(StoredImages(images))
    assert torch.equal(again.edges, method.edges)
    with pytest.raises(ValueError, match="nothing is scored yet"):
        rarity().classes(Batch(images))
