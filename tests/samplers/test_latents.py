"""Hubs among latents: counts that are known, what is chosen, and that the whole pool is the plain sampler."""

import pytest
import torch
from cases import pair, sampled
from torch import nn

from sparring.generators import LatentGenerator
from sparring.samplers import Sampler
from sparring.samplers.latents.hubness import Hubness, neighbour_counts


class Show(nn.Module):
    """The first four numbers of a latent as an image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((), 0.2))

    def forward(self, z):
        return self.scale * z[:, :4].view(-1, 1, 2, 2)


def test_counts_of_points_on_a_line():
    """Of 0, 1, 3, 7 with k = 2: each counts itself and its nearest."""
    z = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert neighbour_counts(z, 2).tolist() == [2, 3, 2, 1]


@pytest.mark.parametrize(
    ("d", "largest", "skewness", "correlation"),
    [(2, (6, 14), (-0.3, 0.4), -0.05), (16, (22, 50), (1.2, 2.2), -0.80), (64, (80, 300), (3.5, 9.0), -0.66)],
)
def test_hubs_come_with_dimensions(d, largest, skewness, correlation):
    """3000 normal latents, k = 5; the ranges hold what eight seeds gave."""
    z = torch.randn(3000, d, generator=torch.Generator().manual_seed(0))
    counts = neighbour_counts(z, 5).double()
    assert counts.mean() == 5
    assert largest[0] < counts.max() < largest[1]
    centred = counts - 5
    skew = (centred**3).mean() / centred.square().mean() ** 1.5
    assert skewness[0] < skew < skewness[1]
    found = torch.corrcoef(torch.stack([counts, z.double().norm(dim=1)]))[0, 1].item()
    assert found == pytest.approx(correlation, abs=0.08)


def test_hubs_antihubs_and_small_ones_are_chosen_in_the_order_of_their_drawing():
    z = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert Hubness(pool=4, neighbours=2).chosen(z, 1).tolist() == [1]
    assert Hubness(pool=4, neighbours=2).chosen(z, 3).tolist() == [0, 1, 2]
    assert Hubness(pool=4, neighbours=2, choose="antihubs").chosen(z, 1).tolist() == [3]
    assert Hubness(pool=4, neighbours=2, choose="small").chosen(z.flip(0), 2).tolist() == [2, 3]


def test_a_pool_of_as_many_as_images_is_the_plain_sampler_and_hubs_are_of_the_pool():
    generator = LatentGenerator(Show(), latent_dim=16)
    plain = generator.sample(40, seed=3)
    assert torch.equal(generator.sample(40, seed=3, using=[Hubness(pool=40)]), plain)
    pool = torch.randn((500, 16), generator=torch.Generator().manual_seed(3))
    chosen = torch.argsort(neighbour_counts(pool, 5), descending=True, stable=True)[:10].sort().values
    expected = (0.2 * pool[chosen, :4]).view(10, 1, 2, 2).clamp(-1, 1)
    for size in (3, None):
        found = generator.sample(10, seed=3, batch_size=size, using=[Hubness(pool=500)])
        torch.testing.assert_close(found, expected)
    assert Sampler(generator, device="cpu")(10, 1, using=[Hubness(pool=500)]).calls == 1


def test_what_cannot_be_chosen_is_refused():
    generator = LatentGenerator(Show(), latent_dim=16)
    with pytest.raises(ValueError, match="`pool=20`: 40 images are wanted"):
        generator.sample(40, using=[Hubness(pool=20)])
    with pytest.raises(ValueError, match="is the only one that acts on latents, and takes one seed"):
        generator.sample(2, seed=[1, 2], using=[Hubness(pool=20)])
    with pytest.raises(ValueError, match="and this is a denoiser"):
        sampled(pair(), "ddim", 2, using=[Hubness()])
    with pytest.raises(ValueError, match="a pool of at least as many latents as neighbours"):
        Hubness(pool=3)
