"""IT3D: improved text-to-3D generation with explicit view synthesis (arXiv 2308.11473).

Status: no gain; error 0.049 against 0.052 without D, 0.047 if D is given wrong poses (docs/results/gans.md).

One object is made by score distillation from a diffusion model of views, and then improved by a discriminator whose
reals are edits of the object's own coarse views:

    v = view(x, a),  pose a at random,      v_t = alpha v + sigma eps
    first:   L_G = sds_weight 0.5 mean |v - sg T(v_t, a)|^2                        (coarse object x_c)
    then:    u = T's way back from view(x_c, a) noised to `strength`,   w = adversarial_weight, falling to 0 at the end
             L_D = mean sp(-D(u, a)) + mean sp(D(v, a)) + R1,    L_G = L_sds + w mean sp(-D(v, a)),    sp = log(1 + e^.)

Score distillation averages over all that could be seen; an edit picks one. Fake: the view of the object. The object is
the generator's image, the same for every z.

From the paper's program: edits of coarse renderings with strength 0.5, the discriminator given the view, weight 1 that
falls to 0 over the last 2500 of 5000 steps, lazy R1 every 16th. Ours: everything in the plane (see `CAD`); one loss in
place of separate moves of two optimisers; R1 beside D's loss and not in place of it; edits drawn anew in each step; no
dropped views, no guidance; T trained before the first step.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Views, generator_loss
from sparring.generators import Generator, LatentGenerator
from sparring.methods.method import Losses, Method, check_weights, moving_copy
from sparring.methods.view_model import ViewModel
from sparring.networks.precision import at_least_float32
from sparring.objectives import R1, NonSaturating, Objective, Penalty, penalties_of
from sparring.process import Times, Uniform
from sparring.rollout.edited import edited

FALL = 0.5  # of the time after the coarse object, over which the adversarial weight falls to 0


@dataclass
class ObjectViews:
    """Views [B, C n, 1, 1] of the object with their graph, the poses [B], and what the discriminator sees."""

    seen: Tensor
    poses: Tensor
    views: Views


class IT3D(Method):
    """Makes one object, an image of which only views on a line are known, and improves it against its own edited views.

    Args:
        generator: of the object, `OneImage` as the network.
        discriminator: of views [B, C n, 1, 1], given the pose as the label.
        num_poses: from which the object is seen, evenly over half a turn.
        density: of full matter, per side of the image.
        teacher_steps: updates of the diffusion model of views.
        teacher_width: of its layers.
        coarse: share of the run after which the object is taken as the coarse one and the discriminator begins.
        strength: noise level to which coarse views are noised for an edit, in (0, 1].
        edit_steps: calls of an edit.
        sds_weight: of score distillation; 0 leaves the discriminator once the coarse object stands.
        adversarial_weight: w; 0 leaves score distillation.
        poses: what the discriminator is given: the "own" pose, or one that is "shuffled" over the rows: a control.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator; R1 of weight 1 every 16 steps when None.
        times: levels of score distillation; uniform from 2% to 98% when None.

    Raises:
        ValueError: a setting out of range; what `ViewModel` refuses.
    """

    generator: LatentGenerator
    discriminator: Discriminator
    sample_steps = 1

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        num_poses: int = 12,
        density: float = 4.0,
        teacher_steps: int = 2000,
        teacher_width: int = 128,
        coarse: float = 0.5,
        strength: float = 0.5,
        edit_steps: int = 5,
        sds_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        poses: Literal["own", "shuffled"] = "own",
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
        times: Times | None = None,
    ):
        check_weights(sds_weight=sds_weight, adversarial_weight=adversarial_weight)
        if not 0 <= coarse < 1 or not 0 < strength <= 1 or edit_steps < 1:
            raise ValueError(
                f"`coarse={coarse}` must lie in [0, 1), `strength={strength}` in (0, 1], and `edit_steps={edit_steps}` "
                "be at least 1"
            )
        super().__init__(generator, discriminator)
        told = (num_poses, density, teacher_width, teacher_steps, poses)
        self.model = ViewModel(generator, discriminator, *told)
        self.coarse_object = moving_copy(generator)
        self.coarse, self.strength, self.edit_steps = coarse, strength, edit_steps
        self.sds_weight, self.adversarial_weight = sds_weight, adversarial_weight
        self.objective = objective or NonSaturating()
        self.penalties = [R1(weight=1.0, every=16)] if penalty is None else penalties_of(penalty)
        self.times = times or Uniform(low=0.02, high=0.98)

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        super().prepare(data, seed)
        self.model.fit(data, seed)

    @property
    def refining(self) -> bool:
        """Whether the coarse object stands, and the discriminator has begun."""
        return self.step >= round(self.coarse * self.steps)

    @property
    def weight(self) -> float:
        """Of the adversarial term in this step: 0, then w, and falling to 0 at the end."""
        if not self.refining:
            return 0.0
        left, whole = self.steps - self.step, FALL * (1 - self.coarse) * self.steps
        return self.adversarial_weight * min(left / max(whole, 1), 1.0)

    def rollout(self, batch: Batch) -> ObjectViews:
        poses = batch.draws.integers(self.model.num_poses, (len(batch),))
        z = self.generator.latents(batch)
        seen = self.model.seen(self.generator(z), poses)
        with torch.no_grad():
            rough = self.model.seen(self.coarse_object(z), poses)
            real = self.edited(rough, poses, batch.draws)
        given = self.model.given(poses)
        return ObjectViews(seen, poses, self.discriminator.views(real, seen, given, batch.draws))

    def edited(self, rough: Tensor, poses: Tensor, draws: Draws) -> Tensor:
        """What the model makes of views [B, C n, 1, 1] of poses [B] that are noised to `strength`, by DDIM's steps."""
        return edited(self.model.denoiser, rough, poses, self.strength, self.edit_steps, draws).clamp(-1, 1)

    def discriminator_loss(self, batch: Batch, rollout: ObjectViews) -> Losses:
        begun = float(self.refining)
        return self.discriminator_terms(
            self.discriminator, rollout.views, self.objective, self.penalties, batch.draws, weight=begun
        )

    def generator_loss(self, batch: Batch, rollout: ObjectViews) -> Losses:
        losses: Losses = {}
        weight = self.sds_weight if self.refining else self.sds_weight or 1.0  # the coarse object is always distilled
        if weight > 0:
            losses["sds"] = weight * self.distilled(batch, rollout)
        if self.adversarial_weight > 0:
            adversarial = generator_loss(self.discriminator, rollout.views, self.objective)
            losses["adversarial"] = self.weight * adversarial
        return losses

    def distilled(self, batch: Batch, rollout: ObjectViews) -> Tensor:
        """`0.5 mean |v - sg T(v_t, a)|^2` of the object's views v."""
        denoiser, seen = self.model.denoiser, rollout.seen
        t = self.times(denoiser.process, batch.draws, len(seen))
        with torch.no_grad():
            eps = batch.draws.normal(tuple(seen.shape)).to(seen)
            target = denoiser(denoiser.process.add_noise(seen, eps, t), t, rollout.poses).x0
        return 0.5 * at_least_float32(seen - target).square().mean()

    def after_step(self) -> None:
        """Takes the object as the coarse one when its time has come."""
        if self.step + 1 == round(self.coarse * self.steps):
            self.coarse_object.refreeze(self.generator)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """Mean squared difference of the object and the nearest image of the data, and of its views from theirs."""
        assert isinstance(generator, LatentGenerator)
        images = data.images(min(len(data), 1000)).to(draws.device)
        made = generator(torch.zeros(1, generator.latent_dim, device=draws.device))
        errors = (images - made).square().flatten(1).mean(1)
        near = images[errors.argmin()][None].expand(self.model.num_poses, -1, -1, -1)
        poses = torch.arange(self.model.num_poses, device=draws.device)
        of_views = self.model.seen(made.expand_as(near), poses) - self.model.seen(near, poses)
        return {"image_error": float(errors.min()), "view_error": float(of_views.square().mean())}
