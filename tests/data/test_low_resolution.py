"""Images with their own low resolution: the averages, also of turned images, the holdout, and what is refused."""

import pytest
import torch

from sparring.data import BatchStream, Digits, LowResolution, StoredImages
from sparring.recipes.recipe import data_section


def test_a_source_holds_the_averages_of_its_image():
    data, digits = LowResolution("digits"), Digits()
    assert (data.name, data.image_shape, data.source_shape, data.num_classes) == ("digits", (1, 8, 8), (1, 4, 4), 10)
    sources = data.sources([5, 7])
    image = digits[[7]][0][0, 0]
    assert sources.shape == (2, 1, 4, 4)
    assert sources[1, 0, 1, 3].item() == pytest.approx(image[2:4, 6:8].mean().item(), abs=1e-6)
    torch.testing.assert_close(data[[5, 7]][0], digits[[5, 7]][0])
    assert LowResolution("digits", factor=4).source_shape == (1, 2, 2)
    assert data.fingerprint() == digits.fingerprint()


def test_sources_of_chosen_rows_belong_to_the_images():
    data = LowResolution("digits")
    for n, seed in ((None, 0), (300, 3)):
        images, sources = data.images(n, seed), data.source_images(n, seed)
        torch.testing.assert_close(images.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)), sources)
    assert Digits().source_images() is None


def test_a_turned_image_has_a_turned_source():
    images = torch.rand(64, 1, 4, 4) * 2 - 1
    stored = StoredImages(images, flip=True)
    data = LowResolution("digits").alike(stored)
    indices = next(iter(BatchStream(data.order(), 32, 0)))
    seen, sources = data[indices][0], data.sources(indices)
    assert not torch.equal(seen, images[list(indices)])
    torch.testing.assert_close(seen.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)), sources)


def test_the_holdout_and_other_images_get_sources_too():
    data = LowResolution("digits", factor=4)
    held_out = data.holdout()
    assert (held_out.name, len(held_out), held_out.source_shape) == ("digits:holdout", 500, (1, 2, 2))
    torch.testing.assert_close(held_out.images(), Digits("holdout").images())
    assert data.alike(Digits("validation")).source_shape == (1, 2, 2)
    assert data.source_shape == (1, 2, 2)
    assert Digits().alike(held_out) is held_out


@pytest.mark.parametrize("factor", [1, 3])
def test_a_factor_that_cannot_be_is_one_line(factor):
    with pytest.raises(ValueError, match=rf"`factor={factor}` must be 2 or more and divide the 8x8 pixels"):
        LowResolution("digits", factor=factor)


def test_a_word_on_the_command_line_names_the_images_that_are_made_small(tmp_path):
    own = {"class_path": "sparring.data.LowResolution", "init_args": {"factor": 4, "settings": {"size": 16}}}
    made = data_section("digits", {"data": own})
    assert made == {**own, "init_args": {**own["init_args"], "path": "digits"}}
    with pytest.raises(ValueError, match="`nothing` is no data set"):
        data_section("nothing", {"data": own})
