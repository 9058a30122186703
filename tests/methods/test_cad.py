"""CAD: what the discriminator sees and is told, pruning by hand, the model of views, what it refuses."""

import pytest
import torch
from torch.nn.functional import softplus

from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.cad import CAD
from sparring.networks import Perceptron
from sparring.rollout.views import angle_of, views

BARS = torch.full((20, 1, 4, 4), -1.0)
BARS[:10, :, 1], BARS[10:, :, :, 2] = 1.0, 1.0  # rows and columns
DATA = StoredImages(BARS, name="bars")


def cad(prepared=True, num_poses=3, in_features=4, classes=None, **settings):
    torch.manual_seed(0)
    generator = LatentGenerator(
        Perceptron(in_features=2, out_shape=(1, 4, 4), width=16, num_classes=classes), 2, classes
    )
    net = Perceptron(in_features=in_features, num_classes=num_poses, width=16)
    chosen = dict(num_poses=num_poses, teacher_steps=3, teacher_width=16, num_views=30, num_steps=3) | settings
    method = CAD(generator, PlainDiscriminator(net=net, given=["labels"]), **chosen)
    if prepared:
        method.prepare(DATA, seed=1)
    return method


def batch_of(n=6, phase="rollout"):
    return Batch(torch.zeros(n, 1, 4, 4), draws=Draws(0, phase=phase))


def test_the_fake_is_the_generators_image_seen_from_the_pose_that_is_told():
    method = cad()
    rollout = method.rollout(batch_of())
    batch = batch_of()
    poses = batch.draws.integers(3, (6,))
    batch.draws.integers(method.reals.shape[1], (6,))
    images = method.generator(method.generator.latents(batch))
    torch.testing.assert_close(rollout.fake[0], views(images, angle_of(poses, 3), 4.0))
    assert torch.equal(rollout.given.labels, poses)
    for real, pose in zip(rollout.real[0], poses, strict=True):
        assert (method.reals[pose] == real).flatten(1).all(1).any()
    assert torch.equal(cad(poses="shuffled").rollout(batch_of()).given.labels, poses.roll(1, 0))


def test_both_losses_are_those_of_a_gan_of_views():
    method = cad(penalty=[])
    rollout = method.rollout(batch_of())
    real, fake = (method.discriminator.logits([x[0].detach()], rollout.given) for x in (rollout.real, rollout.fake))
    losses = method.discriminator_loss(batch_of(phase="discriminator"), rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    expected = softplus(-fake).mean()
    torch.testing.assert_close(method.generator_loss(batch_of(phase="generator"), rollout)["adversarial"], expected)


def test_what_looks_like_another_pose_disagrees():
    """The model's errors stand for themselves: as pose 1 they are 1, as any other 2; the mean of three is 5/3."""
    method = cad(prepared=False)
    method.model.denoiser.output_error = lambda prediction, x, eps: torch.where(prediction == 1, 1.0, 2.0)
    method.model.denoiser.forward = lambda x_t, t, told: told
    poses = torch.tensor([0, 1, 2, 1])
    found = method.disagreement(torch.zeros(4, 4, 1, 1), poses, Draws(0, phase="x"))
    torch.testing.assert_close(found, torch.tensor([6 / 5, 3 / 5, 6 / 5, 3 / 5]))


def test_pruning_keeps_the_share_of_each_pose_that_agrees_best(monkeypatch):
    by = {}

    def disagreement(self, seen, poses, draws):
        by["views"], by["values"] = seen, torch.rand(len(seen), generator=torch.Generator().manual_seed(0))
        return by["values"]

    monkeypatch.setattr(CAD, "disagreement", disagreement)
    method = cad(kept=0.5)
    assert method.reals.shape == (3, 5, 4, 1, 1)
    for pose in range(3):
        own = slice(10 * pose, 10 * pose + 10)
        best = by["values"][own].argsort()[:5]
        assert torch.equal(method.reals[pose], by["views"][own][best])
    everything = cad(kept=1.0)
    assert everything.reals.shape[1] == 10
    with pytest.raises(ValueError, match="kept=0.0"):
        cad(kept=0.0)


def test_the_model_of_views_learns_what_the_data_look_like_from_each_pose():
    method = cad(teacher_steps=400, num_views=60, num_steps=10, num_poses=2, kept=1.0)
    assert not any(p.requires_grad for p in method.model.denoiser.parameters())
    expected = torch.stack([views(BARS, angle_of(torch.full((20,), pose), 2), 4.0).mean(0) for pose in (0, 1)])
    assert (method.reals.mean(1) - expected).abs().max() < 0.3
    assert (expected[0] - expected[1]).abs().max() > 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(density=0.0), "density=0.0"),
        (dict(num_views=2), "num_views=2"),
        (dict(poses="other"), "poses=other"),
        (dict(in_features=5), "does not take views of 4 numbers from 3 poses"),
        (dict(classes=3), "without classes"),
    ],
)
def test_what_cannot_work_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        cad(prepared=False, **settings)


def test_without_views_there_is_no_step():
    with pytest.raises(ValueError, match="no views yet"):
        cad(prepared=False).rollout(batch_of())


def test_views_of_the_data_itself_are_near_and_others_far():
    method, data = cad(), StoredImages(torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    method.generator.latents = lambda batch: None
    found = []
    for images in (data.images(64), torch.full((64, 1, 4, 4), -1.0)):
        method.generator.forward = lambda z, images=images: images
        found.append(method.measures(method.generator, data, Draws(0, phase="measures"))["view_distance"])
    assert found[0] < 0.2 * found[1]
