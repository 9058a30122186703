"""Drifting: coefficients that sum to zero, the value of the loss, directions, equilibrium, and what is refused."""

import pytest
import torch
from method_parts import (
    ClassNet,
    LatentNet,
    Net,
    backbone,
    batch_of,
    denoiser,
    images_of,
    latent_space,
    projected,
    siamese,
    touched,
)
from torch import nn

from sparring.data import Batch, Draws, StoredImages
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Denoiser
from sparring.methods.distillation.drifting import Drifting
from sparring.objectives.drifting import drift, drifting_loss
from sparring.process import VP


def points(*shape, seed=0, shift=0.0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_one_point_goes_straight_to_one_real_and_its_loss_is_nine():
    fake, real = points(1, 1, 5), points(1, 1, 5, seed=1)
    moved, _, unit = drift(fake, real)
    direction = (real - fake) / (real - fake).square().mean().sqrt()
    torch.testing.assert_close(moved, 3 * direction)
    assert unit.item() == pytest.approx((real - fake).norm().item() / 2 / 5**0.5)
    assert drifting_loss(fake[0], real[0], 1)[0].item() == pytest.approx(9)


def test_a_move_of_all_points_and_another_scale_change_nothing():
    fake, real = points(2, 8, 3), points(2, 8, 3, seed=1, shift=1.0)
    moved, size, unit = drift(fake, real)
    for there, here in ((drift(fake + 5, real + 5), unit), (drift(3 * fake, 3 * real), 3 * unit)):
        torch.testing.assert_close(there[0], moved, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(there[1], size)
        torch.testing.assert_close(there[2], here)


def test_the_drift_points_to_the_reals_and_shrinks_as_the_sets_agree():
    fake, sizes = points(1, 256, 2), []
    for shift in (3.0, 1.0, 0.0):
        moved, size, _ = drift(fake, points(1, 256, 2, seed=1, shift=shift))
        sizes.append(size.item())
        if shift:
            assert (moved.mean((0, 1)) > 0.3).all()
    assert sizes[0] > sizes[1] > sizes[2]


def test_generated_points_push_each_other():
    """Two reals at -1 and 1, both fakes a little right and left of 0: each goes to its own side."""
    fake, real = torch.tensor([[[-0.1], [0.1]]]).double(), torch.tensor([[[-1.0], [1.0]]]).double()
    moved, _, _ = drift(fake, real)
    assert moved[0, 0, 0] < -0.5
    assert moved[0, 1, 0] > 0.5


def test_groups_do_not_see_each_other():
    fake, real = points(3, 4, 2), points(3, 4, 2, seed=1)
    alone = torch.cat([drift(fake[i : i + 1], real[i : i + 1])[0] for i in range(3)])
    torch.testing.assert_close(drift(fake, real)[0], alone)


def test_only_rows_of_a_class_see_each_other():
    """Two classes that lie across: each fake goes to the far real of its own class, as if it were the only one."""
    fake, real = torch.tensor([[[-1.0], [1.0]]]).double(), torch.tensor([[[1.5], [-1.5]]]).double()
    apart = torch.tensor([[[False, True, False, True], [True, False, True, False]]])
    moved, _, _ = drift(fake, real, apart=apart)
    torch.testing.assert_close(moved, torch.tensor([[[3.0], [-3.0]]]).double(), rtol=1e-4, atol=0)
    assert drift(fake, real)[0][0, 0, 0] < 0  # without classes, to the near one
    x = fake[0].requires_grad_()
    (gradient,) = torch.autograd.grad(drifting_loss(x, real[0], 2, torch.tensor([4, 7]))[0], x)
    assert gradient[0] < 0 < gradient[1]


def test_fakes_that_lie_together_far_from_their_classes_go_to_their_own():
    """Where all coefficients are tiny, nothing of the other class is left in them."""
    centre = torch.tensor([[4.0, 0.0], [-4.0, 0.0]]).double()
    labels = torch.arange(16) % 2
    fake, real = 0.01 * points(1, 16, 2), centre[labels][None] + 0.3 * points(1, 16, 2, seed=1)
    apart = (labels[:, None] != labels.repeat(2)[None])[None]
    moved, _, _ = drift(fake, real, apart=apart)
    assert (moved[0, :, 0].sign() == centre[labels][:, 0].sign()).all()
    for one in (0, 1):
        mine = labels == one
        alone = drift(fake[:, mine], real[:, mine])[0][0]
        assert torch.cosine_similarity(moved[0, mine].mean(0), alone.mean(0), dim=0) > 0.99


def test_a_network_of_classes_drifts_within_them_and_one_of_captions_is_refused():
    method = Drifting(denoiser(ClassNet()), group=6)
    batch = batch_of(labels=True)
    rollout = method.rollout(batch)
    expected, _ = drifting_loss(rollout.images.flatten(1), batch.images.flatten(1), 6, batch.labels)
    others, _ = drifting_loss(rollout.images.flatten(1), batch.images.flatten(1), 6)
    loss = method.generator_loss(batch, rollout)["drifting"]
    assert loss == expected
    assert loss != others
    captioned = denoiser()
    captioned.text = object()
    with pytest.raises(ValueError, match="no two of the same caption"):
        Drifting(captioned)


def test_the_gradient_is_minus_the_drift():
    fake, real = points(8, 3).requires_grad_(), points(8, 3, seed=1)
    loss, _ = drifting_loss(fake, real, 8)
    (gradient,) = torch.autograd.grad(loss, fake)
    moved, _, unit = drift(fake.detach()[None], real[None])
    torch.testing.assert_close(gradient, -2 * moved[0] / 24 / unit[0])


def test_descent_carries_points_onto_two_modes():
    """From one cloud between them, 64 points end near both modes, about half of them each."""
    real = torch.where(torch.arange(64)[:, None] % 2 == 0, -2.0, 2.0).double() + 0.1 * points(64, 1, seed=1)
    fake = points(64, 1).requires_grad_()
    optimizer = torch.optim.Adam([fake], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        drifting_loss(fake, real, 64)[0].backward()
        optimizer.step()
    assert (fake.abs() - 2).abs().mean() < 0.3
    assert 20 <= (fake > 0).sum() <= 44


def test_features_are_pixels_and_the_statistics_of_every_map():
    method = Drifting(denoiser(), backbone=backbone(), group=2)
    images = batch_of().images
    found, maps = method.features(images), method.backbone.maps(images)
    assert len(found) == 1 + 2 * len(maps)
    assert torch.equal(found[0], images.flatten(1))
    torch.testing.assert_close(found[1], maps[0].mean((2, 3)))
    torch.testing.assert_close(found[2], maps[0].std((2, 3), correction=0), rtol=1e-3, atol=1e-3)
    assert len(Drifting(denoiser(), group=2).features(images)) == 1


def test_only_the_generator_learns_from_pure_noise():
    method = Drifting(Denoiser(Net(), VP(), "v"), backbone=backbone(), group=3)
    method.prepare(StoredImages(batch_of().images.float(), torch.arange(6)))
    rollout = method.rollout(batch_of())
    other = Batch(batch_of().images.flip(0), draws=Draws(0, phase="rollout"))
    assert torch.equal(rollout.images, method.rollout(other).images)  # nothing of the images is in it
    method.generator_loss(batch_of(), rollout)["drifting"].backward()
    assert touched(method) == {f"generator.{name}" for name, _ in method.generator.named_parameters()}
    assert method.statistics["drift"] > 0


def test_a_discriminator_sees_images_and_classes_by_themselves():
    """The fakes come from pure noise: the noise level says nothing of them, and there is no image to compare with."""
    method = Drifting(denoiser(ClassNet()), projected(augment="", num_classes=10), group=6)
    batch, views = batch_of(labels=True), method.rollout(batch_of(labels=True)).views
    assert views.given.t is None
    assert views.given.x_t is None
    assert torch.equal(views.given.labels, batch.labels)
    torch.testing.assert_close(views.real, method.discriminator.features(batch.images, views.given, batch.draws))
    with pytest.raises(ValueError, match="SiameseDiscriminator compares"):
        Drifting(denoiser(), siamese())


def test_of_latents_a_discriminator_sees_real_images_that_passed_the_autoencoder_too():
    method = Drifting(
        Denoiser(LatentNet(), VP(), "v", space=latent_space()), PlainDiscriminator(net=nn.Flatten()), group=2
    )
    batch = method.generator.embed(Batch(images_of(2).repeat_interleave(2, 2).repeat_interleave(2, 3), draws=Draws(0)))
    rollout = method.rollout(batch)
    assert torch.equal(rollout.views.fake[0], rollout.images)
    torch.testing.assert_close(rollout.views.real[0], method.generator.decode(batch.x_0))


def test_what_it_refuses():
    with pytest.raises(ValueError, match="group=1"):
        Drifting(denoiser(), group=1)
    with pytest.raises(ValueError, match="batch_size=6.*group=4"):
        Drifting(denoiser(), group=4).check(6)
    method = Drifting(denoiser(), group=4)
    with pytest.raises(ValueError, match="group=4.*6"):
        method.generator_loss(batch_of(), method.rollout(batch_of()))


def test_the_drift_leaves_autocast():
    fake, real = (torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(seed)) + 10 for seed in (0, 1))
    plain = drift(fake, real)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(one, other) for one, other in zip(drift(fake, real), plain, strict=True))
