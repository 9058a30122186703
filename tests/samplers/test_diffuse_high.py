"""Larger images: bands of a Haar wavelet, exact no-ops, an image that keeps its low band, rows by themselves."""

import pytest
import torch
from cases import pair
from diffusers import UNet2DModel
from torch.nn.functional import interpolate

from sparring.cli.main import main
from sparring.evaluation import Evaluator, RealImages
from sparring.generators import Denoiser, Sampling
from sparring.generators.level import Level
from sparring.networks import MLP
from sparring.networks.wavelet import HaarWavelet
from sparring.process import VP
from sparring.recipes.compose import baseline_of
from sparring.samplers import Sampler
from sparring.samplers.guidance.recycle import Recycle
from sparring.samplers.size.diffuse_high import DiffuseHigh, KeptBand, low_band, sharpened


def unet() -> Denoiser:
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), add_attention=False,
    )  # fmt: skip
    return Denoiser(net, VP(), "v")


def drawn(denoiser, *systems, n=4, scheduler="ddim", steps=10, **settings):
    return denoiser.sample(n, steps, scheduler=scheduler, using=systems, **settings)


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 3


def test_the_low_band_is_that_of_the_haar_wavelet_and_taking_it_over_leaves_the_others():
    wavelet, x, other = HaarWavelet().double(), images(3, 1, 4, 6), images(3, 1, 4, 6) + 0.4
    assert torch.allclose(wavelet.decode(wavelet.encode(x))[0], x, rtol=0, atol=1e-12)
    assert torch.allclose(low_band(x), wavelet.encode(x)[:, :1], rtol=0, atol=1e-12)
    taken = wavelet.encode(x + interpolate(low_band(other) - low_band(x), scale_factor=2.0))
    assert torch.allclose(taken, torch.cat([wavelet.encode(other)[:, :1], wavelet.encode(x)[:, 1:]], 1), atol=1e-12)


def test_sharpening_adds_what_a_blur_takes_away():
    edge = torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64).expand(1, 2, 4, 4)
    outer = torch.exp(torch.tensor(-0.5, dtype=torch.float64))
    step = float(2 * outer / (1 + 2 * outer))  # what crosses an edge of height 2
    expected = torch.tensor([-1.0, -1 - 0.5 * step, 1 + 0.5 * step, 1], dtype=torch.float64)
    assert torch.allclose(sharpened(edge, 0.5), expected.expand_as(edge), rtol=0, atol=1e-12)
    assert torch.equal(sharpened(edge, 0.0), edge)


def test_a_guide_that_is_the_own_band_changes_nothing_and_another_gives_its_band_to_the_estimate():
    denoiser = pair()
    x_t, level, labels = images(3, 1, 4, 4), Level.at(VP(), torch.tensor(0.2)), torch.zeros(3, dtype=torch.int64)
    plain = denoiser.predict(x_t, level, labels)
    kept = KeptBand(plain.x0, 1.0).wrap(denoiser.predict, denoiser)(x_t, level, labels)
    assert torch.equal(kept.output, plain.output)
    other = images(3, 1, 4, 4) + 0.5
    moved = KeptBand(other, 1.0).wrap(denoiser.predict, denoiser)(x_t, level, labels)
    assert torch.allclose(low_band(moved.x0), low_band(other), rtol=0, atol=1e-9)
    assert torch.allclose(moved.eps, (x_t - level.alpha * moved.x0) / level.sigma, rtol=0, atol=1e-9)  # rule R5


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "dpm"])
def test_held_to_the_last_step_the_band_is_that_of_the_enlarged_image(scheduler):
    denoiser, latents = unet(), images(4, 1, 8, 8).float() * 3
    results = {}
    for band in (None, 1.0, 0.0):
        states, settings = [], {"tail": 0.0} if band is None else {"band": band}
        results[band] = denoiser.generate(
            denoiser.stepper(scheduler), 10, latents=latents, using=[DiffuseHigh(**settings)],
            generator=torch.Generator().manual_seed(0), watch=states.append,
        )  # fmt: skip
    enlarged = sharpened(interpolate(states[10], scale_factor=2, mode="bicubic"), 1.0).clamp(-1, 1)
    assert states[10].shape == (4, 1, 8, 8)  # where the walk at 8x8 ended
    assert torch.equal(results[None], enlarged)
    assert torch.allclose(low_band(results[1.0]), low_band(enlarged), rtol=0, atol=1e-5)
    assert (low_band(results[0.0]) - low_band(enlarged)).abs().max() > 1e-2


def test_no_factor_is_the_plain_sampler_bit_for_bit_and_the_first_walk_stays_as_it_was():
    denoiser, shown = unet(), []
    plain = drawn(denoiser, scheduler="ddpm")
    assert torch.equal(drawn(denoiser, DiffuseHigh(factors=1), scheduler="ddpm"), plain)
    plain = drawn(denoiser, scheduler="ddpm", batch_size=2)
    drawn(denoiser, DiffuseHigh(), scheduler="ddpm", watch=shown.append, batch_size=2)
    ends = [state for state in shown if state.shape[-1] == 8][10::11]
    assert torch.equal(torch.cat(ends).clamp(-1, 1), plain)
    after = []
    for using in ([], [DiffuseHigh()]):
        noise = torch.Generator().manual_seed(0)
        latents = torch.zeros(2, 1, 8, 8)
        denoiser.generate(denoiser.stepper("ddpm"), 10, latents=latents, using=using, generator=noise)
        after.append(torch.rand((), generator=noise))
    assert torch.equal(*after)


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
def test_rows_do_not_see_each_other(scheduler):
    denoiser = unet()
    settings = {"scheduler": scheduler, "seed": [5, 6, 7, 8]}
    whole, single = (drawn(denoiser, DiffuseHigh(), batch_size=size, **settings) for size in (4, 1))
    torch.testing.assert_close(single, whole, rtol=0, atol=1e-4)
    assert (whole[0] - whole[1]).abs().max() > 0.1


def test_calls_sizes_and_what_lies_around_the_denoiser():
    denoiser = unet()
    sampler = Sampler(denoiser, device="cpu")
    samples = sampler(3, 10, scheduler="euler", using=[DiffuseHigh(factors=(2, 3))])
    assert samples.images.shape == (3, 1, 24, 24)
    assert (samples.nfe, samples.calls) == (10, 16)
    assert sampler(2, 10, scheduler="euler", using=[DiffuseHigh(), Recycle(steps=1, interval=None)]).calls == 26
    assert DiffuseHigh(factors=(2, 3)).enlarges == 3
    assert Sampling(n=1, using=[DiffuseHigh(tail=0.5)]).suffix == "+diffuse_high(tail=0.5)"


def test_what_cannot_be_is_refused():
    for settings in ({"factors": 0}, {"factors": (3, 2)}, {"tail": 1.5}, {"band": -0.1}, {"strength": -1.0}):
        with pytest.raises(ValueError, match="must be whole numbers from 1 on|must lie in"):
            DiffuseHigh(**settings)
    points = Denoiser(MLP(), VP(), "v")
    points.check_shape((2, 1, 1))
    with pytest.raises(ValueError, match=r"`factors=2`: MLP cannot take images of shape \(2, 2, 2\)"):
        points.sample(1, 2, using=[DiffuseHigh()])


def test_it_is_measured_against_images_of_the_enlarged_size_only(tmp_path):
    from sparring.data import Digits

    sampler, data = Sampler(baseline_of("digits-vp")), Digits()
    evaluator = Evaluator(RealImages(data.holdout(), data), "pixels")
    with pytest.raises(ValueError, match=r"makes images of \(1, 16, 16\), the reference holds \(1, 8, 8\)"):
        evaluator.sampler(sampler, n=2, steps=2, scheduler=None, seed=0, using=[DiffuseHigh()])


def test_from_the_command_line_as_a_picture_and_as_a_path(tmp_path):
    base = ["sample", str(baseline_of("digits-vp")), "--n", "4", "--steps", "5", "--with", "diffuse_high"]
    for name in ("grid.png", "path.gif", "arrays.npz"):
        assert main([*base, "--with.factors", "2", "--with.tail", "0.4", "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).is_file()
