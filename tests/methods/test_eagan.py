"""EAGAN: every architecture is trained, by the hinge losses; what it measures and what it refuses."""

import pytest
import torch

from sparring.data import Batch, Draws, GaussianMixture
from sparring.discriminators import PlainDiscriminator
from sparring.generators import Classes, LatentGenerator
from sparring.methods.gan.eagan import EAGAN, made_by
from sparring.metrics.toys import sliced_wasserstein
from sparring.networks import Perceptron, SuperPerceptron
from sparring.networks.super_perceptron import GENOTYPES


def eagan(net=None, classes=27):
    torch.manual_seed(0)
    generator = LatentGenerator(net or SuperPerceptron(), 2 + classes, prior=Classes(2 + classes, classes))
    return EAGAN(generator, PlainDiscriminator(net=Perceptron(width=8, depth=2)))


def batch(phase="rollout", n=400):
    images = GaussianMixture(num_samples=n).images()
    return Batch(images, draws=Draws(0, phase=phase))


def test_its_losses_by_hand_and_one_architecture_in_a_step():
    method = eagan()
    rollout = method.rollout(batch())
    draws = Draws(0, phase="rollout")
    alone = method.generator.net.alone(GENOTYPES[draws.one_integer(27)])
    made = alone(draws.normal((400, 3))[:, :2])
    torch.testing.assert_close(rollout.fake[0], made)
    real, fake = (method.discriminator.net(x) for x in (batch().images, made))
    loss = method.discriminator_loss(batch("discriminator"), rollout)["adversarial"]
    torch.testing.assert_close(loss, (1 - real).relu().mean() + (1 + fake).relu().mean())
    torch.testing.assert_close(method.generator_loss(batch("generator"), rollout)["adversarial"], -fake.mean())


def test_it_measures_the_best_architecture():
    method, data = eagan(), GaussianMixture(num_samples=300)
    with torch.no_grad():
        found = method.measures(method.generator, data, Draws(0))
        noise = Draws(0).normal((300, 3))[:, :2]
        made = [method.generator.net.alone(one)(noise).clamp(-1, 1) for one in GENOTYPES]
        torch.testing.assert_close(made_by(method.generator, 5, noise).clamp(-1, 1), made[5])
    far = [sliced_wasserstein(points, data.holdout().images(300)) for points in made]
    assert found["best"] == far.index(min(far))
    assert found["best_distance"] == pytest.approx(min(far), rel=1e-4)
    assert found["middle_distance"] == pytest.approx(sorted(far)[13], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"classes": 26, "net": Perceptron(in_features=28, out_shape=[2, 1, 1])}, "not a Perceptron with 26 classes"),
        ({"net": Perceptron(in_features=29, out_shape=[2, 1, 1])}, "not a Perceptron with 27 classes"),
    ],
)
def test_what_cannot_work_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        eagan(**settings)
