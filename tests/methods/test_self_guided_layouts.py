"""Boxes and segments as the condition of self-guided diffusion: where they lie, what images and samples are given."""

import pytest
import torch
from torch import nn

from sparring.backbones import Wrapped
from sparring.backbones.backbone import Backbone
from sparring.data import Batch, Digits, Draws, StoredImages
from sparring.generators import Clusters, Denoiser, Layouts, load_generator
from sparring.generators.layouts import between, in_boxes
from sparring.methods.denoising.self_guided import SelfGuided
from sparring.networks import CodeUNet, SourceUNet
from sparring.process import VP


class Pixelwise(Backbone):
    """The pixels, as features of places and of the whole."""

    name = "pixelwise"

    def maps(self, images):
        return [images, nn.functional.avg_pool2d(images, 2)]

    def features(self, images):
        return images.flatten(1)


def squares(n=40):
    """Grey squares on black: of brightness 0.2 or 0.9, at known places; their brightness and corner."""
    draws = Draws(1)
    bright, corner = draws.integers(2, (n,)), 1 + draws.integers(4, (n, 2))
    images = torch.full((n, 1, 8, 8), -1.0)
    for image, light, (top, left) in zip(images, bright, corner, strict=True):
        image[0, top : top + 3, left : left + 3] = (0.2, 0.9)[int(light)]
    return StoredImages(images), bright, corner


def denoiser(count, size, dropout=0.1):
    torch.manual_seed(0)
    net = SourceUNet(sample_size=8, source_channels=count, block_out_channels=[8, 8], norm_num_groups=4)
    return Denoiser(net, VP(), "v", own_source=Layouts(count=count, size=size), condition_dropout=dropout)


def trained(data, count=2, size=(8, 8), **settings):
    method = SelfGuided(denoiser(count, size), Pixelwise(), **settings)
    method.size_for(data)
    method.generator.check(data)
    method.prepare(data)
    return method.train()


def maps_of(method, n):
    return method.generator.own_source.of(torch.arange(n))


def test_a_box_has_the_cluster_of_its_image_inside_and_nothing_outside():
    data, bright, corner = squares()
    maps = maps_of(trained(data, level="box"), len(data))
    assert maps.shape == (40, 2, 8, 8)
    for one, (top, left) in zip(maps, corner, strict=True):
        inside = torch.zeros(8, 8)
        inside[top : top + 3, left : left + 3] = 1
        assert torch.equal(one.sum(0), inside)
        assert set(one.amax((1, 2)).tolist()) == {0.0, 1.0}  # one cluster
    random = maps_of(trained(data, level="box", clusters="random"), len(data))
    boxes, others = (sorted(map(tuple, one.sum(1).flatten(1).tolist())) for one in (maps, random))
    assert others == boxes  # those of other images
    assert not torch.equal(random.sum(1), maps.sum(1))
    labelled = StoredImages(data.images(), bright)
    of_labels = maps_of(trained(labelled, level="box", clusters="labels"), len(data))
    assert torch.equal(of_labels.amax((2, 3)).argmax(1), bright)


def test_segments_of_places_are_those_of_equal_brightness():
    data, _, _ = squares()
    maps = maps_of(trained(data, count=3, level="pixel"), len(data))
    assert torch.equal(maps.sum(1), torch.ones(40, 8, 8))
    images, segments = data.images()[:, 0], maps.argmax(1)
    values = [images[segments == k].unique() for k in range(3)]
    assert sorted(float(one) for one in values) == pytest.approx([-1.0, 0.2, 0.9])
    shuffled = maps_of(trained(data, count=3, level="pixel", clusters="random"), len(data))
    assert not torch.equal(shuffled, maps)
    assert torch.equal(shuffled.flatten(1).sum(0), maps.flatten(1).sum(0))


def test_the_box_goes_around_what_is_rare_at_the_border():
    marked = torch.tensor([[False, True, False, True, False], [False] * 5])
    assert between(marked).tolist() == [[False, True, True, True, False], [False] * 5]
    segments = torch.zeros(1, 5, 5, dtype=torch.long)
    segments[0, 1, 2] = segments[0, 3, 1] = 1
    box = torch.zeros(1, 5, 5, dtype=torch.bool)
    box[0, 1:4, 1:3] = True
    assert torch.equal(in_boxes(segments), box)
    assert torch.equal(in_boxes(1 - segments), box)


def test_an_image_is_trained_with_its_own_map_and_samples_with_maps_of_the_data(tmp_path):
    data, _, _ = squares()
    method = trained(data, level="box")
    generator, seen = method.generator, []
    generator.condition_dropout = 0.0
    handle = generator.net.register_forward_pre_hook(
        lambda _, given, named: seen.append(named["source"]), with_kwargs=True
    )
    rows = torch.tensor([7, 0, 33])
    batch = generator.embed(Batch(data[rows.tolist()][0], draws=Draws(0), index=rows))
    method.generator_loss(batch, method.rollout(batch))
    assert torch.equal(seen.pop(), generator.own_source.of(rows))
    seen.clear()
    guided = generator.sample(400, 1, guidance=2.0, seed=1)
    none, told = seen[0].chunk(2)
    assert not none.any()
    bank = maps_of(method, len(data)).flatten(1)
    assert (torch.cdist(told.flatten(1), bank).amin(1) == 0).all()
    assert len(told.flatten(1).unique(dim=0)) > 0.8 * len(bank.unique(dim=0))
    handle.remove()
    assert generator.save(tmp_path / "folder")
    again = load_generator(tmp_path / "folder")
    assert torch.equal(again.own_source.maps, generator.own_source.maps)
    torch.testing.assert_close(again.sample(400, 1, guidance=2.0, seed=1), guided)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"level": "scene"}, "`level=scene` is unknown; it is image, box or pixel"),
        ({"level": "image"}, "`level=image` needs sparring.generators.Clusters"),
        ({"level": "pixel", "clusters": "labels"}, "no label says what is at a place; take random"),
        ({"level": "box", "size": (5, 5)}, r"`own_source.size=\[5, 5\]`: pixelwise has maps of 8x8, 4x4"),
        ({"level": "pixel", "count": 300}, r"`count=300` must lie in 1..255"),
        ({"level": "pixel", "count": 50}, "`own_source.count=50`: `images` has only 40 images"),
    ],
)
def test_what_cannot_be_is_one_line(settings, said):
    with pytest.raises(ValueError, match=said):
        trained(squares()[0], **settings)


def test_a_source_an_encoder_or_data_that_do_not_fit_are_refused():
    net = CodeUNet(sample_size=8, code_dim=2, block_out_channels=[8, 8], norm_num_groups=4)
    coded = Denoiser(net, VP(), "v", own_source=Clusters(count=2), condition_dropout=0.1)
    with pytest.raises(ValueError, match="`level=box` needs sparring.generators.Layouts"):
        SelfGuided(coded, Pixelwise(), level="box")
    method = SelfGuided(denoiser(2, (4, 4)), Wrapped(net=nn.Flatten(), name="flat"), level="pixel")
    method.size_for(Digits(limit=20))
    with pytest.raises(ValueError, match="flat has no feature maps"):
        method.prepare(Digits(limit=20))
    with pytest.raises(ValueError, match="`level=box`: layouts are not turned with the images"):
        trained(StoredImages(squares()[0].images(), flip=True), level="box")
    source = Layouts(count=2, size=(4, 4))
    source.size_for(10, (1, 8, 8))
    with pytest.raises(ValueError, match="there are 10 layouts, and the data has 11 images"):
        source.size_for(11, (1, 8, 8))
