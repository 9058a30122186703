"""GET: one-step diffusion distillation via deep equilibrium models (arXiv 2401.08639).

Status: no gain of shared weights over untied ones; three seeds on digits (docs/results/students.md).

A teacher's sampler is a map from noise to images, and a bank of its pairs (z, y) is all that is learned from. The
student is a transformer whose blocks are run until their state is at rest; one evaluation makes an image:

    u = I(z),     s* = F(s*, u),     x = W s*
    L = mean |x - y| + early_weight mean |W s_half - y|,    s_half: the state after half of the steps

F has few weights that all steps share, so quality is bought with steps and not with weights. Fake: the student's
image of a noise of the bank. Nobody tells it from real: there is no discriminator, and after the bank no teacher.

The paper: pairs, patches, blocks that read the noise once and are added to queries, keys and values of the others, L1,
a loss on iterates of the way, AdamW 1e-4. Ours: the number of pairs (the paper has 1 or 2 million of EDM), one iterate
of the way at half of it, a solver of half steps, the implicit gradient, sizes and rates.
"""

from dataclasses import dataclass

from torch import Tensor

from sparring.data import Batch
from sparring.generators import Denoiser, LatentGenerator
from sparring.generators.loading import opened
from sparring.methods.method import Losses, check_not_negative
from sparring.methods.on_pairs import OnPairs
from sparring.networks import EquilibriumTransformer
from sparring.networks.precision import at_least_float32


@dataclass
class SolvedPairs:
    """Images [B, C, H, W] of the student, x, those halfway, the teacher's y, and the residual [B]."""

    x: Tensor
    early: Tensor
    y: Tensor
    residual: Tensor


class GET(OnPairs):
    """Trains an equilibrium transformer, from scratch, to make the images that a denoiser's sampler makes.

    Args:
        generator: of an `EquilibriumTransformer`; its latents are the noise of the sampler.
        denoiser: run or pipeline folder of the teacher, or the denoiser.
        num_pairs: pairs in the bank, in equal parts of all classes.
        scheduler: the deterministic sampler that makes them.
        num_steps: its steps.
        early_weight: weight of the loss on the state halfway; 0 leaves it out.
        shuffled: each noise gets the image of another: a control that learns the mean image.

    Raises:
        ValueError: another network or other images than the teacher's; classes of one that the other does not take; a
            teacher of latents; what `OnPairs` refuses.
    """

    generator: LatentGenerator

    def __init__(
        self,
        generator: LatentGenerator,
        denoiser: str | Denoiser,
        *,
        num_pairs: int = 10_000,
        scheduler: str = "unipc",
        num_steps: int = 10,
        early_weight: float = 0.5,
        shuffled: bool = False,
    ):
        check_not_negative(early_weight=early_weight)
        if not isinstance(generator.net, EquilibriumTransformer):
            name = type(generator.net).__name__
            raise ValueError(f"GET trains an EquilibriumTransformer, and the generator is a {name}")
        teacher = opened(denoiser)
        if teacher.space is not None or teacher.text is not None:
            raise ValueError(
                "`denoiser`: GET makes pixels, of classes or of nothing: give one without latents and captions"
            )
        if teacher.takes_labels != generator.takes_labels:
            told, other = ("denoiser", "generator") if teacher.takes_labels else ("generator", "denoiser")
            raise ValueError(
                f"`num_classes={generator.num_classes}`: the {told} takes classes and the {other} does not"
            )
        bank = dict(num_pairs=num_pairs, scheduler=scheduler, num_steps=num_steps)
        super().__init__(generator, teacher, **bank)  # type: ignore[arg-type]
        self.net = [generator.net]  # in a list: it is the generator's
        self.early_weight = early_weight
        self.shuffled = shuffled

    def rollout(self, batch: Batch) -> SolvedPairs:
        z, y, _ = self.pairs(batch)
        net, labels = self.net[0], batch.labels if self.generator.takes_labels else None
        self.generator.images_seen += len(z)
        solved = net.solve(z.flatten(1), labels)
        x, early = at_least_float32(solved.image), at_least_float32(solved.early)
        return SolvedPairs(x, early, y.roll(1, 0) if self.shuffled else y, solved.residual)

    def generator_loss(self, batch: Batch, rollout: SolvedPairs) -> Losses:
        self.log(residual=rollout.residual.mean(), pair_error=(rollout.x - rollout.y).square().mean())
        losses: Losses = {"distance": (rollout.x - rollout.y).abs().mean()}
        if self.early_weight > 0:
            losses["early"] = self.early_weight * (rollout.early - rollout.y).abs().mean()
        return losses
