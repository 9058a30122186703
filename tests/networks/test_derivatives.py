"""Derivatives through networks: closed forms, every mode against every other, stock networks, and what is refused."""

import math

import pytest
import torch
from diffusers import (
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from tiny_pipelines import UNET
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sparring.networks import MLP
from sparring.networks.adapters import LoRA
from sparring.networks.derivatives import differentiable, directional, jvp
from sparring.networks.modes import checkpointed

B = 3


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(a, b, rtol):
    """As a whole, not number by number."""
    assert float((a - b).norm()) <= rtol * float(b.norm())


# -- closed forms of potentials ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reverse", "interval", "difference"])
def test_a_linear_potential_has_the_slope_g_w_plus_b(mode):
    """D = g.x + b t: J = g.w + b along (w, 1) and g.w along (w, still), in every mode and for every step."""
    g, w, x, t = normal(4), normal(B, 4, seed=1), normal(B, 4, seed=2), normal(B, seed=3)
    value, slopes = directional(lambda x, t: x @ g + 7 * t, x, t, [(w, torch.ones(B)), (w, None)], mode=mode, step=0.3)
    torch.testing.assert_close(value, x @ g + 7 * t)
    torch.testing.assert_close(slopes, torch.stack([w @ g + 7, w @ g]))


def test_a_quadratic_potential_and_what_an_interval_leaves_out():
    """D = x'Qx/2 + c t^2: J = x'Qw + 2 c t; a difference is exact, an interval h differs by -h (w'Qw/2 + c)."""
    q, x, w, t, c = normal(4, 4), normal(B, 4, seed=1), normal(B, 4, seed=2), normal(B, seed=3), 0.7
    q = q + q.T
    along = [(w, torch.ones(B, dtype=torch.float64))]

    def potential(x, t):
        return 0.5 * ((x @ q) * x).sum(1) + c * t**2

    expected = ((x @ q) * w).sum(1) + 2 * c * t
    excess = 0.5 * ((w @ q) * w).sum(1) + c
    h = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    for mode, step, error in [("reverse", 1, 0), ("difference", 0.4, 0), ("interval", 0.1, -0.1), ("interval", h, -h)]:
        found = directional(potential, x, t, along, mode=mode, step=step)[1][0]
        torch.testing.assert_close(found, expected + error * excess)


@pytest.mark.parametrize("omega", [1.0, 30.0, 1000.0])
def test_fast_times_are_exact_in_reverse_and_wrong_by_a_third_derivative_in_a_difference(omega):
    """D = sin(omega t) + g.x: the central difference of step h is sin(omega h) / h times cos(omega t)."""
    x, w, t, h = normal(B, 2), normal(B, 2, seed=1), normal(B, seed=2), 1e-3
    along = [(w, torch.ones(B, dtype=torch.float64))]

    def potential(x, t):
        return (omega * t).sin() + x.sum(1)

    still = w.sum(1)
    exact = directional(potential, x, t, along)[1][0]
    torch.testing.assert_close(exact, omega * (omega * t).cos() + still)
    rough = directional(potential, x, t, along, mode="difference", step=h)[1][0]
    torch.testing.assert_close(rough, math.sin(omega * h) / h * (omega * t).cos() + still)


def test_one_call_for_two_directions_is_two_calls_and_rows_do_not_mix():
    net = MLP(in_channels=2, width=8).double()
    x, t = normal(B, 2, 1, 1), torch.rand(B, dtype=torch.float64)
    along = [(normal(B, 2, 1, 1, seed=s), normal(B, seed=s)) for s in (1, 2)]

    def slopes(x, *directions):
        return directional(lambda x, t: net(x, t).sample.square(), x, t, directions)[1]

    both = slopes(x, *along)
    torch.testing.assert_close(both, torch.cat([slopes(x, one) for one in along]))
    moved = torch.cat([x[:2], x[2:] + 1])
    torch.testing.assert_close(slopes(moved, *along)[:, :2], both[:, :2])
    assert not torch.allclose(slopes(moved, *along)[:, 2], both[:, 2])


@pytest.mark.parametrize("mode", ["reverse", "interval", "difference"])
def test_the_gradient_of_a_slope_by_parameters_and_by_directions(mode):
    """Through layer normalisation, whose parameter gradient is wrong behind a forward-mode derivative."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.SiLU(), nn.Linear(6, 1, bias=False)).double()
    net[1].weight.data += normal(6)
    x, t, w = normal(B, 2), normal(B, seed=1), normal(B, 2, seed=2).requires_grad_()

    def loss(w):
        along = [(w, torch.ones(B, dtype=torch.float64))]
        _, slopes = directional(lambda x, t: net(torch.cat([x, t[:, None]], 1)), x, t, along, mode=mode, step=0.1)
        return (slopes - 1).square().mean()

    loss(w).backward()
    for parameter in (*net.parameters(), w):
        gradient, h = parameter.grad.flatten()[0].item(), 1e-4
        place = parameter.data.view(-1)
        around = []
        for sign in (1, -1):
            place[0] += sign * h
            around.append(loss(w.detach()).item())
            place[0] -= sign * h
        assert (around[0] - around[1]) / (2 * h) == pytest.approx(gradient, rel=1e-5, abs=1e-8)


def test_without_a_graph_the_directions_still_learn_and_the_potential_does_not():
    q = normal(2, 2).requires_grad_()
    x, w = normal(B, 2), normal(B, 2, seed=1).requires_grad_()
    value, slopes = directional(lambda x, t: ((x @ q) * x).sum(1), x, torch.zeros(B), [(w, None)], create_graph=False)
    assert not value.requires_grad
    (gradient,) = torch.autograd.grad(slopes.sum(), w)
    torch.testing.assert_close(gradient, x @ (q + q.T).detach())


# -- derivatives of vectors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["forward", "reverse", "difference"])
def test_the_jvp_of_a_bilinear_function_is_the_product_rule(mode):
    """f = (A x) t: df = (A dx) t + (A x) dt; bilinear along a line, so a central difference is exact."""
    a, x, dx, t, dt = normal(5, 4), normal(B, 4, seed=1), normal(B, 4, seed=2), normal(B, seed=3), normal(B, seed=4)
    value, derivative = jvp(lambda x, t: (x @ a.T) * t[:, None], (x, t), (dx, dt), mode=mode, step=0.5)
    torch.testing.assert_close(value, (x @ a.T) * t[:, None])
    torch.testing.assert_close(derivative, (dx @ a.T) * t[:, None] + (x @ a.T) * dt[:, None])


def test_a_primal_that_is_not_used_counts_nothing():
    x, t = normal(B, 4), normal(B)
    for mode in ("forward", "reverse", "difference"):
        torch.testing.assert_close(jvp(lambda x, t: 2 * x, (x, t), (x, t), mode=mode)[1], 2 * x)


def unet(**settings):
    blocks = dict(down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"))
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(16, 32))
    net = UNet2DModel(**sizes, **blocks, norm_num_groups=8, attention_head_dim=8, **settings)
    return net, (1, 8, 8), lambda x, t: net(x, t).sample


def conditional():
    net = UNet2DConditionModel(cross_attention_dim=32, attention_head_dim=8, **UNET)
    text = normal(B, 5, 32)
    return net, (4, 16, 16), lambda x, t: net(x, t, encoder_hidden_states=text.to(x.dtype)).sample


def dit():
    sizes = dict(sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2)
    net = DiTTransformer2DModel(**sizes, num_attention_heads=2, attention_head_dim=8, num_embeds_ada_norm=3)
    return net.eval(), (4, 8, 8), lambda x, t: net(x, t, class_labels=torch.arange(B)).sample


def sd3():
    net = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
    )
    text, pooled = normal(B, 5, 64), normal(B, 64)

    def call(x, t):
        given = dict(encoder_hidden_states=text.to(x.dtype), pooled_projections=pooled.to(x.dtype))
        return net(x, timestep=t, **given).sample

    return net, (4, 8, 8), call


def flux():
    net = FluxTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    text, pooled, places = normal(B, 5, 32), normal(B, 32), (torch.zeros(6, 3), torch.zeros(5, 3))

    def call(x, t):
        given = dict(encoder_hidden_states=text.to(x.dtype), pooled_projections=pooled.to(x.dtype))
        return net(x, timestep=t, img_ids=places[0], txt_ids=places[1], **given).sample

    return net, (6, 8), call


NETWORKS = pytest.mark.parametrize("make", [unet, conditional, dit, sd3, flux])


def at(shape, dtype=torch.float64):
    """A point and a direction there; half precision knows its times and 1000 times these, which FLUX rounds."""
    return (
        (normal(B, *shape, dtype=dtype), torch.tensor([0.125, 0.25, 0.5], dtype=dtype)),
        (normal(B, *shape, seed=1, dtype=dtype), torch.ones(B, dtype=dtype)),
    )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@NETWORKS
def test_forward_reverse_and_difference_agree_in_stock_networks(make):
    """The time embeddings of diffusers are in float32, which limits a difference; reverse and forward agree exactly."""
    net, shape, call = make()
    net.double()
    place, direction = at(shape)
    found = {mode: jvp(call, place, direction, mode=mode, step=1e-4) for mode in ("forward", "reverse", "difference")}
    plain = call(*place).detach()
    for value, _ in found.values():
        close(value, plain, 1e-6)
    close(found["forward"][1], found["reverse"][1], 1e-10)
    close(found["difference"][1], found["reverse"][1], 1e-2)


def penalty(call, place):
    """The mean squared slope along (x, 1) of the mean square of a network's output."""
    along = [(place[0], torch.ones_like(place[1]))]
    slopes = directional(lambda x, t: call(x, t).flatten(1).square().mean(1), *place, along)[1]
    return slopes.square().mean()


def penalty_gradients(net, call, place):
    """Its gradients by the parameters."""
    net.zero_grad()
    penalty(call, place).backward()
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@NETWORKS
def test_gradients_of_slopes_pass_stock_networks_and_gradient_checkpointing(make):
    net, shape, call = make()
    net.double()
    place, _ = at(shape)
    plain = penalty_gradients(net, call, place)
    assert plain.isfinite().all()
    assert plain.abs().max() > 0
    trained = [p for p in net.parameters() if p.grad is not None]
    weights, h = parameters_to_vector(trained).detach(), 1e-3
    around = []
    for sign in (1, -1, 0):  # the loss rises along its gradient by the length of the gradient
        vector_to_parameters(weights + sign * h * plain / plain.norm(), trained)
        around.append(penalty(call, place).item())
    assert (around[0] - around[1]) / (2 * h) == pytest.approx(float(plain.norm()), rel=1e-2)

    net.enable_gradient_checkpointing(checkpointed)
    close(penalty_gradients(net, call, place), plain, 1e-8)
    value, derivative = jvp(call, *at(shape))
    net.disable_gradient_checkpointing()
    close(derivative, jvp(call, *at(shape))[1], 1e-12)


@NETWORKS
def test_half_precision_is_a_few_percent_off_and_leaves_training_alone(make):
    """bf16 has 8 bits: 0.4 % each, some operations deep."""
    net, shape, call = make()
    place, direction = at(shape, torch.float32)
    exact = jvp(call, place, direction)[1]
    gradients = penalty_gradients(net, call, place)
    with torch.autocast("cpu", torch.bfloat16):
        for mode in ("forward", "reverse"):
            close(jvp(call, place, direction, mode=mode)[1].float(), exact, 0.06)
        close(penalty_gradients(net, call, place), gradients, 0.15)
        torch.testing.assert_close(jvp(call, place, direction, mode="difference")[0], call_outside(call, place))
        jvp(call, place, direction)
        net.zero_grad()
        loss = call(*place).square().mean()
    loss.backward()
    assert all(p.grad is not None for n, p in net.named_parameters() if "to_q" in n or "conv_in" in n)


def call_outside(call, place):
    with torch.autocast("cpu", enabled=False):
        return call(*place).detach()


def test_adapters_are_differentiated_too():
    net, shape, call = conditional()
    LoRA(rank=2).apply(net)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn_like(parameter)
    place, direction = at(shape, torch.float32)
    forward, reverse = (jvp(call, place, direction, mode=mode)[1] for mode in ("forward", "reverse"))
    close(forward, reverse, 1e-4)
    adapters = {name for name, p in net.named_parameters() if p.requires_grad}
    penalty_gradients(net, call, place)
    assert {name for name, p in net.named_parameters() if p.grad is not None} == adapters
    net.to(torch.bfloat16)
    half = jvp(call, [x.bfloat16() for x in place], [x.bfloat16() for x in direction])[1]
    close(half.float(), forward, 0.1)


# -- what is left behind, and what is refused --------------------------------------------------------------------------


def kernels():
    own = torch.backends.cuda
    return own.math_sdp_enabled(), own.flash_sdp_enabled(), own.mem_efficient_sdp_enabled()


def test_the_kernel_of_attention_is_as_before():
    net, shape, call = unet()
    before = kernels()
    output = call(*at(shape, torch.float32)[0])
    jvp(call, *at(shape, torch.float32))
    with differentiable():
        assert kernels() != before
    with pytest.raises(RuntimeError, match="size"):
        jvp(lambda x: x + torch.ones(7), (torch.ones(2),), (torch.ones(2),))
    assert kernels() == before
    assert torch.equal(call(*at(shape, torch.float32)[0]), output)


def test_a_network_that_asks_for_a_fused_kernel_gets_the_plain_one():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = normal(B, 1, 4, 8)

    def call(x):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(x, x, x)

    with pytest.raises(RuntimeError):
        torch.func.jvp(call, (q,), (q,))
    close(jvp(call, (q,), (q,))[1], jvp(call, (q,), (q,), mode="reverse")[1], 1e-10)


def test_a_kernel_of_another_package_is_refused(monkeypatch):
    from diffusers.models import attention_dispatch

    other = (attention_dispatch.AttentionBackendName.FLASH, None)
    monkeypatch.setattr(attention_dispatch._AttentionBackendRegistry, "get_active_backend", lambda: other)
    with pytest.raises(ValueError, match="'flash' has no second derivative"), differentiable():
        pass


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.exp()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient


def test_what_a_mode_cannot_pass_is_said():
    x, t = normal(B, 2), normal(B)
    for mode in ("forward", "reverse"):
        with pytest.raises(ValueError, match=f"`mode={mode}`: ") as refusal:
            jvp(Once.apply, (x,), (x,), mode=mode)
        assert "\n" not in str(refusal.value)
    with pytest.raises(RuntimeError, match="size"):  # not ours
        jvp(lambda x: x + torch.ones(7), (x,), (x,))
    for call, message in {
        lambda: jvp(torch.exp, (x,), (x,), mode="backward"): "`mode=backward`",
        lambda: jvp(torch.exp, (x,), (x,), mode="difference", step=0.0): "`step=0.0`",
        lambda: directional(lambda x, t: x, x, t, [(x, None)], mode="forward"): "`mode=forward`",
        lambda: directional(lambda x, t: x, x, t, [(x, None)], mode="interval", step=-1.0): "`step=-1.0`",
        lambda: directional(lambda x, t: x, x, t.long(), [(x, None)]): "int64",
        lambda: directional(lambda x, t: x.sum(), x, t, [(x, None)]): r"3 rows gave numbers of shape \(\)",
        lambda: directional(lambda x, t: x.sum(1), x, t, [(x, t)]): "does not depend on `t`",
        lambda: directional(lambda x, t: x.sum(1) + t.long(), x, t, [(x, t)]): "does not depend on `t`",
        lambda: directional(lambda x, t: t, x, t, [(x, t)]): "does not depend on `x`",
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_a_compiled_network_runs_as_it_is_written():
    net = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 3)).double()
    x = normal(B, 4)
    expected = jvp(net, (x,), (x,))[1]
    compiled = torch.compile(net, backend="aot_eager")
    compiled(x)
    torch.testing.assert_close(jvp(compiled, (x,), (x,), mode="reverse")[1], expected)
