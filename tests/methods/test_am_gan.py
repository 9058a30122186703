"""AM-GAN: its losses by hand, both ways to a target, and what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from gan_parts import batch, discriminator, generator, latents, points
from torch.nn.functional import cross_entropy

from sparring.methods.gan.am_gan import AMGAN


@pytest.mark.parametrize("target", ["given", "dynamic", "shuffled"])
def test_its_losses_by_hand(target):
    method = AMGAN(generator(num_classes=None if target == "dynamic" else 3), discriminator(4), target=target)
    rollout, y = method.rollout(batch()), batch().labels
    fake = method.discriminator.net(method.generator(latents(), y))
    losses = method.discriminator_loss(batch("discriminator"), rollout)
    expected = cross_entropy(method.discriminator.net(points()), y) + cross_entropy(fake, torch.full((6,), 3))
    torch.testing.assert_close(losses["adversarial"], expected)
    aim = {"given": y, "dynamic": fake[:, :3].argmax(1), "shuffled": y.roll(1)}[target]
    loss = method.generator_loss(batch("generator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, cross_entropy(fake, aim))
    assert set(method.statistics) == {"logit_real", "logit_fake", "accuracy", "class_accuracy"}


def test_dynamic_labels_need_no_class_conditional_generator():
    method = AMGAN(generator(), discriminator(4), target="dynamic")
    assert method.generator_loss(batch("generator"), method.rollout(batch()))["adversarial"].isfinite()
    with pytest.raises(ValueError, match="`target=given`: the generator is given no class; use `dynamic`"):
        AMGAN(generator(), discriminator(4))


def test_a_class_that_no_target_asks_for_is_refused():
    with pytest.raises(ValueError, match="`target=dynamic`: the class that the generator is given would mean nothing"):
        AMGAN(generator(num_classes=3), discriminator(4), target="dynamic")


def test_the_last_class_of_the_data_is_never_taken_for_fake():
    """With a logit too few, the reals of the last class would be trained as fakes."""
    method = AMGAN(generator(), discriminator(3), target="dynamic")
    method.size_for(SimpleNamespace(num_classes=3))
    with pytest.raises(ValueError, match=r"got \(6, 3\) of \(6,\): .* one for fakes, 3 \+ 1"):
        method.discriminator_loss(batch("discriminator"), method.rollout(batch()))
    fits = AMGAN(generator(), discriminator(4), target="dynamic")
    fits.size_for(SimpleNamespace(num_classes=3))
    assert fits.discriminator_loss(batch("discriminator"), fits.rollout(batch()))["adversarial"].isfinite()


def test_a_discriminator_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"3 classes need logits \[B, 4\], one for fakes, and .* gives \[B, 3\]"):
        AMGAN(generator(num_classes=3), discriminator(3))
