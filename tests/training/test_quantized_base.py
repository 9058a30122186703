"""Adapters on a network whose own linear layers are kept in 8 or 4 bits: trained, resumed exactly, shipped whole."""

from copy import deepcopy

import pytest
import torch
from captioned_runs import SETTING
from diffusers import DiffusionPipeline
from small_runs import AdamW, Trainer, assert_same_checkpoint, method_of
from test_resume import stop_after
from tiny_pipelines import Captioned
from torch import nn

from sparring.generators import Pretrained
from sparring.generators.loading import load_pipeline
from sparring.generators.merging import merged_network
from sparring.networks.adapters import DiffFit, LoRA
from sparring.networks.derivatives import directional, jvp
from sparring.networks.quantized import Quantized, quantize
from sparring.recipes.compose import compose
from sparring.training import Interrupted

pytestmark = pytest.mark.slow

CELLS = [("sd15", "int8"), ("sd15", "nf4"), ("flux", "int8")]
ERRORS = {"int8": 0.015, "nf4": 0.12}  # of normal weights, as a share of their norm
SHARE = {"int8": 1.0, "nf4": 0.5}  # of a byte for each weight; those of the tiny networks fill their groups


def tuned(pipeline, frozen):
    return Pretrained(str(pipeline), tuning=LoRA(rank=2), frozen=frozen, condition_dropout=0.3)


def trainer(pipeline, out, frozen, name="diffusion", **settings):
    torch.manual_seed(0)
    made = method_of(compose(name, SETTING), tuned(pipeline, frozen))
    made.sample_steps = 2
    rates = {"generator_optimizer": AdamW(lr=0.05), "discriminator_optimizer": AdamW(lr=1e-3)}
    rest = {"batch_size": 2, "num_samples": 1, "tracker": None, "ema_decay": 0.5, "log_every": 1}
    return Trainer(made, Captioned(), out=out, steps=2, **rates, **rest, **settings)


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Trainers after two steps, by cell."""
    folder = tmp_path_factory.mktemp("quantized")
    found = {}
    for kind, frozen in CELLS:
        found[kind, frozen] = trainer(tiny(kind), folder / f"{kind} {frozen}", frozen)
        found[kind, frozen].fit()
    return found


def quantized(kind, weight, bias=None):
    """A quantised layer with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None).to(weight.dtype)
    layer.weight.data = weight
    if bias is not None:
        layer.bias.data = bias
    net = nn.Sequential(layer.requires_grad_(False))
    quantize(net, kind)
    return net[0]


def test_weights_on_the_grid_are_kept_exactly_and_others_nearly():
    whole = torch.randint(-127, 128, (5, 40))
    whole[:, 0] = 127
    weight = whole * torch.tensor([[0.5], [1.0], [2.0], [0.25], [8.0]])
    torch.testing.assert_close(quantized("int8", weight).weight, weight, rtol=0, atol=0)
    levels = quantized("nf4", torch.eye(3)).pairs[:16, 1]  # the second of two in a byte
    weight = (levels[torch.randint(0, 16, (3, 64))] * 4).contiguous()
    weight[:, 5] = -4
    torch.testing.assert_close(quantized("nf4", weight).weight, weight, rtol=0, atol=0)
    weight = torch.randn(48, 96)
    for kind, most in ERRORS.items():
        error = (quantized(kind, weight).weight - weight).norm() / weight.norm()
        assert most / 4 < error < most
        assert torch.equal(quantized(kind, torch.zeros(3, 7)).weight, torch.zeros(3, 7))


@pytest.mark.parametrize("kind", ERRORS)
def test_a_layer_computes_as_a_linear_one_and_keeps_nothing_whole_for_the_backward_pass(kind):
    layer = quantized(kind, torch.randn(12, 40), torch.randn(12))
    x = torch.randn(2, 3, 40, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = layer(x)
    assert not kept
    torch.testing.assert_close(y, nn.functional.linear(x, layer.weight, layer.bias), rtol=0, atol=0)
    direction = torch.randn_like(y)
    (found,) = torch.autograd.grad((y * direction).sum(), x)
    torch.testing.assert_close(found, direction @ layer.weight)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("mode", ["forward", "reverse", "difference"])
def test_derivatives_along_a_direction_and_second_ones_are_those_of_the_linear_layer(kind, mode):
    torch.manual_seed(0)
    layers = [quantized(kind, torch.randn(n, m).double(), torch.randn(n).double()) for m, n in ((6, 12), (12, 5))]
    whole = [nn.Linear(layer.in_features, layer.out_features).double() for layer in layers]
    for one, layer in zip(whole, layers, strict=True):
        one.weight.data, one.bias.data = layer.weight, layer.bias.data
    nets = [nn.Sequential(first, nn.Tanh(), second) for first, second in (layers, whole)]
    x, along = torch.randn(2, 3, 6).double(), torch.randn(2, 3, 6).double()
    found, exact = (jvp(net, [x], [along], mode=mode) for net in nets)
    torch.testing.assert_close(found, exact)
    at = x, x[:, 0, 0]
    slopes = [directional(lambda x, t, net=net: net(x) * t[:, None, None], *at, [(along, None)])[1] for net in nets]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize(("kind", "frozen"), CELLS)
def test_gradient_checkpointing_changes_nothing(runs, tiny, tmp_path, kind, frozen):
    run = trainer(tiny(kind), tmp_path / "twice", frozen, gradient_checkpointing=True)
    assert run.method.generator.net.is_gradient_checkpointing
    run.fit()
    assert_same_checkpoint(runs[kind, frozen].folder.path, tmp_path / "twice", 2)


@pytest.mark.parametrize(("kind", "frozen"), CELLS)
def test_a_whole_network_has_a_derivative_along_a_direction(tiny, kind, frozen):
    """With gradient checkpointing, too; forward mode against reverse mode, in float32."""
    denoiser = load_pipeline(tiny(kind))[0]
    denoiser.requires_grad_(False).eval()
    quantize(denoiser.net, frozen)
    denoiser.enable_gradient_checkpointing()
    x, t = torch.randn(2, *denoiser.latent_shape((3, 16, 16))), torch.tensor([300.0, 700.0])
    condition = denoiser.condition(["a", "b"], x)
    along = [torch.randn_like(x)]
    found, exact = (
        jvp(lambda x: denoiser.network(x, t, condition), [x], along, mode=mode)[1] for mode in ("forward", "reverse")
    )
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max()))


@pytest.mark.parametrize(("kind", "frozen"), CELLS)
def test_the_bytes_of_the_networks_linear_layers(runs, kind, frozen):
    net = runs[kind, frozen].method.generator.net
    layers = [layer for layer in net.modules() if isinstance(layer, Quantized)]
    assert len(layers) > 10
    rest = [m for m in net.modules() if type(m) is nn.Linear and not m.weight.requires_grad]
    assert not rest
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    scales = sum(layer.scale.numel() for layer in layers)
    kept = sum(
        p.numel() * p.element_size() for layer in layers for name, p in layer.named_parameters() if name != "bias"
    )
    padding = 32 * len(layers)
    assert kept <= weights * {"int8": 1.0, "nf4": 0.5}[frozen] + 2 * scales + padding
    assert {p.dtype for p in net.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(("kind", "frozen"), CELLS)
def test_a_stopped_run_ends_where_the_uninterrupted_one_does(runs, tiny, tmp_path, kind, frozen):
    run = trainer(tiny(kind), tmp_path / "cut", frozen)
    stop_after(run, 1)
    with pytest.raises(Interrupted):
        run.fit()
    trainer(tiny(kind), tmp_path / "cut", frozen).fit(resume=True)
    whole = runs[kind, frozen].folder.path
    assert_same_checkpoint(whole, tmp_path / "cut", 2)
    file = "samples/000002.png"
    assert (whole / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


def test_a_run_goes_on_with_the_same_bits_only(tiny, tmp_path):
    run = trainer(tiny("sd15"), tmp_path / "run", "int8")
    stop_after(run, 1)
    with pytest.raises(Interrupted):
        run.fit()
    with pytest.raises(ValueError, match="are not those that this run started with"):
        trainer(tiny("sd15"), tmp_path / "run", "nf4").fit(resume=True)


@pytest.mark.parametrize(("kind", "frozen"), CELLS)
def test_what_is_shipped_is_the_network_that_was_trained(runs, tiny, kind, frozen):
    """Its own weights as the layers computed with them, and the adapters multiplied in."""
    run = runs[kind, frozen]
    shipped, average = load_pipeline(run.folder.path)[0], deepcopy(run.ema.module)
    before, near = load_pipeline(tiny(kind))[0].net.state_dict(), 0
    assert not [
        key for key in shipped.net.state_dict() if "rounded" in key or "codes" in key or "scale" in key.split(".")
    ]
    for name, tensor in shipped.net.state_dict().items():
        error = (tensor - before[name]).norm() / before[name].norm().clamp(min=1e-6)
        near += 0 < error < ERRORS[frozen]
    assert near > 10  # the rounded ones without an adapter
    x, t = torch.randn(2, *shipped.latent_shape((3, 16, 16))), torch.tensor([0.3, 0.8])
    condition = shipped.condition(["a", "b"], x)
    plain = merged_network(average.net).state_dict()
    for name, tensor in shipped.net.state_dict().items():
        assert torch.equal(plain[name].float(), tensor), name
    average.net.float()  # in bf16 the activations of these networks are 5 % off
    with torch.no_grad():
        exact, found = (one(x, t, condition).output for one in (shipped, average))
    assert (found - exact).norm() / exact.norm() < 0.01


@pytest.mark.parametrize(("kind", "frozen"), CELLS)
def test_diffusers_loads_the_adapters(runs, tiny, kind, frozen):
    pipe = DiffusionPipeline.from_pretrained(tiny(kind))
    pipe.load_lora_weights(runs[kind, frozen].folder.path / "lora")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    net = pipe.unet if kind == "sd15" else pipe.transformer
    shipped = load_pipeline(runs[kind, frozen].folder.path)[0].net.state_dict()
    for name, tensor in net.state_dict().items():
        difference = (tensor - shipped[name]).norm() / tensor.norm().clamp(min=1e-6)
        assert difference < ERRORS[frozen], name


@pytest.mark.parametrize("name", ["adt", "sadm", "ddo", "cafm", "scm"])
def test_methods_with_teachers_references_and_derivatives_take_it(tiny, tmp_path, name):
    trainer(tiny("sd15"), tmp_path / name, "int8", name, gradient_checkpointing=True).fit()


@pytest.mark.parametrize("tuning", [None, DiffFit()])
def test_it_is_refused_where_the_networks_weights_are_trained(tiny, tuning):
    with pytest.raises(ValueError, match="`frozen=int8`: the network's own weights are frozen under LoRA only"):
        Pretrained(str(tiny("sd15")), tuning=tuning, frozen="int8")


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="`frozen=nf4`: Conv2d has no linear layers of its own; take bf16"):
        quantize(nn.Conv2d(1, 1, 1), "nf4")


def test_compile_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="`compile`: not with a base in 8 or 4 bits"):
        trainer(tiny("sd15"), tmp_path / "run", "int8", compile=True)
