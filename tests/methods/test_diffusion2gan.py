"""Diffusion2GAN: pairs are the sampler's, the distance by hand, whose noise the discriminator sees, what it refuses."""

import pytest
import torch
from diffusers import UNet2DModel
from method_parts import ClassNet, siamese
from tiny_pipelines import Captioned
from torch import nn
from torch.nn.functional import normalize, softplus

from sparring.data import Batch, Draws, StoredImages
from sparring.data.characters import texts_of
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser, load_pipeline
from sparring.generators.middle import middle_map
from sparring.methods.distillation.diffusion2gan import Diffusion2GAN, PairRollout
from sparring.networks import MLP, ConvDiscriminator
from sparring.objectives import R1
from sparring.process import VP

PLANE = StoredImages(torch.zeros(10, 2, 1, 1), name="plane")


class Inner(nn.Module):
    """Logits <x, x_t>: whether an image lies along its noise."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, x_t):
        return self.scale * (x * x_t).flatten(1).sum(1)


def method_of(net=None, prepared=True, data=PLANE, **settings):
    torch.manual_seed(0)
    chosen = dict(num_pairs=12, num_steps=5, augment="") | settings
    discriminator = PlainDiscriminator(net=Inner(), given=["x_t"])
    method = Diffusion2GAN(Denoiser(net or MLP(width=16, depth=1), VP(), "v"), discriminator, **chosen)
    if prepared:
        method.prepare(data, seed=3)
    return method


def batch_of(n=6, phase="rollout", labels=None):
    return Batch(torch.zeros(n, 2, 1, 1), labels, Draws(0, phase=phase))


def test_the_bank_holds_what_the_teachers_sampler_makes_of_each_noise():
    method = method_of()
    assert method.noises.shape == method.images.shape == (12, 2, 1, 1)
    again = method.teacher.generate(VP().scheduler("unipc", "v"), 5, latents=method.noises.data)
    torch.testing.assert_close(method.images.data, again)
    assert torch.equal(method.noises.data, method_of().noises.data)
    assert not torch.equal(method.noises.data[:6], method.noises.data[6:])
    assert not method.noises.requires_grad


def test_a_rollout_is_one_call_from_the_noise_of_its_pair():
    method = method_of()
    rollout = method.rollout(batch_of())
    z = rollout.views.given.x_t
    for row in range(6):
        place = (method.noises == z[row]).flatten(1).all(1).nonzero().item()
        assert torch.equal(rollout.y[row], method.images[place])
    one = torch.ones(6)
    sigma = method.generator.process.sigma(one).view(-1, 1, 1, 1)
    torch.testing.assert_close(rollout.x, method.generator(sigma * z, one).x0)
    assert rollout.views.given.t.tolist() == [1.0] * 6


def test_the_distance_is_of_pixels_and_of_directions_in_the_teachers_middle():
    method = method_of()
    x, y = (torch.randn(6, 2, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    features = [normalize(middle_map(method.teacher, one, torch.full((6,), 1e-3)), dim=1) for one in (x, y)]
    expected = (x - y).abs().mean((1, 2, 3)) + (features[0] - features[1]).square().sum((1, 2, 3))
    torch.testing.assert_close(method.distance(batch_of(), PairRollout(x, y, None)), expected)


@pytest.mark.parametrize("augment", ["", "translation", "cutout", "translation,cutout"])
def test_equal_images_have_no_distance_under_any_augmentation_for_it_is_the_same_for_both(augment):
    sizes = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4, 8))
    blocks = dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4)
    data = StoredImages(torch.zeros(4, 1, 8, 8))
    method = method_of(UNet2DModel(**sizes, **blocks, add_attention=False), augment=augment, data=data, num_steps=1)
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    distance = method.distance(batch_of(5), PairRollout(x, x.clone(), None))
    torch.testing.assert_close(distance, torch.zeros(5))
    assert (method.distance(batch_of(5), PairRollout(x, x.flip(0), None))[:2] > 0.05).all()


def test_the_losses_are_of_images_beside_their_noise():
    """Of logits <image, z>, before R1."""
    method = method_of(distance_weight=0.5, adversarial_weight=0.25, penalty=[])
    rollout = method.rollout(batch_of())
    z = rollout.views.given.x_t
    real, fake = ((image * z).flatten(1).sum(1) for image in (rollout.y, rollout.x))
    theirs = method.discriminator_loss(batch_of(phase="discriminator"), rollout)
    torch.testing.assert_close(theirs["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    mine = method.generator_loss(batch_of(phase="generator"), rollout)
    torch.testing.assert_close(mine["adversarial"], 0.25 * softplus(-fake).mean())
    distance = method.distance(batch_of(), rollout).mean()
    torch.testing.assert_close(mine["distance"], 0.5 * distance)
    shuffled = method_of(shuffled=True).rollout(batch_of())
    torch.testing.assert_close(shuffled.views.given.x_t, z.roll(1, 0))
    (r1,) = method_of().penalties
    assert isinstance(r1, R1)
    assert (r1.weight, r1.every) == (0.1, 16)


def test_pairs_are_of_the_class_of_the_row():
    data = StoredImages(torch.zeros(10, 1, 4, 4), torch.arange(10), name="classes")
    method = method_of(_Middle().float(), data=data, num_pairs=35, num_steps=1)
    assert len(method.noises) == 30
    labels = torch.tensor([7, 0, 9, 7, 3, 1])
    batch = Batch(torch.zeros(6, 1, 4, 4), labels, Draws(0))
    rollout = method.rollout(batch)
    for row, label in enumerate(labels.tolist()):
        place = (method.noises == rollout.views.given.x_t[row]).flatten(1).all(1).nonzero().item()
        assert place // 3 == label
    with pytest.raises(ValueError, match="num_pairs=9.*10 classes"):
        method_of(_Middle().float(), data=data, num_pairs=9, num_steps=1)


@pytest.mark.slow
def test_pairs_of_a_text_pipeline_keep_their_captions(tiny):
    """The teacher's images follow from noise and caption again, and both networks are given that caption."""
    (teacher, _), data = load_pipeline(tiny("sd15")), Captioned()
    net = ConvDiscriminator(in_channels=4, size=8, widths=(8, 8), groups=4, time=True, neighbour=True)
    discriminator = PlainDiscriminator(net=net, given=["t", "x_t"])
    method = Diffusion2GAN(teacher, discriminator, num_pairs=6, num_steps=2, augment="")
    method.prepare(data, seed=3)
    kept = texts_of(method.captions)
    assert set(kept) <= set(data.captions())
    assert len(set(kept)) > 1
    sampler = teacher.process.scheduler("unipc", teacher.prediction)
    again = teacher.generate(sampler, 2, latents=method.noises.data, condition=kept)
    torch.testing.assert_close(method.images.data, again)
    batch = teacher.embed(Batch.of(*data[range(4)], Draws(0)))
    rollout = method.rollout(batch)
    z = rollout.views.given.x_t
    places = [(method.noises == one).flatten(1).all(1).nonzero().item() for one in z]
    told = teacher.condition([kept[place] for place in places], z)
    sigma = teacher.process.sigma(rollout.views.given.t).view(-1, 1, 1, 1)
    torch.testing.assert_close(rollout.x, teacher(sigma * z, rollout.views.given.t, told).x0)
    assert (rollout.x - teacher(sigma * z, rollout.views.given.t, batch.condition).x0).abs().max() > 1e-4
    assert torch.isfinite(method.distance(batch, rollout)).all()


class _Middle(ClassNet):
    """With a middle that is its first layer."""

    @property
    def mid_block(self):
        return self.first


def test_training_learns_the_map():
    """Of a teacher that takes z to about -z / 2 in one call, pixel error and middle together, by 150 updates."""
    method = method_of(num_pairs=64, adversarial_weight=0.0)
    method.images.data = -0.5 * method.noises.data
    optimizer, losses = torch.optim.Adam(method.generator.parameters(), 0.01), []
    for method.step in range(150):
        rollout = method.rollout(Batch(torch.zeros(64, 2, 1, 1), draws=Draws(0, step=method.step)))
        loss = method.generator_loss(batch_of(64), rollout)["distance"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_what_it_refuses():
    for settings, message in [
        (dict(num_pairs=0), "num_pairs=0"),
        (dict(scheduler="lcm"), "scheduler=lcm"),
        (dict(num_steps=0), "num_steps=0"),
        (dict(adversarial_weight=-1.0), "adversarial_weight=-1"),
        (dict(adversarial_weight=0.0, distance_weight=0.0), "nothing would be learned"),
        (dict(augment="color"), "augment=color"),
    ]:
        with pytest.raises(ValueError, match=message):
            method_of(prepared=False, **settings)
    with pytest.raises(ValueError, match="no pairs yet"):
        method_of(prepared=False).rollout(batch_of())
    with pytest.raises(ValueError, match="latent z"):
        Diffusion2GAN(Denoiser(MLP(width=16), VP(), "v", latent_dim=2), siamese())
