"""A diffusion model of views on a line, which is all that CAD and IT3D know of objects."""

from typing import Literal

import torch
from torch import Tensor, nn

from sparring.data import Batch, Draws, ImageData
from sparring.discriminators import Discriminator, Given
from sparring.generators import Denoiser, LatentGenerator
from sparring.methods.fitted_denoiser import BATCH, fit_denoiser
from sparring.methods.method import check_not_negative, frozen_copy
from sparring.networks import MLP
from sparring.process import VP
from sparring.rollout.views import angle_of, views
from sparring.runs.choice import check_choice

MOST = 10_000  # images whose views are learned


class ViewModel(nn.Module):
    """Views [B, C n, 1, 1] of images [B, C, n, n], and a frozen denoiser of them that is given the pose as the class.

    Args:
        generator: of the images.
        discriminator: of the views, given the pose as the label; whether it takes them is checked.
        num_poses: evenly over half a turn.
        density: of full matter, per side of the image.
        width: of the denoiser's layers.
        steps: updates of the denoiser.
        poses: what the discriminator is given: the "own" pose, or one that is "shuffled" over the rows: a control.

    Raises:
        ValueError: a setting out of range, a generator with classes or of images that are not square, a discriminator
            of other views.
    """

    def __init__(
        self,
        generator: LatentGenerator,
        discriminator: Discriminator,
        num_poses: int,
        density: float,
        width: int,
        steps: int,
        poses: Literal["own", "shuffled"],
    ) -> None:
        super().__init__()
        check_not_negative(teacher_steps=steps)
        if num_poses < 1 or density <= 0:
            raise ValueError(f"`num_poses={num_poses}` must be at least 1, and `density={density}` above 0")
        check_choice("own", "shuffled", poses=poses)
        channels, height, side = generator.image_shape
        if generator.takes_labels or height != side:
            raise ValueError("`generator`: views are of square images without classes")
        self.num_poses, self.density, self.numbers = num_poses, density, channels * side
        self.steps, self.shuffled = steps, poses == "shuffled"
        check_takes(discriminator, self.numbers, num_poses)
        net = MLP(in_channels=self.numbers, width=width, frequencies=0, num_class_embeds=num_poses)
        self.denoiser = frozen_copy(Denoiser(net, VP(), "v"))

    def seen(self, images: Tensor, poses: Tensor) -> Tensor:
        """Views [B, C n, 1, 1] of images [B, C, n, n] from poses [B]."""
        return views(images, angle_of(poses, self.num_poses), self.density)

    def given(self, poses: Tensor) -> Given:
        """What the discriminator is conditioned on beside views from poses [B]."""
        return Given(labels=poses.roll(1, 0) if self.shuffled else poses)

    def fit(self, data: ImageData, seed: int) -> None:
        """Trains the denoiser on views of the data; it is frozen again afterwards."""
        images = data.images(min(len(data), MOST)).to(self.denoiser.device)

        def batch_of(draws: Draws) -> Batch:
            poses = draws.integers(self.num_poses, (BATCH,))
            return Batch(self.seen(images[draws.integers(len(images), (BATCH,))], poses), poses, draws)

        self.denoiser.requires_grad_(True).train()
        fit_denoiser(self.denoiser, batch_of, self.steps, seed, "the diffusion model of views")
        self.denoiser.requires_grad_(False).eval()


@torch.no_grad()
def check_takes(discriminator: Discriminator, numbers: int, num_poses: int) -> None:
    """Raises ValueError for a discriminator that does not take views of so many numbers, from so many poses."""
    given = Given(labels=torch.full((1,), num_poses - 1))
    like = next(discriminator.parameters(), torch.zeros(0))
    try:
        discriminator(like.new_zeros(1, numbers, 1, 1), given, Draws(0, phase="check"))
    except RuntimeError:
        raise ValueError(
            f"`discriminator`: it does not take views of {numbers} numbers from {num_poses} poses; set "
            "--method.discriminator.net.in_features and --method.discriminator.net.num_classes"
        ) from None
