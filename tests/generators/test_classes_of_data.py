"""A run knows the classes of its data: none of them is taken for "none", and no other is drawn by default."""

import pytest
import torch
from diffusers import UNet2DModel

from sparring.cli.main import main
from sparring.data import StoredImages
from sparring.generators import Denoiser, load_pipeline
from sparring.methods.denoising.diffusion import Diffusion
from sparring.process import VP
from sparring.samplers import Sampler
from sparring.training import Trainer

BLOCKS = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,))


def run_of(folder, embeddings):
    """A run on images of three classes."""
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4, num_class_embeds=embeddings, **BLOCKS
    )
    data = StoredImages(torch.rand(9, 1, 8, 8) * 2 - 1, torch.arange(9) % 3)
    return Trainer(
        Diffusion(Denoiser(net, VP(), "v")), data, out=folder, steps=1, batch_size=4, num_samples=3, tracker=None
    ).fit()


def test_guidance_does_not_take_a_class_of_the_data_as_none(tmp_path, capsys):
    run = run_of(tmp_path / "run", 3)
    assert load_pipeline(run)[0].classes_of_data == 3
    arguments = ["sample", str(run), "--labels", "1", "--n", "2", "--steps", "2", "--out", str(tmp_path / "a.png")]
    assert main([*arguments, "--guidance", "3"]) == 2
    line = capsys.readouterr().err
    assert 'UNet2DModel has 3 classes, the data 3, and none is left to say "none" by' in line
    assert not (tmp_path / "a.png").exists()
    assert main(arguments) == 0


def test_the_class_for_none_is_not_drawn_in_turn(tmp_path):
    sample = Sampler(run_of(tmp_path / "run", 5), device="cpu")
    in_turn = sample(4, 2).images
    assert torch.equal(in_turn, sample(4, 2, labels=[0, 1, 2]).images)
    assert torch.equal(sample(4, 2, guidance=2.0).images, sample(4, 2, labels=[0, 1, 2], guidance=2.0).images)
    for guidance in (1.0, 2.0):
        with pytest.raises(ValueError, match="`label=4`: the network has the classes 0 to 2"):
            sample(1, 2, labels=[4], guidance=guidance)
