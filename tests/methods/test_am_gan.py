"""AM-GAN: its losses by hand, both ways to a target, and what it refuses."""

import pytest
import torch
from gan_parts import batch, discriminator, generator, latents, points
from torch.nn.functional import cross_entropy

from sparring.methods.gan.am_gan import AMGAN


@pytest.mark.parametrize("target", ["given", "dynamic"])
def test_its_losses_by_hand(target):
    method = AMGAN(generator(num_classes=3), discriminator(4), target=target)
    rollout, y = method.rollout(batch()), batch().labels
    fake = method.discriminator.net(method.generator(latents(), y))
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    expected = cross_entropy(method.discriminator.net(points()), y) + cross_entropy(fake, torch.full((6,), 3))
    torch.testing.assert_close(losses["adversarial"], expected)
    aim = y if target == "given" else fake[:, :3].argmax(1)
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, cross_entropy(fake, aim))
    assert set(method.statistics) == {"logit_real", "logit_fake", "accuracy", "class_accuracy"}


def test_dynamic_labels_need_no_class_conditional_generator():
    method = AMGAN(generator(), discriminator(4), target="dynamic")
    assert method.generator_loss(batch("generator"), method.rollout(batch()))["adversarial"].isfinite()
    with pytest.raises(ValueError, match="`target=given`: the generator is given no class"):
        AMGAN(generator(), discriminator(4))


def test_a_discriminator_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"3 classes need logits \[B, 4\], one for fakes, and .* gives \[B, 3\]"):
        AMGAN(generator(num_classes=3), discriminator(3))
