"""Students with a loss of their own, beside which a discriminator sees their predictions: terms, sides, none."""

import pytest
import torch
from few_step_parts import At
from method_parts import batch_of, denoiser, evaluated, images_of, logits, opponent_frozen, projected, touched
from torch.nn.functional import softplus

from sparring.methods.distillation.progressive import Progressive
from sparring.methods.distillation.scm import SCM

SYSTEMS = {"scm": lambda *given, **settings: SCM(*given, times=At(1.0), **settings), "progressive": Progressive}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_discriminator_adds_its_term_and_sees_the_prediction_and_the_image(name):
    method = SYSTEMS[name](denoiser(), projected(augment=""), adversarial_weight=0.3)
    plain = SYSTEMS[name](denoiser())
    batch, rollout = batch_of(phase="generator"), method.rollout(batch_of())
    losses, alone = (evaluated(m.generator_loss(batch, m.rollout(batch_of()))) for m in (method, plain))
    (own,) = alone
    assert losses[own] == alone[own]
    if name == "scm":
        noised = method.noised(batch_of())
        image = method.generator(noised.x_t, noised.t).x0
    else:
        image = rollout.image
    fake, real = logits(method.discriminator, image), logits(method.discriminator, images_of())
    torch.testing.assert_close(losses["adversarial"], 0.3 * softplus(-fake).mean())
    players = evaluated(method.discriminator_loss(batch, rollout))
    torch.testing.assert_close(players["adversarial"], softplus(-real).mean() + softplus(fake).mean())
    with opponent_frozen(method):
        terms = evaluated(method.generator_loss(batch, method.rollout(batch_of())))
        terms["adversarial"].backward()
    assert touched(method) <= {f"generator.{key}" for key, _ in method.generator.named_parameters()}
    assert touched(method)


@pytest.mark.parametrize("name", SYSTEMS)
def test_without_weight_there_is_no_discriminator(name):
    assert SYSTEMS[name](denoiser(), projected(), adversarial_weight=0.0).discriminator is None
    with pytest.raises(ValueError, match="`adversarial_weight=-1.0`"):
        SYSTEMS[name](denoiser(), projected(), adversarial_weight=-1.0)
