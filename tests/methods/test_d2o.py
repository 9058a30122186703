"""D2O: first fakes are the data's mean, losses and lazy R1 at the pixels by hand, the freeze rule, what it refuses."""

import pytest
import torch
from diffusers import UNet2DModel
from method_parts import batch_of, denoiser, evaluated, images_of, projected, siamese, trained
from rollout_parts import Gaussian
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods.distillation.d2o import D2O
from sparring.networks.adapters import FreezeConvolutions
from sparring.process import EDM, RectifiedFlow


class Rows(nn.Module):
    """M logits of an image, each linear in its pixels."""

    def __init__(self, m=3):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(16, m, dtype=torch.float64)

    def forward(self, x):
        return self.layer(x.flatten(1))


class Affine(nn.Module):
    """A flow's velocity at t = 1 that takes noise x to a x + b in one call."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b))

    def forward(self, x, time):
        return x - (self.a * x + self.b)


class Quadratic(nn.Module):
    """Logits c x + d x^2 of a number."""

    def __init__(self):
        super().__init__()
        self.c, self.d = (nn.Parameter(torch.zeros((), dtype=torch.float64)) for _ in range(2))

    def forward(self, x):
        return (self.c * x + self.d * x**2).flatten(1)


def linear(**settings):
    return D2O(denoiser(), PlainDiscriminator(net=Rows()), **settings)


def losses_of(method, phase="discriminator"):
    batch = batch_of(phase=phase)
    return evaluated(method.discriminator_loss(batch, method.rollout(batch_of())))


def test_the_first_fakes_of_a_trained_network_are_the_mean_of_the_data():
    """Of N(m, s^2) the best prediction at pure noise is m + s^2 / sigma z: 0.0031 z for s 0.5, sigma 80."""
    process, mean = EDM(), torch.tensor(0.3, dtype=torch.float64)
    net = Gaussian(process, "edm", mean, torch.tensor(0.25, dtype=torch.float64))
    method = D2O(Denoiser(net, process, "edm"), PlainDiscriminator(net=nn.Flatten()))
    fake = method.rollout(Batch(torch.zeros(500, 1, 1, 4, dtype=torch.float64), draws=Draws(0))).fake
    assert fake.mean().item() == pytest.approx(0.3, abs=1e-3)
    assert fake.std().item() == pytest.approx(0.25 / 80, rel=0.05)


@pytest.mark.parametrize("simulate", [True, False])
def test_of_several_calls_the_cleaner_ones_start_from_the_students_own(simulate):
    """Then nothing of the images is in a fake, at whatever level it was made."""
    method = linear(num_steps=4, simulate=simulate)
    images = images_of()
    for seed in range(4):
        fakes = [method.rollout(Batch(x, draws=Draws(seed))).fake for x in (images, -images)]
        if not torch.equal(*fakes):
            assert not simulate
            return
    assert simulate


def test_both_losses_are_those_of_the_equations():
    method = linear(r1_gamma=0.0)
    rollout = method.rollout(batch_of())
    logits = method.discriminator.net
    losses = method.discriminator_loss(batch_of(phase="discriminator"), rollout)
    assert list(losses) == ["adversarial"]
    real, fake = logits(images_of()), logits(rollout.fake)
    torch.testing.assert_close(losses["adversarial"], softplus(fake).mean() + softplus(-real).mean())
    torch.testing.assert_close(method.generator_loss(batch_of(), rollout), {"adversarial": softplus(-fake).mean()})


def test_r1_at_the_pixels_is_half_gamma_times_the_squared_norm_of_the_mean_logits_slope():
    method = linear(r1_gamma=0.3, r1_every=1)
    slope = method.discriminator.net.layer.weight.mean(0)
    torch.testing.assert_close(losses_of(method)["pixel_r1"], 0.15 * slope.square().sum())


def test_r1_passes_the_frozen_features_and_reaches_the_heads():
    """What is trained gets the gradient that a finite difference of the penalty has."""
    method = D2O(denoiser(), projected(augment=""), r1_gamma=1.0, r1_every=1)
    weight = method.discriminator.heads[0].last.bias
    other = method.discriminator.heads[0].first[0].weight
    penalty = losses_of(method)["pixel_r1"]
    flat, slope = torch.autograd.grad(penalty, [weight, other], allow_unused=True)
    assert flat is None or flat.abs().max() == 0  # a constant has no slope
    values = []
    for side in (1, -1):
        other.data[0, 0] += side * 1e-5
        values.append(losses_of(method)["pixel_r1"].item())
        other.data[0, 0] -= side * 1e-5
    assert slope[0, 0].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-12)
    assert slope.abs().max() > 0


def test_lazy_r1_is_on_average_the_penalty_of_every_step():
    method, every = linear(r1_gamma=0.1, r1_every=16), linear(r1_gamma=0.1, r1_every=1)
    found = []
    for method.step in range(32):
        found.append(losses_of(method).get("pixel_r1", torch.zeros((), dtype=torch.float64)))
    assert [step for step, value in enumerate(found) if value > 0] == [0, 16]
    torch.testing.assert_close(torch.stack(found).mean(), losses_of(every)["pixel_r1"])


def test_a_generator_that_makes_only_the_mean_learns_the_spread():
    """N(0.5, 0.7^2) from a x + b at a = 0.1, with logits c x + d x^2: |a| near 0.7 and b near 0.5, within 0.2."""
    method = D2O(Denoiser(Affine(0.1, 0.0), RectifiedFlow(), "flow"), PlainDiscriminator(net=Quadratic()), r1_gamma=0.0)
    players = [(method.discriminator, 0.05), (method.generator, 0.01)]
    optimizers = [torch.optim.Adam(part.parameters(), lr, betas=(0.0, 0.9)) for part, lr in players]
    ends = []
    for method.step in range(500):
        real = 0.5 + 0.7 * Draws(1, step=method.step).normal((256, 1, 1, 1)).double()
        rollout = method.rollout(Batch(real, draws=Draws(0, step=method.step)))
        for optimizer, loss_of in zip(optimizers, (method.discriminator_loss, method.generator_loss), strict=True):
            optimizer.zero_grad()
            loss = sum(loss_of(Batch(real, draws=Draws(0)), rollout).values())
            loss.backward(inputs=optimizer.param_groups[0]["params"], retain_graph=True)
            optimizer.step()
        ends.append((method.generator.net.a.abs().item(), method.generator.net.b.item()))
    a, b = torch.tensor(ends[-200:]).mean(0).tolist()  # the players circle
    assert (a, b) == pytest.approx((0.7, 0.5), abs=0.2)


def unet():
    torch.manual_seed(0)
    return UNet2DModel(
        **dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16)),
        **dict(norm_num_groups=4, attention_head_dim=8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def test_the_freeze_rule_of_d2o_f():
    """Frozen: 3x3 convolutions of the blocks and the outputs of attention. Trained: everything else that it names."""
    net = unet()
    FreezeConvolutions().apply(net)
    ends = lambda names: {".".join(p for p in name.split(".")[:-1] if not p.isdigit()).split(".")[-1] for name in names}  # noqa: E731
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert ends(frozen) == {"conv1", "conv2", "conv", "to_out"}
    free = ends(trained(net))
    assert {"norm1", "norm2", "group_norm", "time_emb_proj", "to_q", "to_k", "to_v", "conv_shortcut"} <= free
    assert {"conv_in", "conv_out", "conv_norm_out", "linear_1", "linear_2"} <= free
    assert not free & {"conv1", "conv2", "conv", "to_out"}


def test_most_of_a_network_of_the_size_for_cifar_is_frozen():
    kinds = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    with torch.device("meta"):
        net = UNet2DModel(
            **dict(sample_size=32, layers_per_block=2, block_out_channels=(128, 256, 256, 256)),
            down_block_types=kinds,
            up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        )
    FreezeConvolutions().apply(net)
    sizes = [(p.numel(), p.requires_grad) for p in net.parameters()]
    assert sum(n for n, free in sizes if not free) / sum(n for n, _ in sizes) == pytest.approx(0.849, abs=0.001)


def test_ten_updates_leave_what_is_frozen_as_it_was():
    net = unet()
    FreezeConvolutions().apply(net)
    before = {name: p.clone() for name, p in net.named_parameters()}
    method = D2O(Denoiser(net.double(), RectifiedFlow(), "flow"), projected(augment=""))
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 1e-3)
    images = torch.rand(4, 1, 8, 8, dtype=torch.float64)
    for method.step in range(10):
        rollout = method.rollout(Batch(images, draws=Draws(0, step=method.step)))
        optimizer.zero_grad()
        method.generator_loss(Batch(images, draws=Draws(0)), rollout)["adversarial"].backward()
        optimizer.step()
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter, before[name].double()) == (not parameter.requires_grad), name


def test_a_network_without_such_layers_is_told():
    with pytest.raises(ValueError, match="tuning=FreezeConvolutions.*matches no convolution in a block of Affine"):
        FreezeConvolutions().apply(Affine(1.0, 0.0))


def test_what_it_refuses():
    plain = PlainDiscriminator(net=Rows())
    for settings, message in [
        (dict(r1_gamma=-1.0), "r1_gamma=-1"),
        (dict(r1_every=0), "r1_every=0"),
        (dict(num_steps=0), "num_steps=0"),
    ]:
        with pytest.raises(ValueError, match=message):
            D2O(denoiser(), plain, **settings)
    with pytest.raises(ValueError, match="prediction=eps"):
        D2O(denoiser(kind="eps"), plain)
    with pytest.raises(ValueError, match="compares fakes"):
        D2O(denoiser(), siamese())
    with pytest.raises(ValueError, match="lcm"):
        D2O(denoiser(process=EDM(), kind="edm"), plain, num_steps=2)
