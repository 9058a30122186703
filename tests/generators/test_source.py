"""A denoiser that is conditioned on another image: what the network gets, folders, PSNR, and what is refused."""

import json

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn
from torch.nn.functional import interpolate

from sparring.cli.main import main
from sparring.data import Batch, Digits, Draws, LowResolution, UnpairedData
from sparring.evaluation.pairs import sources_of, with_pairs
from sparring.generators import Denoiser, LatentGenerator, Sampling, load_generator
from sparring.metrics.pairs import psnr
from sparring.networks import ConvGenerator, SourceUNet
from sparring.process import VP
from sparring.runs.results import Result


class Copies(nn.Module):
    """Predicts the source, enlarged."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, time, source):
        return self.scale * interpolate(source, x.shape[-2:])


def copying():
    denoiser = Denoiser(Copies(), VP(), "x0")
    denoiser.check(LowResolution("digits"))
    return denoiser


def test_the_u_net_sees_the_enlarged_source_as_further_channels():
    net = SourceUNet(sample_size=8, block_out_channels=[8, 8], norm_num_groups=4).double()
    x, time = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([10.0, 500.0])
    source = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    enlarged = interpolate(source, (8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(net(x, time, source), net.net(torch.cat([x, enlarged], 1), time).sample)
    whole = SourceUNet(sample_size=8, block_out_channels=[16, 32])
    assert isinstance(whole.net, UNet2DModel)
    plain = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        add_attention=False,
    )
    more = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == 16 * 9  # the first convolution has one channel more


def test_samples_are_made_from_the_sources_in_turn():
    denoiser, sources = copying(), torch.rand(3, 1, 4, 4)
    images = denoiser.sample(7, 4, sources=sources, batch_size=4)
    torch.testing.assert_close(images, interpolate(sources, (8, 8))[torch.arange(7) % 3], atol=1e-4, rtol=0)
    data = LowResolution("digits")
    grid = denoiser.grid(data, 5, seed=1, scheduler="ddim", steps=2)
    torch.testing.assert_close(grid, interpolate(data.source_images(5, 1), (8, 8)), atol=1e-4, rtol=0)


def test_a_batch_is_conditioned_on_its_source():
    denoiser, source = copying(), torch.rand(2, 1, 4, 4)
    batch = denoiser.embed(Batch(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2]), Draws(0), source=source))
    assert batch.condition is source
    torch.testing.assert_close(
        denoiser(batch.x_0, torch.full((2,), 0.5), batch.condition).x0, interpolate(source, (8, 8))
    )
    assert denoiser.error(batch).shape == (2,)


def test_what_a_source_needs_is_one_line():
    denoiser = copying()
    with pytest.raises(ValueError, match="Copies is conditioned on source images and `digits` has none"):
        denoiser.check(Digits())
    with pytest.raises(ValueError, match="`sources`: Copies is conditioned on source images"):
        denoiser.sample(2, 2)
    with pytest.raises(ValueError, match="Copies is conditioned on a source image, and none was given"):
        denoiser(torch.zeros(1, 1, 8, 8), torch.ones(1))
    with pytest.raises(ValueError, match="takes neither classes nor captions"):
        list(denoiser.draw(Sampling(n=2, steps=2, sources=torch.rand(2, 1, 4, 4), guidance=2.0)))
    with pytest.raises(ValueError, match=r"`labels=\[1\]`: Copies takes no classes; leave it out"):
        list(denoiser.draw(Sampling(n=2, steps=2, sources=torch.rand(2, 1, 4, 4), labels=[1])))
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), layers_per_block=1,
    )  # fmt: skip
    generator = LatentGenerator(ConvGenerator(latent_dim=4, widths=(8, 8), groups=4), 4)
    for takes_none in (Denoiser(net, VP(), "v"), generator):
        with pytest.raises(ValueError, match="`sources`: .* takes no source images; leave it out"):
            list(takes_none.draw(Sampling(n=2, steps=1, sources=torch.rand(2, 1, 8, 8))))
    with pytest.raises(ValueError, match="conditioned on source images, and digits has none"):
        sources_of(Digits(), 3)

    class Both(Copies):
        def forward(self, x, time, source, class_labels):
            return x

    with pytest.raises(ValueError, match="Both takes a source and classes: a network has one condition here"):
        Denoiser(Both(), VP(), "x0")


def test_psnr_of_known_errors():
    """Images that are 0.2 off everywhere: 10 log10(4 / 0.04) = 20 dB; a tenth of that error 20 dB more."""
    real = torch.zeros(3, 1, 2, 2)
    off = torch.tensor([0.2, 0.02, 0.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    torch.testing.assert_close(
        psnr(off, real), torch.tensor([20.0, 40.0, 100.0], dtype=torch.float64), rtol=1e-5, atol=0
    )
    with pytest.raises(ValueError, match="images have the shape"):
        psnr(off, real[:2])
    data = LowResolution("digits")
    again = data[[row % len(data) for row in range(1100)]][0]
    half = torch.where(torch.arange(1100).view(-1, 1, 1, 1) < 550, again, again + 0.2)
    assert with_pairs(Result(frechet=0.0, n=1100), half, data).psnr == pytest.approx((100 + 20) / 2, abs=1e-3)
    domains = UnpairedData.of(Digits(), Digits())
    assert with_pairs(Result(frechet=0.0, n=1100), half, domains).psnr is None


def test_a_run_on_pairs_is_kept_measured_and_sampled(tmp_path, capsys):
    run, settings = tmp_path / "run", ["--trainer.steps=2", "--trainer.num_samples=4", "--trainer.tracker=null"]
    settings += ["--trainer.batch_size=8", "--trainer.keep_best=true"]
    assert main(["fit", "diffusion", "--on", "digits-x2", "--out", str(run), *settings]) == 0
    capsys.readouterr()
    measured = ["--n", "600", "--steps", "1", "--features", "pixels"]
    assert main(["evaluate", str(run), *measured, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    generator, held_out = load_generator(run), Digits("holdout")
    sources = LowResolution("digits").holdout().source_images()
    images = generator.sample(600, 1, sources=sources)
    expected = psnr(images, held_out[[row % 500 for row in range(600)]][0]).mean()
    assert result["psnr"] == pytest.approx(float(expected), abs=0.02)  # rounded to 8 bits on the way
    assert main(["evaluate", str(run), *measured, "--reference", "digits:validation", "--seeds", "0", "1"]) == 0
    assert "psnr" in capsys.readouterr().out
    assert main(["sample", str(run), "--n", "4", "--steps", "1", "--out", str(tmp_path / "grid.png")]) == 0
    assert main(["sample", str(run / "pipeline"), "--n", "4", "--out", str(tmp_path / "other.png")]) == 2
    assert "only a run knows some: give its run" in capsys.readouterr().err
    assert (
        main(
            [
                "fit",
                "diffusion",
                "--on",
                "digits-x2",
                "--data",
                "digits:validation",
                "--out",
                str(tmp_path / "b"),
                *settings,
            ]
        )
        == 0
    )
