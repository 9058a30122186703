"""Silhouettes: features of all blocks, the gradient through the denoiser, the length of a step, what is left alone."""

import math

import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from sparring.data import Batch, Digits, Draws
from sparring.evaluation import Evaluator, RealImages
from sparring.generators import Denoiser, Guide, Prediction
from sparring.generators.level import Level
from sparring.generators.predictor import wrapped
from sparring.methods.guides.lacon_aligner import LaConAligner, silhouettes
from sparring.networks import MLP, Aligner
from sparring.networks.block_taps import BlockTaps, in_one_map
from sparring.process import EDM, VP, RectifiedFlow
from sparring.samplers import Sampler
from sparring.samplers.guidance.classifier import ClassifierGuidance
from sparring.samplers.guidance.lacon import LaCon, mask_of, step


def unet() -> Denoiser:
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), add_attention=False,
    )  # fmt: skip
    denoiser = Denoiser(net.double(), VP(), "v")
    denoiser.check_shape((1, 8, 8))
    return denoiser


def aligner(channels=32) -> Guide:
    torch.manual_seed(1)
    guide = Guide(Aligner(channels, widths=[8, 8], groups=4).double(), VP(), channels)
    guide.check_shape((1, 8, 8))
    return guide


def lacon(**settings):
    return LaCon(aligner(), **{"target": "left"} | settings)


X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def drawn(*using, n=4, batch_size=None):
    return unet().sample(n, 10, scheduler="ddim", using=using, batch_size=batch_size)


def test_every_block_is_heard_inside_only_and_the_map_has_the_size_of_the_images():
    denoiser, taps = unet(), BlockTaps(unet().net)
    taps = BlockTaps(denoiser.net)
    with taps.listening() as features:
        denoiser(X, torch.full((4,), 0.5))
    assert [tuple(one.shape[1:]) for one in features] == [(4, 4, 4), (8, 4, 4), (8, 4, 4), (8, 8, 8), (4, 8, 8)]
    assert in_one_map(features, (8, 8)).shape == (4, taps.channels, 8, 8) == (4, 32, 8, 8)
    denoiser(X, torch.full((4,), 0.5))
    assert len(features) == 5
    torch.testing.assert_close(in_one_map(features, (8, 8))[:, 20:], torch.cat(features[3:], 1)[:, -12:])


def test_a_step_is_as_long_as_the_noise_estimate_is_off_and_of_each_row():
    denoiser, level = unet(), Level.at(VP(), torch.tensor(0.7))
    plain, gradient = denoiser.predict(X, level), X.flip(0) * 3
    moved = plain.shifted(x0=-step(plain, gradient, level, 1.5))
    change = moved.eps - plain.eps
    lengths = 1.5 * (plain.eps - X).flatten(1).norm(dim=1)
    torch.testing.assert_close(change.flatten(1).norm(dim=1), lengths)
    torch.testing.assert_close(change / change.flatten(1).norm(dim=1)[:, None, None, None],
                               gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None])  # fmt: skip


@pytest.mark.parametrize("process", [EDM(), RectifiedFlow()], ids=lambda p: type(p).__name__)
def test_a_step_is_the_same_for_every_process_at_the_same_noise_level(process):
    """The same clean image and noise, at a sigma / alpha of 3, by VP and by another process."""
    moved = []
    for one in (VP(), process):
        t = one.t_from_log_snr(torch.tensor(-2 * math.log(3.0), dtype=torch.float64))
        x_t = one.add_noise(X.flip(0), X, t.expand(4))
        plain = Prediction(X.flip(0) + 0.1 * X, x_t, t.expand(4), "x0", one)
        moved.append(step(plain, X.flip(0) * 3, Level.at(one, t), 1.5))
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-5, atol=1e-8)


def test_the_gradient_is_that_of_the_error_through_aligner_and_denoiser_and_a_step_lowers_it():
    denoiser, system, level = unet(), lacon(), Level.at(VP(), torch.tensor(0.7))
    system.check(denoiser)
    taps, labels = BlockTaps(denoiser.net), None
    with torch.no_grad():
        plain = denoiser.predict(X, level)
        steered = wrapped(denoiser, [system])(X, level, labels)
        direction = steered.eps - plain.eps
        direction = direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
        error = [system.error(denoiser, taps, X + h * direction, level, labels) for h in (-1e-5, 0.0, 1e-5)]
    slope = (error[2] - error[0]) / 2e-5
    assert bool((slope > 0).all())  # eps grows along the gradient, and x_t goes the other way
    other = torch.randn(X.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    other = other / other.flatten(1).norm(dim=1)[:, None, None, None]
    with torch.no_grad():
        across = [system.error(denoiser, taps, X + h * other, level, labels) for h in (-1e-5, 1e-5)]
    cosine = (other * direction).flatten(1).sum(1)
    torch.testing.assert_close((across[1] - across[0]) / 2e-5, slope * cosine, rtol=1e-3, atol=1e-9)


def test_weight_zero_and_times_below_the_end_are_the_plain_sampler_bit_for_bit():
    plain = drawn()
    assert torch.equal(drawn(lacon(weight=0.0)), plain)
    assert torch.equal(drawn(lacon(until=1.0)), plain)
    assert (drawn(lacon()) - plain).abs().max() > 1e-3


def test_rows_do_not_see_each_other_and_passes_are_counted():
    torch.testing.assert_close(drawn(lacon(), batch_size=1), drawn(lacon()), rtol=0, atol=1e-5)
    system = lacon()
    samples = Sampler(unet(), device="cpu")(4, 10, scheduler="ddim", using=[system])
    steered = system.backward_rows / 2 / 4
    assert 0 < steered < 6
    assert samples.calls == 10 + steered * 6  # the denoiser again, the aligner, and both backwards


def test_words_and_pictures_of_silhouettes(tmp_path):
    assert mask_of("left", (2, 4)).tolist() == [[1, 1, 0, 0]] * 2
    assert mask_of("right", (2, 4)).tolist() == [[0, 0, 1, 1]] * 2
    assert mask_of("upper", (2, 2)).tolist() == [[1, 1], [0, 0]]
    assert mask_of("lower", (2, 2)).tolist() == [[0, 0], [1, 1]]
    picture = Image.new("L", (4, 4))
    picture.paste(255, (0, 0, 2, 4))
    picture.save(tmp_path / "mask.png")
    assert mask_of(str(tmp_path / "mask.png"), (2, 2)).tolist() == [[1, 0], [1, 0]]
    with pytest.raises(ValueError, match="`target=nowhere.png` is no picture: give a file, or left"):
        lacon(target="nowhere.png")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`until=2` must lie in"):
        lacon(until=2)
    points = Denoiser(MLP(), VP(), "v")
    with pytest.raises(ValueError, match="blocks of a UNet2DModel, and this is a MLP"):
        LaConAligner(aligner(), points)
    with pytest.raises(ValueError, match="the aligner sees 16 channels and the denoiser has 32 features"):
        LaConAligner(aligner(16), unet())
    with pytest.raises(ValueError, match="`aligner` was trained on features of 16 channels, and features of 32"):
        drawn(LaCon(aligner(16), target="left"))
    with pytest.raises(ValueError, match="`classifier` was trained on features of 32 channels, and images are needed"):
        drawn(ClassifierGuidance(aligner()))


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_loss_is_the_error_of_the_silhouette_seen_in_the_features():
    denoiser, guide = unet(), aligner()
    method = LaConAligner(guide, denoiser, threshold=0.2)
    batch = Batch(X, draws=Draws(3, phase="x"))
    rollout = method.rollout(batch)
    loss = method.generator_loss(batch, rollout)["trace"]
    draws = Draws(3, phase="x")
    t = draws.uniform((4,)).double()
    assert torch.equal(rollout.t, method.times(VP(), Draws(3, phase="x"), 4))
    with BlockTaps(method.denoiser.net).listening() as features:
        x_t = VP().add_noise(X, draws.normal((4, 1, 8, 8)).double(), rollout.t)
        method.denoiser(x_t, rollout.t)
    seen = guide(in_one_map(features, (8, 8)), rollout.t)
    assert len(t) == 4
    torch.testing.assert_close(loss, (seen - (X > 0.2).double().flatten(1)).square().mean())
    loss.backward()
    assert all(p.grad is not None for p in guide.parameters())
    assert silhouettes(torch.tensor([[[[-0.5]], [[0.9]]]]), 0.0).tolist() == [[[[1.0]]]]


def test_ink_inside_is_a_share_of_each_image_and_an_evaluation_has_its_mean():
    images = torch.full((3, 1, 8, 8), -1.0)
    images[0, :, :, :2] = 1.0  # all of it on the left
    images[1, :, :, 3:5] = 0.5  # half
    images[2] = 1.0
    torch.testing.assert_close(lacon().measures(images), {"ink inside": torch.tensor([1.0, 0.5, 0.5])})
    assert lacon().measures(-torch.ones(1, 1, 8, 8))["ink inside"] == 0
    evaluator = Evaluator(RealImages(Digits(), None), "pixels")
    found = evaluator.sampler(Sampler(unet()), n=20, steps=4, scheduler="ddim", seed=0, using=[lacon()], batch_size=8)
    samples = unet().sample(20, 4, scheduler="ddim", using=[lacon()])
    assert found.measures == pytest.approx({"ink inside": float(lacon().measures(samples)["ink inside"].mean())})
    assert evaluator.sampler(Sampler(unet()), n=20, steps=2, scheduler="ddim", seed=0).measures is None
