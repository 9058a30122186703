"""Images in batches: the same as all at once, bit for bit, whatever the scheduler draws, and never held together."""

import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparring.generators import Denoiser, LatentGenerator
from sparring.generators.loop import normal_rows
from sparring.process import VP


@given(n=st.integers(1, 300), width=st.integers(1, 20), size=st.integers(1, 40), seed=st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_rows_of_noise_are_those_of_one_tensor_and_leave_the_generator_where_it_would(n, width, size, seed):
    whole, parts = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
    expected = torch.randn((n, width), generator=whole)
    found = list(normal_rows(n, (width,), size, parts))
    assert torch.equal(torch.cat(found), expected)
    assert [len(rows) for rows in found[:-1]] == [size] * (len(found) - 1)
    assert len(found[-1]) == (n - 1) % size + 1
    assert torch.equal(torch.randn(40, generator=parts), torch.randn(40, generator=whole))


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False)
    net = UNet2DModel(
        sample_size=4,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        num_class_embeds=3,
        **blocks,
    )
    return Denoiser(net, VP(), "v").eval()


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm", "lcm"])
def test_batches_are_the_images_of_one_generator_of_noise(denoiser, scheduler):
    """As if all latents were drawn at once, and then the noise of the steps, batch after batch."""
    n, size = 90, 8
    noise = torch.Generator().manual_seed(5)
    latents = torch.randn((n, 1, 4, 4), generator=noise)
    condition = torch.arange(n) % 3
    with torch.inference_mode():
        expected = denoiser.generate(
            denoiser.stepper(scheduler), 3, latents=latents, condition=condition, generator=noise, batch_size=size
        ).clamp(-1, 1)
    found = list(denoiser.batches(n, 3, scheduler=scheduler, seed=5, batch_size=size))
    assert [len(batch) for batch in found] == [8] * 11 + [2]
    assert torch.equal(torch.cat(found), expected)
    assert torch.equal(denoiser.sample(n, 3, scheduler=scheduler, seed=5, batch_size=size), expected)


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z):
        return self.scale * z[:, :1, None, None].expand(-1, 1, 2, 2)


def test_a_latent_generator_gives_one_batch_after_the_other():
    generator = LatentGenerator(Squares(), latent_dim=3)
    expected = torch.randn((50, 3), generator=torch.Generator().manual_seed(1))[:, :1, None, None].expand(-1, 1, 2, 2)
    batches = generator.batches(50, seed=1, batch_size=7)
    assert torch.equal(next(batches), expected[:7].clamp(-1, 1))
    assert torch.equal(torch.cat(list(batches)), expected[7:].clamp(-1, 1))
