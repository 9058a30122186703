"""CAD: photorealistic 3D generation via adversarial distillation (arXiv 2312.06663).

Status: proven; from views alone 18.9, unpruned 12.5, a GAN of the images 18, wrong poses 42 (docs/results/gans.md).

A generator of objects is distilled from a diffusion model that knows only how objects look from given poses. A GAN
renders its objects, and "real" is what the diffusion model draws for the same pose:

    x = G(z),    v = view(x, a),    pose a at random;     u ~ T(u | a)
    L_D = mean sp(-D(u, a)) + mean sp(D(v, a)) + R1,        L_G = mean sp(-D(v, a)),        sp(r) = log(1 + e^r)

Fake: the view of a generated object, given its pose. Unlike score distillation of one object, one generator learns all
objects, and nothing pulls them to one mode. Pose pruning: of the samples of T, those that do not look as their pose
says are dropped; here a sample disagrees by the share of its own pose's denoising error in the mean over all poses.

From a review of the paper: adversarial distillation from pose-conditional samples, pose pruning. Its losses are not
known here. Ours: everything in the plane, where an object is an image [C, n, n] and a view is its opacity on a line of
n places; non-saturating loss, R1 of 1 every 16th step; the measure of pruning and the half that is kept; T, a
perceptron that learns views of the data before the first step and is then all that is known of them.
"""

from typing import Literal

import torch
from torch import Tensor

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Views
from sparring.generators import Generator, LatentGenerator
from sparring.methods.gan.gan import GAN
from sparring.methods.method import held_out
from sparring.methods.view_model import ViewModel
from sparring.metrics.toys import sliced_wasserstein
from sparring.objectives import R1, Objective, Penalty

ASKED = 4  # noise levels at which it is asked how a sample fits its pose


class CAD(GAN):
    """A generator of square images that is shown only views of them on a line, by a diffusion model of views.

    Args:
        generator: from latents to images, without classes.
        discriminator: of views [B, C n, 1, 1], given the pose as the label.
        num_poses: from which objects are seen, evenly over half a turn.
        density: of full matter, per side of the image; an opacity is `1 - exp(-integral)`.
        teacher_steps: updates of the diffusion model of views.
        teacher_width: of its layers.
        num_views: samples that it draws before the first step, in equal parts of all poses.
        kept: share of those of each pose that is kept, the ones that agree best with it; 1 keeps all.
        scheduler: the sampler that draws them.
        num_steps: its steps.
        poses: what the discriminator is given: the "own" pose, or one that is "shuffled" over the rows: a control.
        objective: what both players minimise; non-saturating when None.
        penalty: one penalty or several on the discriminator; R1 of weight 1 every 16 steps when None.

    Raises:
        ValueError: a setting out of range, a generator with classes or of images that are not square, a discriminator
            of other views.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        *,
        num_poses: int = 12,
        density: float = 4.0,
        teacher_steps: int = 2000,
        teacher_width: int = 128,
        num_views: int = 12_000,
        kept: float = 0.5,
        scheduler: str = "ddim",
        num_steps: int = 20,
        poses: Literal["own", "shuffled"] = "own",
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if num_steps < 1:
            raise ValueError(f"`num_steps={num_steps}` must be at least 1")
        if not 0 < kept <= 1 or int(kept * (num_views // max(num_poses, 1))) < 1:
            raise ValueError(
                f"`kept={kept}`, `num_views={num_views}`: keep a share in (0, 1], and a view of each of {num_poses}"
            )
        penalty = R1(weight=1.0, every=16) if penalty is None else penalty
        super().__init__(generator, discriminator, objective=objective, penalty=penalty)
        told = (num_poses, density, teacher_width, teacher_steps, poses)
        self.model = ViewModel(generator, discriminator, *told)
        self.num_views, self.kept, self.scheduler, self.num_steps = num_views, kept, scheduler, num_steps
        self.reals = torch.nn.Parameter(torch.empty(0), requires_grad=False)  # [poses, kept of each, C n, 1, 1]

    def prepare(self, data: ImageData, seed: int = 0) -> None:
        """Trains the diffusion model of views, and draws and prunes the views that count as real."""
        super().prepare(data, seed)
        device = self.reals.device
        self.model.fit(data, seed)
        teacher, num_poses = self.model.denoiser, self.model.num_poses
        each = self.num_views // num_poses
        poses = torch.arange(num_poses, device=device).repeat_interleave(each)
        draws = Draws(seed, phase="views", device=device)
        latents = draws.normal((len(poses), self.model.numbers, 1, 1))
        sampler = teacher.process.scheduler(self.scheduler, teacher.prediction)
        made = teacher.generate(sampler, self.num_steps, latents=latents, condition=poses).clamp(-1, 1)
        order = self.disagreement(made, poses, draws).view(num_poses, each).argsort(1)
        chosen = order[:, : int(self.kept * each)]
        made = made.view(num_poses, each, *made.shape[1:])
        self.reals.data = made[torch.arange(num_poses, device=device)[:, None], chosen]

    @torch.no_grad()
    def disagreement(self, seen: Tensor, poses: Tensor, draws: Draws) -> Tensor:
        """[B] denoising error of views [B, C n, 1, 1] as of their poses, over the mean of that as of any pose."""
        own, mean = torch.zeros(len(seen), device=seen.device), torch.zeros(len(seen), device=seen.device)
        teacher, num_poses = self.model.denoiser, self.model.num_poses
        process = teacher.process
        for level in range(ASKED):
            t = torch.full((len(seen),), (level + 1) / (ASKED + 1), device=seen.device)
            eps = draws.normal(tuple(seen.shape)).to(seen)
            x_t = process.add_noise(seen, eps, t)
            for pose in range(num_poses):
                told = torch.full_like(poses, pose)
                error = teacher.output_error(teacher(x_t, t, told), seen, eps)
                mean += error / num_poses
                own += torch.where(poses == pose, error, 0.0)
        return own / mean.clamp_min(1e-12)

    def rollout(self, batch: Batch) -> Views:
        if not len(self.reals):
            raise ValueError("CAD has no views yet: call `prepare(data)` before the first step")
        poses = batch.draws.integers(self.model.num_poses, (len(batch),))
        real = self.reals[poses, batch.draws.integers(self.reals.shape[1], (len(batch),))].to(batch.images)
        fake = self.model.seen(self.generator(self.generator.latents(batch)), poses)
        return self.discriminator.views(real, fake, self.model.given(poses), batch.draws)

    def measures(self, generator: Generator, data: ImageData, draws: Draws) -> dict[str, float]:
        """`view_distance`: sliced Wasserstein distance of views of fakes and of held-out images, a mean over poses."""
        assert isinstance(generator, LatentGenerator)
        batch = held_out(data, draws)
        made, n = generator(generator.latents(batch)), self.model.num_poses
        poses = [torch.full((len(batch),), pose, device=draws.device) for pose in range(n)]
        seen = ((self.model.seen(images, pose) for images in (made, batch.images)) for pose in poses)
        return {"view_distance": sum(sliced_wasserstein(*both) for both in seen) / n}
