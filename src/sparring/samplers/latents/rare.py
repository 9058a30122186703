"""Rare: diverse rare sample generation with a pretrained GAN (arXiv 2412.19543).

Status: proven; rare and real images in place of common ones, at the price of recall (docs/results/sampling.md).

Latents of a GAN are moved by gradient to where real images are rare, apart from each other, near a reference. From each
latent z_0 of the plain sampler go m starts z_0 + 0.1 n, n ~ N(0, 1). Each minimises by Adam

    w log p(h) / d + near relu(|h - h_0| - radius)^2 - diversity mean_j |h - h_j|^2,        h = phi(G(z))

d: numbers of h; h_0: of the reference, h_j: of the other starts from it; log p: of a flow on features (`sparring fit
rare_density`), in whose features distances are in units of that of two real images. Kept is the point of least loss
among real images, as that region is said there, and within the radius; a start that finds none is returned as it was.
Loss, starts, Adam and what is kept are the official code's. There the sum over pairs is added to every row, and each
reference has a radius of its own. Units and weights are ours.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import relu

from sparring.backbones.feature_flow import FeatureFlow
from sparring.data import Draws
from sparring.generators import DenoisingNetwork, Guide, LatentGenerator
from sparring.generators.predictor import Intervention
from sparring.networks.modes import eval_mode
from sparring.samplers.gradients import opened_guide


class Rare(Intervention):
    """Latents that are moved to rare images; for a generator that makes images in one call.

    Args:
        density: run of `sparring fit rare_density`, or the guide itself.
        weight: w, of the log-density of a feature; below 0 it moves to common images.
        diversity: weight of the squared distance to the other starts.
        near: weight of the squared distance from the reference beyond the radius.
        radius: how far from its reference an image may go.
        starts: m, images from each reference.
        deviation: of the starts from the reference.
        steps: of Adam; 0: the starts as they are.
        rate: of Adam.
        allow: further packages whose networks the folder may name.
    """

    of_latents = True

    def __init__(
        self,
        density: str | Guide,
        *,
        weight: float = 0.3,
        diversity: float = 1.0,
        near: float = 30.0,
        radius: float = 0.8,
        starts: int = 10,
        deviation: float = 0.1,
        steps: int = 200,
        rate: float = 0.01,
        allow: Sequence[str] = (),
    ):
        if starts < 1 or min(diversity, near, radius, deviation, steps, rate) < 0:
            raise ValueError(
                f"`starts={starts}` must be at least 1, `diversity={diversity}`, `near={near}`, `radius={radius}`, "
                f"`deviation={deviation}`, `steps={steps}`, `rate={rate}` 0 or more"
            )
        self.guide = opened_guide(density, "density", allow)
        if not isinstance(self.guide.net, FeatureFlow):
            raise ValueError(f"`density={density}` holds no density: train one with `fit rare_density`")
        self.density = density
        self.net = self.guide.net
        self.weight, self.diversity, self.near, self.radius = weight, diversity, near, radius
        self.starts, self.deviation = starts, deviation
        self.steps, self.rate = steps, rate
        self.rows = 0

    @property
    def cost(self) -> int:
        return self.rows

    def check(self, denoiser: DenoisingNetwork) -> None:
        raise ValueError("rare moves latents of a generator that makes images in one call, and this is a denoiser")

    def noise(self, generator: LatentGenerator, n: int, seed: int, labels: Tensor | None, size: int) -> Tensor:
        if self.guide.image_shape != generator.image_shape:
            raise ValueError(
                f"`density` is of images of shape {self.guide.image_shape}, and the model makes {generator.image_shape}"
            )
        if generator.takes_source or (labels is not None and len(labels.unique()) > 1):
            raise ValueError("rare compares images of one kind: give one class with --labels, and no source image")
        self.net.to(generator.device)
        plain = torch.randn((n, generator.noise_dim), generator=torch.Generator().manual_seed(seed))
        group = torch.arange(n) // self.starts
        starts = plain[group] + self.deviation * Draws(seed, phase="starts").normal(tuple(plain.shape))
        label, found = None if labels is None else labels[:1], []
        rows_at_once = max(1, size // self.starts) * self.starts
        with eval_mode(generator):
            for of, begin in zip(group.split(rows_at_once), starts.split(rows_at_once), strict=True):
                found.append(self.moved(generator, plain[of], begin, of, label))
        return torch.cat(found)

    def moved(
        self, generator: LatentGenerator, reference: Tensor, start: Tensor, group: Tensor, label: Tensor | None
    ) -> Tensor:
        """Where starts [B, noise_dim] go: `reference` [B, noise_dim] and the number of the `group` [B] of each."""
        reference, start, group = (x.to(generator.device) for x in (reference, start, group))
        z = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=self.rate)
        best, least = start, torch.full((len(z),), torch.inf, device=z.device)
        with torch.no_grad():
            about = self.codes(generator, reference, label)
        for step in range(self.steps + 1 if self.steps else 0):
            with torch.enable_grad():
                h = self.codes(generator, z, label)
                loss = self.losses(h, about, group)
            far = (h.detach() - about).norm(dim=1) > self.radius * self.net.spread
            better = self.net.is_real(h.detach()) & ~far & (loss.detach() < least)
            best = torch.where(better[:, None], z.detach(), best)
            least = torch.where(better, loss.detach(), least)
            if step < self.steps:
                (z.grad,) = torch.autograd.grad(loss.sum(), z)
                self.rows += 4 * len(z)  # back through density and generator; each counts two
                optimizer.step()
        return best.cpu()

    def codes(self, generator: LatentGenerator, noise: Tensor, label: Tensor | None) -> Tensor:
        """Scaled features [B, d] of the images of normal numbers [B, noise_dim]."""
        self.rows += len(noise)
        labels = None if label is None else label.expand(len(noise))
        return self.net.scaled(generator(generator.of_noise(noise), labels).clamp(-1, 1))

    def losses(self, h: Tensor, about: Tensor, group: Tensor) -> Tensor:
        """[B] of scaled features h [B, d], those of their references [B, d] and the numbers of their groups [B]."""
        beyond = relu((h - about).square().sum(1).clamp(min=1e-12).sqrt() / self.net.spread - self.radius)
        same = (group[:, None] == group).to(h)
        apart = ((h[:, None] - h).square().sum(2) * same).sum(1) / (same.sum(1) - 1).clamp(min=1)
        loss = self.near * beyond.square() - self.diversity * apart / self.net.spread.square()
        return loss + self.weight * self.net.log_density(h) / h.shape[1]
