"""The Haar bands: known values, the way back, energy, and a denoiser that works on them."""

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel

from sparring.generators import Denoiser, load_generator
from sparring.networks import HaarWavelet
from sparring.process import VP, Bands


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_back_and_forth_gives_the_image():
    x = images(3, 3, 8, 6)
    bands = HaarWavelet(3).encode(x)
    assert bands.shape == (3, 12, 4, 3)
    torch.testing.assert_close(HaarWavelet(3).decode(bands)[0], x, rtol=0, atol=1e-12)
    torch.testing.assert_close(4 * bands.square().sum(), x.square().sum(), rtol=1e-12, atol=0)


def test_the_bands_are_the_mean_and_the_differences_of_each_square():
    """a b / c d: LL (a+b+c+d)/4, rows apart (a+b-c-d)/4, columns apart (a-b+c-d)/4, diagonal (a-b-c+d)/4."""
    square = torch.tensor([[1.0, -0.5], [0.25, -1.0]]).view(1, 1, 2, 2)
    assert HaarWavelet().encode(square).flatten().tolist() == [-0.0625, 0.3125, 0.6875, 0.0625]
    colours = images(1, 2, 4, 4)
    bands = HaarWavelet(2).encode(colours)
    torch.testing.assert_close(bands[:, :2], torch.nn.functional.avg_pool2d(colours, 2))  # LL of all channels first


def test_bands_of_images_in_range_are_in_range():
    assert HaarWavelet().encode(images(50, 1, 8, 8).sign()).abs().max() <= 1


def test_a_denoiser_of_bands_makes_images_and_its_folder_opens(tmp_path):
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    )
    denoiser = Denoiser(net, VP(), "v", Bands(HaarWavelet()), latent_dim=3)
    denoiser.check_shape((1, 8, 8))
    assert denoiser.image_shape == (1, 8, 8)
    expected = denoiser.sample(3, 4, scheduler="ddpm", seed=1)
    assert expected.shape == (3, 1, 8, 8)
    assert denoiser.save(tmp_path / "pipe", "ddpm")
    assert torch.equal(load_generator(tmp_path / "pipe").sample(3, 4, seed=1), expected)
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "pipe", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    made = pipe(3, num_inference_steps=4, generator=torch.Generator().manual_seed(1), output_type="pt").images
    torch.testing.assert_close(2 * made - 1, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="takes images of 1 channels and the data has 3"):
        denoiser.check_shape((3, 8, 8))
    with pytest.raises(ValueError, match="multiples of 2"):
        denoiser.check_shape((1, 7, 7))


def test_bands_are_exact_under_autocast_too():
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    wavelet = HaarWavelet()
    bands = wavelet.encode(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(wavelet.encode(x), bands)
        assert torch.equal(wavelet.decode(bands)[0], HaarWavelet().decode(bands)[0])
        assert wavelet.decode(bands)[0].dtype == torch.float32
