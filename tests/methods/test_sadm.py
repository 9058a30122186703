"""SADM: off is plain diffusion, zero for equal batches, who gets gradient, frozen control, ramp, weights."""

import pytest
import torch
from method_parts import (
    batch_of,
    denoiser,
    evaluated,
    images_of,
    opponent_frozen,
    step_losses,
    structure,
    total,
    touched,
)
from torch import nn

from sparring.methods.denoising.diffusion import Diffusion
from sparring.methods.tuning.sadm import SADM
from sparring.objectives import Scores, structure_distance
from sparring.process import EDM, VP, Constant, Uniform


def sadm(**settings):
    return SADM(denoiser(), structure(), **settings)


def gradients(method):
    rollout = method.rollout(batch_of())
    losses = evaluated(method.generator_loss(batch_of(phase="generator"), rollout))
    method.zero_grad()
    total(losses).backward()
    return losses, [p.grad for p in method.generator.parameters()]


def test_off_is_plain_diffusion_bit_for_bit():
    losses, grads = gradients(sadm(mode="off"))
    expected_losses, expected_grads = gradients(Diffusion(denoiser()))
    assert losses.keys() == expected_losses.keys()
    assert torch.equal(losses["diffusion"], expected_losses["diffusion"])
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads, strict=True))
    method = sadm(mode="off")
    assert method.discriminator is None
    assert method.opponent is None
    assert not any("encoder" in name for name in method.state_dict())


def test_equal_batches_have_distance_and_gradient_zero():
    """A prediction that is the real image: S = 0 for both players, and no gradient that is NaN."""
    method = sadm()
    rollout = method.rollout(batch_of())
    rollout.views.fake = [images_of().requires_grad_()]
    loss = method.discriminator_loss(batch_of(phase="discriminator"), rollout)["structure"]
    assert loss.item() == 0
    structural = method.generator_loss(batch_of(phase="generator"), rollout)["structure"]
    assert structural.item() == 0
    (grad,) = torch.autograd.grad(structural, rollout.views.fake)
    assert grad.abs().max().item() == 0


@pytest.mark.parametrize("process", [VP(), EDM(sigma_data=0.6)])
def test_the_structural_loss_is_the_weighted_distance_of_the_affinities(process):
    """sum_{i != j} sqrt(w_i w_j) |cos_real - cos_fake| / (B(B-1)) with w = alpha^2 / (alpha^2 + sigma^2)."""
    method = SADM(denoiser(process=process), structure(), structure_weight=0.3, times=Uniform())
    rollout = method.rollout(batch_of())
    t = rollout.step.noised.t.double()
    weight = process.alpha(t) ** 2 / (process.alpha(t) ** 2 + process.sigma(t) ** 2)
    z_real, z_fake = (
        nn.functional.normalize(method.discriminator.encode(x), dim=1)
        for x in (images_of(), rollout.step.prediction.x0)
    )
    delta = (z_real @ z_real.T - z_fake @ z_fake.T).abs()
    root = weight.sqrt()
    expected = (root[:, None] * root * delta).fill_diagonal_(0).sum() / 30
    loss = method.generator_loss(batch_of(phase="generator"), rollout)["structure"]
    torch.testing.assert_close(loss, 0.3 * expected, rtol=1e-5, atol=0)  # t is float32
    flat = SADM(denoiser(process=process), structure(), structure_weighting=Constant())
    rollout = flat.rollout(batch_of())
    z_real, z_fake = flat.discriminator.encode(images_of()), flat.discriminator.encode(rollout.step.prediction.x0)
    expected = structure_distance(z_real, z_fake, torch.ones(6).double())
    torch.testing.assert_close(flat.discriminator_loss(batch_of(), rollout)["structure"], -expected)


def test_the_encoder_climbs_and_the_denoiser_descends_the_same_distance():
    """The encoder's loss is -S; one small gradient step of each moves S its way; gradient reaches one player only."""
    method = sadm(structure_weight=1.0)
    method.discriminator.pull = 0.0

    def distance():
        return -method.discriminator_loss(batch_of(), method.rollout(batch_of()))["structure"]

    start = distance().item()
    encoder, generator = list(method.discriminator.parameters()), list(method.generator.parameters())
    method.discriminator_loss(batch_of(), method.rollout(batch_of()))["structure"].backward()
    assert touched(method.generator) == set()
    before = [p.detach().clone() for p in encoder]
    for p in encoder:
        if p.grad is not None:
            p.data -= 1e-3 * p.grad / torch.stack([q.grad.norm() for q in encoder if q.grad is not None]).norm()
    assert distance().item() > start
    for p, old in zip(encoder, before, strict=True):
        p.data.copy_(old)
    method.zero_grad()
    with opponent_frozen(method):
        method.generator_loss(batch_of(), method.rollout(batch_of()))["structure"].backward()
    assert touched(method.discriminator) == set()
    for p in generator:
        p.data -= 1e-3 * p.grad / torch.stack([q.grad.norm() for q in generator]).norm()
    assert distance().item() < start


def test_the_encoder_climbs_no_further_than_a_distance_of_one_half():
    objective, real = sadm().objective, Scores(torch.zeros(1))
    for distance, loss in ((0.49, -0.49), (0.6, -0.5)):
        assert objective.discriminator(real, Scores(torch.tensor([-distance]))).item() == pytest.approx(loss)


def test_frozen_guides_with_the_same_distance_and_trains_no_encoder():
    adversarial, frozen = sadm(), sadm(mode="frozen")
    assert frozen.discriminator is None
    assert not any(p.requires_grad for p in frozen.opponent.parameters())
    frozen.train()
    assert not any(m.training for m in frozen.opponent.modules())
    with opponent_frozen(adversarial):
        losses, grads = gradients(adversarial)
    frozen_losses, frozen_grads = gradients(frozen)
    assert all(torch.equal(losses[k], frozen_losses[k]) for k in losses)
    assert all(torch.equal(a, b) for a, b in zip(grads, frozen_grads, strict=True))
    assert touched(frozen.opponent) == set()


def test_ramp_and_delay_scale_the_structural_loss_of_the_denoiser_alone():
    method, full = sadm(ramp_steps=4, delay_steps=2), sadm()
    expected = step_losses(full, batch_of(), batch_of(), batch_of())
    for method.step, share in enumerate([0, 0, 0.25, 0.5, 0.75, 1, 1]):
        losses = step_losses(method, batch_of(), batch_of(), batch_of())
        assert torch.equal(losses["d/structure"], expected["d/structure"])
        assert torch.equal(losses["g/diffusion"], expected["g/diffusion"])
        if share == 0:
            assert "g/structure" not in losses
        else:
            torch.testing.assert_close(losses["g/structure"], share * expected["g/structure"])


def test_a_batch_of_one_has_no_structure():
    with pytest.raises(ValueError, match="batch_size=1"):
        sadm().check(1)
    with pytest.raises(ValueError, match="batch_size=1"):
        sadm(mode="frozen").check(1)
    sadm(mode="off").check(1)
    method = sadm()
    with pytest.raises(ValueError, match="pairs of images"):
        method.discriminator_loss(batch_of(1), method.rollout(batch_of(1)))


def test_a_batch_that_matrices_of_a_fixed_size_do_not_fill_is_refused():
    method = SADM(denoiser(), structure(structure_batch=4))
    method.check(8)
    with pytest.raises(ValueError, match="structure_batch=4"):
        method.check(6)


def test_a_weight_of_zero_is_refused_and_names_the_mode():
    with pytest.raises(ValueError, match="structure_weight=0.*'off'"):
        sadm(structure_weight=0)


def test_rows_are_coupled_through_their_pairs():
    """The gradient at one fake depends on another one: what no loss of single images does."""
    method = sadm()
    gradient = []
    for value in (None, 0.3):
        rollout = method.rollout(batch_of())
        fake = rollout.views.fake[0].detach().clone()
        if value is not None:
            fake[1] = value
        rollout.views.fake = [fake.requires_grad_()]
        loss = method.generator_loss(batch_of(), rollout)["structure"]
        gradient.append(torch.autograd.grad(loss, fake)[0][0])
    assert not torch.allclose(*gradient)
