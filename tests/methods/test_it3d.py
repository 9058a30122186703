"""IT3D: score distillation and edits by hand, when what begins and ends, what the discriminator sees, refusals."""

import pytest
import torch
from torch.nn.functional import softplus

from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import PlainDiscriminator
from sparring.generators import LatentGenerator
from sparring.methods.gan.it3d import IT3D
from sparring.networks import OneImage, Perceptron
from sparring.rollout.views import angle_of, views

BARS = torch.full((8, 1, 4, 4), -1.0)
BARS[:, :, 1] = 1.0


def it3d(steps=100, **settings):
    torch.manual_seed(0)
    net = Perceptron(in_features=4, num_classes=3, width=16)
    chosen = dict(num_poses=3, teacher_steps=3, teacher_width=16, penalty=[]) | settings
    discriminator = PlainDiscriminator(net=net, given=["labels"])
    method = IT3D(LatentGenerator(OneImage(size=4), 1), discriminator, **chosen)
    method.steps = steps
    return method


def batch_of(n=6, phase="rollout"):
    return Batch(torch.zeros(n, 1, 4, 4), draws=Draws(0, phase=phase))


class Estimates:
    """In the place of the model's forward: always the same clean view for a pose."""

    def __init__(self, of_pose):
        self.of_pose = of_pose

    def __call__(self, x_t, t, told):
        self.x0 = self.of_pose[told].expand_as(x_t)
        return self


def test_the_object_is_seen_from_the_pose_that_is_told_and_is_the_same_for_every_z():
    method = it3d()
    rollout = method.rollout(batch_of())
    image = method.generator.net.image.tanh()
    expected = views(image.expand(6, -1, -1, -1), angle_of(rollout.poses, 3), 4.0)
    torch.testing.assert_close(rollout.seen, expected)
    assert torch.equal(rollout.views.given.labels, rollout.poses)
    shuffled = it3d(poses="shuffled").rollout(batch_of())
    assert torch.equal(shuffled.views.given.labels, rollout.poses.roll(1, 0))
    assert torch.equal(shuffled.seen, rollout.seen)


def test_score_distillation_pulls_views_to_the_models_estimates():
    method = it3d()
    rollout = method.rollout(batch_of())
    of_pose = torch.tensor([0.5, -0.2, 0.1]).view(3, 1, 1, 1)
    method.model.denoiser.forward = Estimates(of_pose)
    target = of_pose[rollout.poses].expand_as(rollout.seen)
    loss = method.generator_loss(batch_of(phase="generator"), rollout)["sds"]
    torch.testing.assert_close(loss, 0.5 * (rollout.seen - target).square().mean())
    (slope,) = torch.autograd.grad(loss, rollout.seen)
    torch.testing.assert_close(slope, (rollout.seen - target) / rollout.seen.numel())


def test_an_edit_walks_ddims_levels_to_the_models_estimate():
    """One call: the estimate itself. Of strength s, the first state is alpha view + sigma eps at s."""
    of_pose = torch.tensor([0.5, -0.2, 0.1]).view(3, 1, 1, 1)
    poses = torch.tensor([0, 2, 1])
    rough = torch.randn(3, 4, 1, 1, generator=torch.Generator().manual_seed(0))
    for calls in (1, 4):
        method = it3d(edit_steps=calls, strength=0.6)
        seen = []

        def keep(x_t, t, told, seen=seen):
            seen.append((x_t, t))
            return Estimates(of_pose)(x_t, t, told)

        method.model.denoiser.forward = keep
        made = method.edited(rough, poses, Draws(0, phase="x"))
        torch.testing.assert_close(made, of_pose[poses].expand_as(rough))
        levels = [t[0].item() for _, t in seen]
        assert levels == pytest.approx([0.6 * (calls - call) / calls for call in range(calls)])
        process, eps = method.model.denoiser.process, Draws(0, phase="x").normal((3, 4, 1, 1))
        first, t = seen[0]
        torch.testing.assert_close(first, process.add_noise(rough, eps, t))
        if calls > 1:
            x, t = seen[0]
            alpha, sigma = (f(t).view(-1, 1, 1, 1) for f in (process.alpha, process.sigma))
            own = (x - alpha * of_pose[poses]) / sigma
            second, after = seen[1]
            expected = process.add_noise(of_pose[poses].expand_as(x), own, after)
            torch.testing.assert_close(second, expected, rtol=1e-4, atol=1e-5)


def test_the_discriminator_begins_with_the_coarse_object_and_its_weight_falls_at_the_end():
    method = it3d(steps=100, coarse=0.5, adversarial_weight=2.0)
    weights = {}
    for step in (0, 49, 50, 75, 88, 99):
        method.step = step
        weights[step] = method.weight
    assert weights == {0: 0.0, 49: 0.0, 50: 2.0, 75: 2.0, 88: pytest.approx(0.96), 99: pytest.approx(0.08)}
    method.step = 10
    losses = method.discriminator_loss(batch_of(), method.rollout(batch_of()))
    assert losses["adversarial"] == 0
    method.step = 50
    rollout = method.rollout(batch_of())
    real, fake = (
        method.discriminator.logits([x[0].detach()], rollout.views.given)
        for x in (rollout.views.real, rollout.views.fake)
    )
    losses = method.discriminator_loss(batch_of(), rollout)
    torch.testing.assert_close(losses["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    adversarial = method.generator_loss(batch_of(), rollout)["adversarial"]
    torch.testing.assert_close(adversarial, 2 * softplus(-fake).mean())


def test_the_coarse_object_is_the_object_of_that_step_and_stays():
    method = it3d(steps=10, coarse=0.5)
    image = method.generator.net.image
    for method.step in range(10):
        image.data.fill_(method.step)
        method.after_step()
    assert (method.coarse_object.module.net.image == 4).all()


def test_training_makes_the_object_that_the_views_are_of():
    data = StoredImages(BARS, name="bars")
    method = it3d(teacher_steps=300, adversarial_weight=0.0)
    method.prepare(data, seed=0)
    with torch.no_grad():
        before = method.measures(method.generator, data, Draws(0, phase="m"))
    optimizer = torch.optim.Adam(method.generator.parameters(), 0.05)
    for step in range(150):
        rollout = method.rollout(Batch(torch.zeros(12, 1, 4, 4), draws=Draws(0, step=step, phase="r")))
        losses = method.generator_loss(Batch(torch.zeros(12, 1, 4, 4), draws=Draws(0, step=step, phase="g")), rollout)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    with torch.no_grad():
        after = method.measures(method.generator, data, Draws(0, phase="m"))
    assert after["image_error"] < 0.5 * before["image_error"]
    assert after["view_error"] < 0.3 * before["view_error"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(sds_weight=0.0, adversarial_weight=0.0), "nothing would be learned"),
        (dict(strength=0.0), "strength=0.0"),
        (dict(coarse=1.0), "coarse=1.0"),
        (dict(edit_steps=0), "edit_steps=0"),
        (dict(poses="other"), "poses=other"),
        (dict(num_poses=5), "does not take views of 4 numbers from 5 poses"),
    ],
)
def test_what_cannot_work_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        it3d(**settings)


def test_without_score_distillation_the_coarse_object_is_distilled_all_the_same():
    method = it3d(sds_weight=0.0)
    terms = []
    for method.step in (0, 99):
        terms.append(method.generator_loss(batch_of(phase="generator"), method.rollout(batch_of())).keys())
    assert ["sds" in one for one in terms] == [True, False]
    torch.testing.assert_close(*(it3d_loss(weight) for weight in (0.0, 1.0)))


def it3d_loss(sds_weight):
    method = it3d(sds_weight=sds_weight)
    method.step = 0
    return method.generator_loss(batch_of(phase="generator"), method.rollout(batch_of()))["sds"]
