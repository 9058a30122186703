"""Experts of noise levels: the classifier itself at first, a row's own expert, the distillation by hand."""

import pytest
import torch
from test_guides import At

from sparring.backbones import Experts, Pixels, SmallConvNet
from sparring.data import Batch, Digits, Draws
from sparring.generators import Denoiser, Guide
from sparring.methods.guides.ppap import PPAP
from sparring.networks import MLP, HalfUNet
from sparring.process import EDM, VP, RectifiedFlow


def classifier(**settings):
    return SmallConvNet(in_channels=1, widths=[8, 8], num_classes=10, pretrain="classifier", epochs=1, **settings)


def experts(moved=False, **settings):
    torch.manual_seed(0)
    net = Experts(base=classifier(), **{"experts": 4, "rank": 2} | settings).double()
    if moved:
        for parameter in net.adapters.values():
            torch.nn.init.normal_(parameter, std=0.2)
    return net


def method(net, process=None, **settings):
    process = process or RectifiedFlow()
    made = PPAP(Guide(net, process), Denoiser(MLP(), process, "v"), **settings)
    made.samples.data = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return made


X = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_zero_adapters_are_the_classifier_bit_for_bit_and_only_adapters_learn():
    net = experts(experts=1)
    assert torch.equal(net(X, torch.linspace(0, 5, 6)), net.base.logits(X))
    torch.testing.assert_close(experts()(X, torch.linspace(0, 5, 6)), net.base.logits(X))
    assert {name.partition(".")[0] for name, p in net.named_parameters() if p.requires_grad} == {"adapters"}
    assert not any("classifier" in name for name in net.adapters)


def test_an_adapted_weight_is_the_sum_with_a_product_of_low_rank():
    net = experts(moved=True, alpha=8.0)
    a, b = net.adapters["stages-1-conv-weight-a"][2], net.adapters["stages-1-conv-weight-b"][2]
    weight = net.base.stages[1].conv.weight
    expected = weight + 8.0 / 2 * torch.einsum("or,ri->oi", b, a).view(8, 8, 3, 3)
    torch.testing.assert_close(net.weights(2)["base.stages.1.conv.weight"], expected)
    bias = net.base.stages[1].norm.bias + net.adapters["stages-1-norm-bias"][2]
    assert torch.equal(net.weights(2)["base.stages.1.norm.bias"], bias)


def test_each_row_sees_the_expert_of_its_own_level_in_any_order():
    net = experts(moved=True)
    time = torch.tensor([3.5, 0.2, 1.0, 1.5, 2.5, 0.9], dtype=torch.float64)  # edges 1, 2, 3
    assert net.expert_of(time).tolist() == [3, 0, 0, 1, 2, 0]
    whole = net(X, time)
    for row in range(6):
        torch.testing.assert_close(net(X[row : row + 1], time[row : row + 1]), whole[row : row + 1])
    assert (net(X, torch.zeros(6)) - whole)[[0, 3, 4]].abs().amax(1).min() > 1e-3


def test_the_loss_is_the_divergence_from_the_sharpened_classifier():
    process, net = RectifiedFlow(), experts(moved=True)
    made = method(net, times=At(0.4))
    batch = Batch(X, draws=Draws(3, phase="x"))
    loss = made.generator_loss(batch, made.rollout(batch))["distillation"]
    draws = Draws(3, phase="x")
    x_0 = made.samples[draws.integers(20, (6,))]
    t = torch.full((6,), 0.4, dtype=torch.float64)
    x_t = process.add_noise(x_0, draws.normal((6, 1, 8, 8)).double(), t)
    clean, noisy = (net.base.logits(x_0) / 0.25).softmax(1), made.generator(x_t, t).softmax(1)
    torch.testing.assert_close(loss, (clean * (clean / noisy).log()).sum(1).mean())


def test_at_no_noise_and_temperature_1_there_is_nothing_to_learn():
    made = method(experts(), times=At(0.0), temperature=1.0)
    batch = Batch(X, draws=Draws(3))
    loss = made.generator_loss(batch, made.rollout(batch))["distillation"]
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    assert max(float(p.grad.abs().max()) for p in made.generator.net.adapters.values()) < 1e-12
    sharpened = method(experts(), times=At(0.0))
    assert sharpened.generator_loss(batch, sharpened.rollout(batch))["distillation"] > 1e-3


def test_ranges_are_equal_parts_of_the_time_and_the_classifier_is_trained_before():
    process, data = VP(), Digits()
    net = experts().float()
    denoiser = Denoiser(MLP(), process, "v")
    made = PPAP(Guide(net, process), denoiser, num_samples=3, num_steps=1)
    made.denoiser.generate = lambda *_, latents, **__: latents
    before = net.base.stages[0].conv.weight.clone()
    made.prepare(data)
    assert net.edges.tolist() == [249.0, 499.0, 749.0]
    assert made.samples.shape == (3, 1, 8, 8)
    assert (net.base.stages[0].conv.weight - before).abs().max() > 1e-3
    assert net.base.accuracy > 0
    assert not any(p.requires_grad for p in net.base.parameters())


def test_what_does_not_fit_is_refused():
    denoiser = Denoiser(MLP(), VP(), "v")
    with pytest.raises(ValueError, match="`generator.net` is a HalfUNet, and PPAP trains Experts"):
        PPAP(Guide(HalfUNet(), VP()), denoiser)
    with pytest.raises(ValueError, match="`experts=0` and `rank=2` must be at least 1"):
        experts(experts=0)
    with pytest.raises(ValueError, match="this backbone knows no classes"):
        Experts(base=Pixels())(X, torch.zeros(6))
    with pytest.raises(ValueError, match="`temperature=0` above 0"):
        PPAP(Guide(experts(), VP()), denoiser, temperature=0)
    with pytest.raises(ValueError, match="`process=EDM`: it shows networks other images than x_t"):
        PPAP(Guide(experts(), EDM()), denoiser)
