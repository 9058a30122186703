"""Noisy classifier: that of the guidance of ADM, diffusion models beat GANs (Dhariwal and Nichol, arXiv 2105.05233).

Status: proven; its gradient leads to the class (docs/results/sampling.md).

A classifier of noised images that knows the noise level, for `sparring sample RUN --with classifier`:

    L = -E log p(y | x_t, t),        x_t = alpha x_0 + sigma eps,        t as in denoising training

Real images only: there is no fake and no discriminator. The paper trains it with t uniform; here times are a setting.
A classifier of clean images would guide badly at high noise, which is most of the way.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from sparring.data import Batch, ImageData
from sparring.generators import Guide
from sparring.methods.method import Losses, Method
from sparring.process import Times
from sparring.rollout import Noised, noise


@dataclass
class Guess:
    """A noised batch, its logits [B, classes] and its classes [B]."""

    noised: Noised
    logits: Tensor
    labels: Tensor


class NoisyClassifier(Method):
    """Cross-entropy on noised images.

    Args:
        generator: the classifier, a guide with as many outputs as there are classes.
        times: distribution of the noise level; the process's own when None.
    """

    generator: Guide

    def __init__(self, generator: Guide, *, times: Times | None = None):
        super().__init__(generator)
        self.times = times or generator.process.default_times()

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        if data.num_classes is None:
            raise ValueError(f"`{data.name}` has no labels, and a classifier learns them: give labelled images")
        if data.num_classes != self.generator.outputs:
            raise ValueError(
                f"the classifier gives {self.generator.outputs} numbers and `{data.name}` has {data.num_classes} "
                "classes: set `--generator.net.out_channels`"
            )

    def rollout(self, batch: Batch) -> Guess:
        t = self.times(self.generator.process, batch.draws, len(batch))
        noised = noise(self.generator.process, batch, t)
        return Guess(noised, self.generator(noised.x_t, noised.t), self.classes(batch))

    def classes(self, batch: Batch) -> Tensor:
        """[B] what is learned of the images."""
        if batch.labels is None:
            raise ValueError("these images have no labels, and a classifier learns them")
        return batch.labels

    def generator_loss(self, batch: Batch, rollout: Guess) -> Losses:
        correct = rollout.logits.argmax(1) == rollout.labels
        clean = rollout.noised.t <= rollout.noised.t.median()
        self.log(accuracy=correct.double().mean(), accuracy_of_the_cleaner_half=correct[clean].double().mean())
        return {"classification": cross_entropy(rollout.logits, rollout.labels)}
