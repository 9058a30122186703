"""Data with outliers: how many there are, where they lie, what stays clean, and the share of them among samples."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, pad

from sparring.data import Digits, Draws, GaussianGrid, GaussianMixture, HubData, WithOutliers
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods import DDGAN
from sparring.metrics.outliers import outlier_share
from sparring.networks import MLP, StepPerceptron
from sparring.process import VP


def grid_in_ring(share=0.1, **settings):
    return WithOutliers("ring", "grid25", share=share, **settings)


def test_so_many_are_foreign_and_the_rest_is_the_data_itself():
    data = grid_in_ring(settings={"num_samples": 900}, foreign_settings={"num_samples": 500})
    assert len(data) == 1000
    images, labels = data[list(range(1000))]
    assert labels is None
    assert data.num_classes is None
    assert torch.equal(images[:900], GaussianMixture(num_samples=900).images())
    grid = GaussianGrid(num_samples=500).images().flatten(1)
    assert (images[900:].flatten(1)[:, None] == grid).all(2).any(1).all()
    assert len(images[900:].flatten(1).unique(dim=0)) == 100
    mixed, _ = data[[950, 3, 999, 0]]
    assert torch.equal(mixed, images[[950, 3, 999, 0]])
    assert data.holdout().name == "ring:holdout"
    assert data.fingerprint() != grid_in_ring(settings={"num_samples": 900}, seed=1).fingerprint()


def test_the_share_among_samples_is_that_of_a_known_mix():
    """Digits and their negatives are far apart; 30 of 120 are foreign."""
    clean, foreign = Digits().images(200), -Digits("holdout").images(200)
    samples = torch.cat([Digits("validation").images(90), -Digits("validation").images(30, seed=1)])
    assert outlier_share(samples, clean, foreign) == pytest.approx(0.25, abs=0.02)
    assert outlier_share(samples, foreign, clean) == pytest.approx(0.75, abs=0.02)


def test_unsharp_images_are_not_foreign_for_that(shared):
    """Clothes are smooth, and so are means of two digits, which lie nearer to clothes in pixels."""
    clothes = HubData(str(shared / "data" / "fashion_mnist-test.parquet"), size=8)
    clean, foreign = Digits().images(500), clothes.images(500)
    held_out = Digits("holdout").images(500)
    of_two = (held_out + held_out.roll(1, 0)) / 2
    near = [torch.cdist(of_two.flatten(1), real.flatten(1)).amin(1) for real in (clean, foreign)]
    assert (near[1] < near[0]).double().mean() > 0.3
    assert outlier_share(of_two, clean, foreign) < 0.05
    blurred = avg_pool2d(pad(held_out, (1, 1, 1, 1), mode="replicate"), 3, 1)
    assert outlier_share(blurred, clean, foreign) < 0.3
    assert outlier_share(clothes.images(300, seed=7), clean, foreign) > 0.95


def test_a_denoising_gan_measures_it_only_on_such_data():
    torch.manual_seed(0)
    generator = Denoiser(MLP(width=8, depth=1), VP(schedule="cosine"), "v", latent_dim=3)
    generator.check_shape((2, 1, 1))
    method = DDGAN(generator, PlainDiscriminator(net=StepPerceptron(width=8), given=["t", "x_t"]))
    data = grid_in_ring()
    found = method.measures(generator, data, Draws(3, phase="measures"))
    expected = outlier_share(generator.sample(500, 4, scheduler="ddpm", seed=3), *data.clean_and_foreign(500))
    assert found == {"outlier_share": expected}
    assert method.measures(generator, GaussianGrid(), Draws(3, phase="measures")) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0.0}, r"`share=0\.0` must lie between 0 and 1"),
        ({"foreign": "digits"}, "`foreign=digits` has images of"),
        ({"foreign_settings": {"num_samples": 10}}, "needs 1111 foreign images; grid25 has 10"),
    ],
)
def test_what_cannot_be_mixed_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WithOutliers(**{"path": "ring", "foreign": "grid25", "share": 0.1, **arguments})
