"""AVDM2: frames and clips by hand, the slope of Gaussian frames, what each player sees, the image model, refusals."""

import pytest
import torch
from diffusers import UNet2DModel
from score_parts import Gaussian, flow
from torch import nn
from torch.nn.functional import softplus

from sparring.data import Batch, Draws, DriftingDigits
from sparring.generators import Denoiser
from sparring.methods.distillation.avdm2 import AVDM2
from sparring.methods.frame_model import noised_frames, some_frames
from sparring.process import VP
from sparring.rollout import Noised, denoising_loss

F = 4


def unet(channels=F):
    torch.manual_seed(0)
    sizes = dict(sample_size=8, in_channels=channels, out_channels=channels, layers_per_block=1)
    blocks = dict(down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, block_out_channels=[8, 8])
    return UNet2DModel(**sizes, **blocks, norm_num_groups=4, add_attention=False)


def avdm2(**settings):
    return AVDM2(Denoiser(unet(), VP(), "v"), **({"width": 8} | settings))


def clips(n=6, phase="rollout"):
    return Batch(torch.randn(n, F, 8, 8, generator=torch.Generator().manual_seed(0)), draws=Draws(0, phase=phase))


def test_frames_are_different_channels_of_their_own_clip():
    numbers = torch.arange(6 * F, dtype=torch.float32).view(6, F, 1, 1).expand(6, F, 8, 8)
    frames = some_frames(numbers, 1, Draws(0, phase="x"), 3)
    assert frames.shape == (18, 1, 8, 8)
    chosen = frames[:, 0, 0, 0].view(6, 3).long()
    assert torch.equal(chosen // F, torch.arange(6)[:, None].expand(6, 3))
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    assert len({tuple(row) for row in (chosen % F).tolist()}) > 1


@pytest.mark.parametrize("colours", [1, 2])
def test_a_frame_has_as_many_channels_as_it_is_said_to(colours):
    numbers = torch.arange(F, dtype=torch.float32).view(1, F, 1, 1).expand(6, F, 8, 8)
    frames = some_frames(numbers, colours, Draws(0, phase="x"), 1)
    first = frames[:, 0, 0, 0]
    assert frames.shape[1] == colours
    assert (first % colours == 0).all()
    if colours == 2:
        assert torch.equal(frames[:, 1, 0, 0], first + 1)


class Still(nn.Module):
    """The velocity at t = 1 that takes noise z to z + b in one call."""

    def __init__(self, b):
        super().__init__()
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))

    def forward(self, x, time):
        return -self.b * torch.ones_like(x)


@pytest.mark.parametrize(("shift", "sign"), [(0.5, 1), (-0.5, -1), (0.0, 0)])
def test_frames_go_to_the_data_and_rest_there(shift, sign):
    """Frames N(shift, 1) against N(0, 1), with both exact scores; at rest the slope is 0 exactly."""
    method = AVDM2(flow(Still(shift)), frame_teacher=flow(Gaussian()), frames=2, adversarial_weight=0.0)
    method.discriminator.fake_score = flow(Gaussian(shift))
    batch = Batch(torch.zeros(2000, F, 1, 1, dtype=torch.float64), draws=Draws(0, phase="rollout"))
    rollout = method.rollout(batch)
    loss = method.generator_loss(Batch(batch.images, draws=Draws(0, phase="generator")), rollout)["frames"]
    slope = torch.autograd.grad(loss, method.generator.net.b)[0].item()
    assert slope == 0 if sign == 0 else slope * sign > 0.1


def test_frames_with_nothing_to_do_with_each_other_have_the_same_score():
    """The loss of all frames is that of the same frames dealt anew to the clips: it sees no motion."""
    method = AVDM2(flow(Still(0.5)), frame_teacher=flow(Gaussian()), frames=F, adversarial_weight=0.0)

    def half(denoiser, batch, frames, times):
        t = torch.full((len(frames),), 0.5, dtype=torch.float64)
        return Noised(frames, torch.zeros_like(frames), t, 0.5 * frames), None

    method.noised = half
    batch = Batch(torch.zeros(50, F, 1, 1, dtype=torch.float64), draws=Draws(0, phase="rollout"))
    rollout = method.rollout(batch)
    loss = method.generator_loss(batch, rollout)["frames"]
    order = torch.randperm(len(rollout.frames), generator=torch.Generator().manual_seed(0))
    rollout.frames = rollout.frames[order]
    torch.testing.assert_close(method.generator_loss(batch, rollout)["frames"], loss)


def test_the_discriminator_sees_whole_clips_at_the_same_level_and_shuffled_ones_only_if_told():
    method, batch = avdm2(), clips()
    rollout = method.rollout(batch)
    heads, given = method.discriminator.clips, rollout.views.given
    logits = heads.logits(rollout.views.real, given), heads.logits([x.detach() for x in rollout.views.fake], given)
    losses = method.discriminator_loss(clips(phase="discriminator"), rollout)
    torch.testing.assert_close(losses["adversarial"], (softplus(-logits[0]) + softplus(logits[1])).mean())
    expected = 0.01 * softplus(-heads.logits(rollout.views.fake, given)).mean()
    torch.testing.assert_close(method.generator_loss(clips(phase="generator"), rollout)["adversarial"], expected)
    assert method.seen(batch.x_0, batch.draws) is batch.x_0
    shuffled = avdm2(order="shuffled").seen(batch.x_0, Draws(0, phase="x"))
    assert not torch.equal(shuffled, batch.x_0)
    for one, other in zip(shuffled, batch.x_0, strict=True):
        assert {frame.sum().item() for frame in one} == {frame.sum().item() for frame in other}


def test_the_fake_score_learns_the_students_frames_only():
    method = avdm2(adversarial_weight=0.0)
    rollout = method.rollout(clips())
    losses = method.discriminator_loss(clips(phase="discriminator"), rollout)
    assert set(losses) == {"fake_score"}
    psi = method.discriminator.fake_score
    noised, _ = noised_frames(psi, clips(phase="discriminator"), rollout.frames.detach(), psi.process.default_times())
    assert torch.equal(noised.t.view(6, 2)[:, 0], noised.t.view(6, 2)[:, 1])
    assert not torch.equal(noised.eps[0], noised.eps[1])
    torch.testing.assert_close(losses["fake_score"], denoising_loss(psi, noised, None, None))
    losses["fake_score"].backward()
    assert all(p.grad is None for p in method.generator.parameters())


def test_the_image_model_learns_frames_before_the_first_step_and_the_fake_score_starts_from_it():
    data = DriftingDigits(num_frames=F, num_samples=60, size=8)
    errors = {}
    for steps in (0, 60):
        method = avdm2(frame_steps=steps)
        method.size_for(data)
        method.prepare(data, seed=1)
        psi, teacher = method.discriminator.fake_score.state_dict(), method.teacher.state_dict()
        assert all(torch.equal(psi[name], teacher[name]) for name in teacher)
        batch = Batch(data.images().flatten(0, 1)[:, None], draws=Draws(0, phase="error"))
        with torch.no_grad():
            errors[steps] = method.teacher.error(batch).mean().item()
        assert not any(p.requires_grad for p in method.teacher.parameters())
    assert errors[60] < 0.85 * errors[0]


def test_the_measures_tell_steady_clips_from_others():
    data = DriftingDigits(num_frames=F, num_samples=70, size=8)
    method = avdm2(frame_weight=0.0)
    method.generator.check(data)
    found = method.measures(method.generator, data, Draws(0, phase="measures"))
    assert found["unsteadiness_of_data"] == 0
    assert found["unsteadiness"] > 1
    assert found["speed_of_data"] > 0.5 * found["unsteadiness_of_data"]
    still = data.images(64)[:, :1].expand(-1, F, -1, -1)
    method.generator.grid = lambda *args, **settings: still
    of_still = method.measures(method.generator, data, Draws(0, phase="measures"))
    assert (of_still["unsteadiness"], of_still["speed"]) == (0, 0)
    assert of_still["frames"] < 0.3 * found["frames"]  # their frames are those of the data
    single = DriftingDigits(num_frames=2, num_samples=4, size=8)
    assert method.measures(method.generator, single, Draws(0, phase="measures")) == {}


def test_without_one_of_the_weights_its_networks_are_not_there():
    frames, whole = avdm2(adversarial_weight=0.0), avdm2(frame_weight=0.0)
    assert frames.discriminator.clips is None
    assert frames.teacher is not None
    assert whole.discriminator.fake_score is whole.teacher is None
    assert set(whole.generator_loss(clips(), whole.rollout(clips()))) == {"adversarial"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(frame_weight=0.0, adversarial_weight=0.0), "nothing would be learned"),
        (dict(frame_weight=-1.0), "frame_weight=-1.0"),
        (dict(frames=0), "`frames=0`"),
        (dict(order="other"), "`order=other`"),
        (dict(num_steps=0), "num_steps=0"),
    ],
)
def test_what_cannot_work_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        avdm2(**settings)


def test_clips_of_too_few_frames_are_refused():
    with pytest.raises(ValueError, match="have 4 channels, which are 1 frames"):
        avdm2(frame_channels=3).size_for(DriftingDigits(num_frames=F, num_samples=2))
    with pytest.raises(ValueError, match="`frames=5`"):
        avdm2(frames=5).size_for(DriftingDigits(num_frames=F, num_samples=2))
