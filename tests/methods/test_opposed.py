"""Students with a loss of their own, beside which a discriminator sees their predictions: terms, sides, none."""

import pytest
import torch
from few_step_parts import At, fakes_shown
from method_parts import batch_of, denoiser, evaluated, images_of, logits, opponent_frozen, projected, total, touched
from small_networks import small_unet
from torch.nn.functional import softplus

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.methods.distillation.drifting import Drifting
from sparring.methods.distillation.imm import IMM
from sparring.methods.distillation.meanflow import MeanFlow
from sparring.methods.distillation.progressive import Progressive
from sparring.methods.distillation.scm import SCM
from sparring.process import RectifiedFlow
from sparring.rollout import noise
from sparring.rollout.ode_step import ddim


def stepping(classes=None, **settings):
    """A flow whose network takes where its steps end."""
    made = Denoiser(small_unet(classes), RectifiedFlow(), "flow", second_time=True, **settings)
    for parameter in made.time_slot.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return made.double()


SYSTEMS = {
    "scm": lambda *given, **settings: SCM(denoiser(), *given, times=At(1.0), **settings),
    "progressive": lambda *given, **settings: Progressive(denoiser(), *given, **settings),
    "meanflow": lambda *given, **settings: MeanFlow(
        stepping(), *given, share=1.0, times=At(0.8), other_times=At(0.3), **settings
    ),
    "imm": lambda *given, **settings: IMM(stepping(), *given, group=2, **settings),
    "drifting": lambda *given, **settings: Drifting(denoiser(), *given, group=6, **settings),
}
CALLS = {"scm": (2, 2), "progressive": (1, 1), "meanflow": (2, 3), "imm": (2, 3), "drifting": (1, 1)}


def predicted(name, method, rollout):
    """The image that the discriminator is to see of `batch_of()`."""
    batch, generator = batch_of(), method.generator
    if name == "scm":
        noised = method.noised(batch)
        return generator(noised.x_t, noised.t).x0
    if name == "meanflow":
        batch.draws.uniform((len(batch),))  # which rows have two times: all of them
        noised = noise(generator.process, batch, At(0.8)(None, None, len(batch)))
        return noised.x_t - 0.8 * generator(noised.x_t, noised.t, None, None, noised.t).output
    if name == "imm":
        _, _, t = method.times(batch)
        noised = noise(generator.process, batch, t)
        return ddim(generator(noised.x_t, t, None, None, t), 0 * t)
    return rollout.images if name == "drifting" else rollout.image


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_discriminator_adds_its_term_and_sees_the_prediction_and_the_image(name):
    method, plain = SYSTEMS[name](projected(augment=""), adversarial_weight=0.3), SYSTEMS[name]()
    batch, rollout = batch_of(phase="generator"), method.rollout(batch_of())
    losses, alone = (evaluated(m.generator_loss(batch, m.rollout(batch_of()))) for m in (method, plain))
    (own,) = alone
    assert set(losses) == {own, "adversarial"}
    assert losses[own] == alone[own]
    fake = logits(method.discriminator, predicted(name, method, rollout))
    real = logits(method.discriminator, images_of())
    torch.testing.assert_close(losses["adversarial"], 0.3 * softplus(-fake).mean())
    players = evaluated(method.discriminator_loss(batch, rollout))
    torch.testing.assert_close(players["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    with opponent_frozen(method):
        terms = evaluated(method.generator_loss(batch, method.rollout(batch_of())))
        terms["adversarial"].backward()
    assert touched(method) <= {f"generator.{key}" for key, _ in method.generator.named_parameters()}
    assert touched(method)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_gradient_of_the_student_has_the_adversarial_one_with_its_weight(name):
    def gradient(method, losses_of):
        loss = losses_of(method, method.rollout(batch_of()))
        found = torch.autograd.grad(
            loss, list(method.generator.parameters()), allow_unused=True, materialize_grads=True
        )
        return torch.cat([one.flatten() for one in found])

    def whole(method, rollout):
        return total(method.generator_loss(batch_of(phase="generator"), rollout))

    def adversarial(method, rollout):
        return softplus(-logits(method.discriminator, predicted(name, method, rollout))).mean()

    method = SYSTEMS[name](projected(augment=""), adversarial_weight=0.3)
    added = gradient(method, whole) - gradient(SYSTEMS[name](), whole)
    assert added.norm() > 1e-4
    torch.testing.assert_close(added, 0.3 * gradient(method, adversarial), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_discriminator_learns_without_the_graph_of_the_fake(name):
    method = SYSTEMS[name](projected())
    total(method.discriminator_loss(batch_of(phase="discriminator"), method.rollout(batch_of()))).backward()
    assert touched(method)
    assert touched(method) <= {f"discriminator.{key}" for key, _ in method.discriminator.named_parameters()}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_network_is_called_once_more_only_for_a_discriminator_whose_fake_is_not_there(name):
    for given, expected in zip(((), (projected(),)), CALLS[name], strict=True):
        method, calls = SYSTEMS[name](*given), []
        method.generator.net.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        method.rollout(batch_of())
        assert len(calls) == expected


@pytest.mark.parametrize("kind", [MeanFlow, IMM])
def test_no_class_is_left_out_of_what_the_discriminator_sees(kind):
    method = kind(stepping(classes=11, condition_dropout=0.9), projected(num_classes=11)).train()
    shown, batch = fakes_shown(method), Batch(images_of(8), torch.arange(8), Draws(0))
    method.rollout(method.generator.embed(batch))
    ((noised, image),) = shown
    made = method.generator(noised.x_t, noised.t, batch.labels, None, noised.t)
    torch.testing.assert_close(image, made.x0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_without_weight_there_is_no_discriminator(name):
    assert SYSTEMS[name](projected(), adversarial_weight=0.0).discriminator is None
    with pytest.raises(ValueError, match="`adversarial_weight=-1.0`"):
        SYSTEMS[name](projected(), adversarial_weight=-1.0)
