"""The denoiser: conversions between prediction types, equal losses, and how each kind of network is called."""

import itertools
import warnings

import pytest
import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel, UNet2DModel
from torch import nn

from sparring.data import StoredImages
from sparring.generators import Denoiser, Prediction
from sparring.process import EDM, SNR, VP, EDMWeighting, RectifiedFlow, SNRPlusOne

PROCESSES = {
    "vp-linear": VP(),
    "vp-cosine": VP(schedule="cosine"),
    "vp-zero-snr": VP(zero_terminal_snr=True),
    "edm": EDM(sigma_data=0.6),
    "flow": RectifiedFlow(),
}
PAIRS = [
    (name, kind)
    for name, kind in itertools.product(PROCESSES, ("eps", "x0", "v", "flow", "edm"))
    if (kind != "edm" or name == "edm") and (kind, name) != ("eps", "vp-zero-snr")
]
T = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


class Plain(nn.Module):
    """A network of the simplest kind, which remembers what it was called with."""

    def __init__(self, out_channels=1):
        super().__init__()
        self.conv = nn.Conv2d(1, out_channels, 1)

    def forward(self, x, time):
        self.seen = (x, time)
        return self.conv(x)


class Labelled(Plain):
    num_classes = 4

    def forward(self, x, time, labels):
        self.labels = labels
        return (super().forward(x, time),)


class MaybeLabelled(Plain):
    def forward(self, x, time, y=None):
        self.labels = y
        return super().forward(x, time)


class NeedsText(Plain):
    def forward(self, x, time, encoder_hidden_states):
        return super().forward(x, time)


class NeedsMore(Plain):
    def forward(self, x, time, labels, text):
        return super().forward(x, time)


def unet(**kwargs):
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    return UNet2DModel(in_channels=1, out_channels=1, **blocks, **sizes, **kwargs)


def dit():
    sizes = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "sample_size": 8, "patch_size": 2}
    return DiTTransformer2DModel(in_channels=1, out_channels=2, num_embeds_ada_norm=10, norm_num_groups=1, **sizes)


def images(seed=0):
    torch.manual_seed(seed)
    return torch.randn(25, 2, 3, 3, dtype=torch.float64), torch.randn(25, 2, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_round_trips(name, kind):
    """A perfect output gives back x_0, eps, v and flow; each of these, taken as an output, gives back the others."""
    process, (x_0, eps) = PROCESSES[name], images()
    denoiser = Denoiser(Plain(), process, kind)
    x_t = process.add_noise(x_0, eps, T)
    prediction = Prediction(denoiser.target(x_0, eps, T), x_t, T, kind, process)
    alpha, sigma = process.alpha(T).reshape(-1, 1, 1, 1), process.sigma(T).reshape(-1, 1, 1, 1)
    truth = {"x0": x_0, "eps": eps, "v": alpha * eps - sigma * x_0, "flow": eps - x_0}
    for other, expected in truth.items():
        tolerance = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(getattr(prediction, other), expected, **tolerance)
        again = Prediction(getattr(prediction, other), x_t, T, other, process)
        torch.testing.assert_close(again.x0, x_0, **tolerance)
        torch.testing.assert_close(again.eps, eps, **tolerance)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_losses_are_equal_after_weighting(name, kind):
    """|x_0 - x_0_pred|^2 = x0_slope^2 |target - output|^2 for any output, right or wrong."""
    process, (x_0, eps) = PROCESSES[name], images()
    denoiser = Denoiser(Plain(), process, kind)
    output = images(1)[0]
    prediction = Prediction(output, process.add_noise(x_0, eps, T), T, kind, process)
    in_x0 = (prediction.x0 - x_0).square().flatten(1).sum(1)
    in_output = (denoiser.target(x_0, eps, T) - output).square().flatten(1).sum(1)
    torch.testing.assert_close(in_x0, denoiser.x0_slope(T).square() * in_output, rtol=1e-9, atol=0)
    in_eps = (prediction.eps - eps).square().flatten(1).sum(1)
    torch.testing.assert_close(in_x0 * SNR()(process.log_snr(T)), in_eps, rtol=1e-8, atol=0)
    if isinstance(process, VP):
        in_v = (prediction.v - denoiser_target("v", process, x_0, eps)).square().flatten(1).sum(1)
        torch.testing.assert_close(in_x0 * SNRPlusOne()(process.log_snr(T)), in_v, rtol=1e-8, atol=0)
    if isinstance(process, RectifiedFlow):
        in_flow = (prediction.flow - (eps - x_0)).square().flatten(1).sum(1)
        torch.testing.assert_close(in_x0, T**2 * in_flow, rtol=1e-9, atol=0)


def denoiser_target(kind, process, x_0, eps):
    return Denoiser(Plain(), process, kind).target(x_0, eps, T)


def test_edm_input_and_target_have_unit_variance():
    """For data of standard deviation sigma_data, exactly: both are p x_0 + q eps with p^2 sigma_data^2 + q^2 = 1."""
    process = EDM(sigma_data=0.6)
    denoiser = Denoiser(Plain(), process, "edm")
    one, zero = torch.ones(25, 1, 1, 1, dtype=torch.float64), torch.zeros(25, 1, 1, 1, dtype=torch.float64)
    for mix in (
        lambda x_0, eps: process.model_input(process.add_noise(x_0, eps, T), T),
        lambda x_0, eps: denoiser.target(x_0, eps, T),
    ):
        variance = 0.6**2 * mix(one, zero) ** 2 + mix(zero, one) ** 2
        torch.testing.assert_close(variance, one, rtol=1e-12, atol=0)
    weight = EDMWeighting(sigma_data=0.6)(process.log_snr(T)) * denoiser.x0_slope(T) ** 2
    torch.testing.assert_close(weight, torch.ones_like(T), rtol=1e-9, atol=0)


def test_edm_prediction_is_c_skip_x_plus_c_out_output():
    process, (x_t, output) = EDM(sigma_data=0.6), images()
    sigma = process.sigma(T).reshape(-1, 1, 1, 1)
    spread = sigma**2 + 0.36
    expected = 0.36 / spread * x_t + sigma * 0.6 / spread.sqrt() * output
    torch.testing.assert_close(Prediction(output, x_t, T, "edm", process).x0, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_everything_is_finite_at_the_ends(name, kind):
    process = PROCESSES[name]
    x_t, output = images()
    for t in (torch.zeros(25), torch.ones(25)):
        prediction = Prediction(output.float(), x_t.float(), t, kind, process)
        for value in (prediction.x0, prediction.eps, prediction.v, prediction.flow):
            assert value.isfinite().all()
            assert value.dtype == torch.float32
        assert Denoiser(Plain(), process, kind).x0_slope(t).isfinite().all()
    assert getattr(prediction, kind, output.float()).equal(output.float())  # what it predicts comes back unchanged


def test_forward_shows_the_network_what_its_process_says():
    x_t, t = torch.randn(2, 1, 4, 4), torch.tensor([0.25, 1.0])
    for process, kind in ((VP(), "v"), (EDM(), "edm"), (RectifiedFlow(), "flow")):
        denoiser = Denoiser(Plain(), process, kind)
        prediction = denoiser(x_t, t)
        x_in, time = denoiser.net.seen
        assert torch.equal(x_in, process.model_input(x_t, t))
        assert torch.equal(time, process.model_time(t))
        assert torch.equal(prediction.output, denoiser.net.conv(x_in))
        assert prediction.x_t is x_t
    assert denoiser.images_seen == 2


def test_a_unet_is_called_as_diffusers_calls_it():
    torch.manual_seed(0)
    net = unet(num_class_embeds=5).eval()
    denoiser = Denoiser(net, VP(), "eps")
    x, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 4, 2])
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(10)
    with torch.no_grad():
        for time in scheduler.timesteps[:3]:
            expected = net(x, time, class_labels=labels).sample
            torch.testing.assert_close(denoiser.network(x, time, labels), expected)
            t = denoiser.process.t_from_model_time(time.float()).expand(3)
            torch.testing.assert_close(denoiser(x, t, labels).output, expected)
    assert denoiser.images_seen == 18


def test_labels_reach_only_networks_that_take_them():
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([0.25, 0.75]), torch.tensor([1, 3])
    for net, num_classes in ((unet(num_class_embeds=5), 5), (dit(), 10), (Labelled(), 4)):
        denoiser = Denoiser(net, VP(), "eps")
        assert (denoiser.takes_labels, denoiser.num_classes) == (True, num_classes)
        assert denoiser(x, t, labels).x0.shape == x.shape
        with pytest.raises(ValueError, match=f"{type(net).__name__} is class-conditional and no labels were given"):
            denoiser(x, t)
    for net in (unet(), Plain()):
        denoiser = Denoiser(net, VP(), "eps")
        assert (denoiser.takes_labels, denoiser.num_classes) == (False, None)
        assert torch.equal(denoiser(x, t, labels).x0, denoiser(x, t).x0)
    denoiser = Denoiser(MaybeLabelled(), VP(), "eps")
    assert denoiser.takes_labels
    denoiser(x, t)
    assert denoiser.net.labels is None
    denoiser(x, t, labels)
    assert denoiser.net.labels is labels


def test_a_learned_variance_is_dropped():
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.25, 0.75])
    net = Plain(out_channels=2)
    assert torch.equal(Denoiser(net, VP(), "eps")(x, t).output, net.conv(x)[:, :1])
    net = dit().eval()
    labels = torch.tensor([1, 3])
    expected = net(x, torch.tensor([249.0, 749.0]), class_labels=labels).sample
    assert expected.shape[1] == 2
    torch.testing.assert_close(Denoiser(net, VP(), "eps")(x, t, labels).output, expected[:, :1])


def test_half_precision_networks_keep_float32_times_and_give_float32_predictions():
    net = Plain().to(torch.bfloat16)
    prediction = Denoiser(net, VP(), "v")(torch.randn(2, 1, 4, 4), torch.tensor([0.777, 1.0]))
    x_in, time = net.seen
    assert (x_in.dtype, time.dtype) == (torch.bfloat16, torch.float32)
    assert time.tolist() == [776, 999]
    assert {prediction.output.dtype, prediction.x0.dtype, prediction.eps.dtype} == {torch.float32}


def test_gradients_reach_the_network_and_the_images():
    denoiser = Denoiser(unet(), RectifiedFlow(), "flow")
    x_t = torch.randn(2, 1, 8, 8, requires_grad=True)
    denoiser(x_t, torch.tensor([0.3, 0.9])).x0.square().mean().backward()
    assert x_t.grad is not None
    assert all(p.grad is not None for p in denoiser.parameters())


def test_check_passes_good_sizes_without_a_trace():
    denoiser = Denoiser(unet(num_class_embeds=3), VP(), "v")
    denoiser.net.mid_block.eval()
    modes = [module.training for module in denoiser.modules()]
    state = torch.get_rng_state()
    denoiser.check_shape((1, 8, 8))
    assert [module.training for module in denoiser.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert denoiser.images_seen == 0
    assert all(p.grad is None for p in denoiser.parameters())
    Denoiser(dit(), VP(), "eps").check_shape((1, 8, 8))


@pytest.mark.parametrize(
    ("net", "process", "shape", "message"),
    [
        (unet(), VP(), (1, 7, 7), r"UNet2DModel cannot take images of shape \(1, 7, 7\): Sizes of tensors"),
        (unet(), VP(), (3, 8, 8), r"UNet2DModel cannot take images of shape \(3, 8, 8\)"),
        (dit(), VP(), (1, 9, 9), r"is made for images of shape \(1, 8, 8\) and the data has \(1, 9, 9\)"),
        (Plain(out_channels=3), VP(), (1, 8, 8), r"Plain turns images of shape \(1, 8, 8\) into \(3, 8, 8\)"),
        (unet(time_embedding_type="fourier"), EDM(), (1, 8, 8), "not finite; EDM tells it times like"),
    ],
)
def test_check_names_what_does_not_fit(net, process, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        Denoiser(net, process, "v").check_shape(shape)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("net", "process", "kind", "message"),
    [
        (Plain(), VP(), "epsilon", "prediction='epsilon' is unknown; it is one of eps, x0, v, flow, edm"),
        (Plain(), VP(), "edm", "prediction='edm' needs the EDM process, not VP"),
        (Plain(), VP(zero_terminal_snr=True), "eps", "use 'v' or 'x0'"),
        (NeedsMore(), VP(), "eps", "NeedsMore needs text"),
        (NeedsText(), VP(), "eps", "NeedsText needs encoder_hidden_states"),
        (nn.Conv2d(1, 1, 1), VP(), "eps", "Conv2d takes no time"),
    ],
)
def test_wrong_settings_are_named(net, process, kind, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(net, process, kind)


def test_eps_on_a_schedule_that_ends_in_noise_is_warned_of():
    with pytest.warns(UserWarning, match="ends at alpha 5e-05: samplers divide by it"):
        Denoiser(Plain(), VP(schedule="cosine"), "eps")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Denoiser(Plain(), VP(schedule="cosine"), "v")
        Denoiser(Plain(), VP(), "eps")
        Denoiser(Plain(), EDM(), "eps")


def test_a_network_that_knows_no_size_learns_it_from_the_data():
    net = unet()
    assert net.config.sample_size is None
    Denoiser(net, VP(), "v").check_shape((1, 8, 8))
    assert net.config.sample_size == 8


def test_a_denoiser_samples_itself_from_the_noise_of_its_seed():
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False)
    net = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        num_class_embeds=3,
        **blocks,
    )
    denoiser = Denoiser(net, VP(), "v").train()
    images = denoiser.sample(16, steps=10)
    assert images.shape == (16, 1, 8, 8)
    assert images.abs().max() <= 1
    assert denoiser.training
    scheduler = DDIMScheduler.from_config(VP().scheduler("ddim", "v").config)
    scheduler.set_timesteps(10)
    x, labels = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
    net.eval()
    with torch.no_grad():
        for time in scheduler.timesteps:
            x = scheduler.step(net(x, time, labels).sample, time, x).prev_sample
    torch.testing.assert_close(images, x.clamp(-1, 1), rtol=0, atol=1e-5)
    assert not torch.equal(denoiser.sample(16, steps=10, scheduler="dpm"), images)
    assert torch.equal(denoiser.sample(2, steps=10, labels=[2]), denoiser.sample(2, steps=10, labels=[2, 2]))


def test_a_network_without_configuration_learns_the_size_of_its_images_from_the_data():
    denoiser = Denoiser(Plain(), VP(), "v")
    with pytest.raises(ValueError, match="has no `sample_size`"):
        denoiser.sample(1)
    denoiser.check(StoredImages(torch.zeros(2, 1, 6, 6)))
    assert denoiser.sample(3, steps=2).shape == (3, 1, 6, 6)
