"""IMM: inductive moment matching, one call or a few from scratch (Zhou et al., arXiv 2503.07565).

Status: proven on digits from scratch at two calls (0.75), as without its groups; at four 0.58, where UniPC has 0.81
(docs/results/students.md).

The network takes the end of a step: f(x, s, t) is the DDIM step from t to s by its prediction of the clean image. A
group of M images shares s < r < t. Its steps from t are compared, as a set, with its own steps from a little cleaner r:

    f_j = f(x_t, s, t),        f'_j = sg f(x_r, s, r),        x_r of the image and the noise of x_t
    L = w(t) mean over j, k of [ kernel(f_j, f_k) + kernel(f'_j, f'_k) - 2 kernel(f_j, f'_k) ]
    kernel(a, b) = exp(-|a - b| / (c D)),        c = |d f / d output|,        D numbers in an image
    w(t) = 1/2 sigmoid(b - log SNR) (-d log SNR / dt) alpha^a / (alpha^2 + sigma^2)

The squared distance of the moments of two sets needs no discriminator; with M = 1 it is a consistency loss. The steps
from r are right if those that are still cleaner are, by induction down to s = r.

There is no teacher and no average target, and no discriminator unless one is given (ours, with the weight 0.1): then
f(x_t, 0, t) is its fake, a call of its own. Exponents, kernel and times are those of an independent implementation; the
authors' own has no training. That a group may hold several classes, and that the process may be VP, is ours.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.discriminators import Discriminator, Views
from sparring.generators import Denoiser
from sparring.methods.method import Losses
from sparring.methods.opposed import Opposed
from sparring.networks.modes import same_dropout
from sparring.objectives import Objective, Penalty
from sparring.objectives.moments import squared_moments
from sparring.process import Process
from sparring.rollout import noise
from sparring.rollout.ode_step import ddim

LARGEST = 160.0
"""The noise-to-signal ratio up to which it learns, the authors'; of a flow it is t = 0.994."""
SMALLEST, APART = 1e-3, 1e-4


@dataclass
class IMMStep:
    """Steps from t, and from r without gradient, both [B, C, H, W], which end at s; all times [B]; and what a
    discriminator sees, if there is one."""

    far: Tensor
    near: Tensor
    s: Tensor
    r: Tensor
    t: Tensor
    views: Views = field(default_factory=Views)


class IMM(Opposed):
    """Learns steps between any two times, by the moments of small groups; from scratch or from a trained start.

    Args:
        generator: a denoiser of a flow or a VP process, with `second_time`.
        discriminator: tells f(x_t, 0, t) from the images; none by default. One that compares gets the image itself.
        group: M, images that are compared at once; a divisor of the rows that are seen together.
        halvings: r is nearer to the clean end by 2^-halvings of all noise-to-signal ratios.
        power: a.
        offset: b.
        adversarial_weight: of the adversarial term, if there is a discriminator.
        objective: adversarial loss; non-saturating when None.
        penalty: one penalty or several on the discriminator.
    """

    sample_steps = 1
    trains_lengths = True

    def __init__(
        self,
        generator: Denoiser,
        discriminator: Discriminator | None = None,
        *,
        group: int = 4,
        halvings: int = 12,
        power: float = 2.0,
        offset: float = 4.0,
        adversarial_weight: float = 0.1,
        objective: Objective | None = None,
        penalty: Penalty | list[Penalty] | None = None,
    ):
        if group < 1 or not 1 <= halvings <= 20:
            raise ValueError(f"`group={group}` must be at least 1, and `halvings={halvings}` lie between 1 and 20")
        if generator.time_slot is None:
            raise ValueError("IMM needs `denoiser.second_time` true")
        opponent = dict(adversarial_weight=adversarial_weight, objective=objective, penalty=penalty)
        super().__init__(generator, discriminator, **opponent)  # type: ignore[arg-type]
        self.group, self.halvings, self.power, self.offset = group, halvings, power, offset

    def check(self, batch_size: int) -> None:
        super().check(batch_size)
        if batch_size % self.group:
            raise ValueError(f"`batch_size={batch_size}` must be a multiple of `group={self.group}`")

    def rollout(self, batch: Batch) -> IMMStep:
        denoiser, process = self.generator, self.generator.process
        if len(batch) % self.group:
            raise ValueError(f"`group={self.group}` must divide the rows that are seen together, {len(batch)}")
        s, r, t = self.times(batch)
        noised = noise(process, batch, t)
        x_r = process.add_noise(noised.x_0, noised.eps, r)
        condition = denoiser.condition_with_dropout(batch)
        with torch.no_grad(), same_dropout(x_r):
            near = ddim(denoiser(x_r, r, condition, None, r - s), s)
        far = ddim(denoiser(noised.x_t, t, condition, None, t - s), s)
        return IMMStep(far, near, s, r, t, self.seen_of_jumps(batch, noised))

    def times(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Times s <= r < t [B], the same in each group."""
        process = self.generator.process
        largest = process.t_from_log_snr(-2 * torch.tensor(LARGEST, dtype=torch.float64).log())
        u, part = (self.shared(batch.draws.uniform((len(batch),))) for _ in range(2))
        t = SMALLEST + u * (largest.to(u) - SMALLEST)
        s = part * t
        ratio = torch.exp(-0.5 * process.log_snr(t)) - LARGEST / 2**self.halvings
        nearer = process.t_from_log_snr(-2 * ratio.clamp(min=1e-12).log())
        return s, torch.minimum(torch.maximum(nearer, s), torch.maximum(t - APART, s)), t

    def shared(self, u: Tensor) -> Tensor:
        """One uniform number for each group, [B]: the fraction of the sum of its own, in whatever order they come."""
        groups = u.double().view(-1, self.group).sum(1).frac()
        return groups.repeat_interleave(self.group)

    def discriminator_loss(self, batch: Batch, rollout: IMMStep) -> Losses:
        return self.opponents_loss(batch, rollout.views)

    def generator_loss(self, batch: Batch, rollout: IMMStep) -> Losses:
        process, t = self.generator.process, rollout.t
        width = slope_of_step(process, rollout.s, t) * self.generator.x0_slope(t)
        distance = squared_moments(rollout.far, rollout.near, width, self.group)
        log_snr, alpha = process.log_snr(t), process.alpha(t)
        weight = 0.5 * torch.sigmoid(self.offset - log_snr) * -process.rate(process.log_snr, t)
        weight = weight * alpha**self.power / (alpha.square() + process.sigma(t).square())
        self.log(distance=distance.mean())
        moments = (weight.view(-1, self.group)[:, 0] * distance).mean()
        return {"moments": moments} | self.adversarial(rollout.views)


def slope_of_step(process: Process, s: Tensor, t: Tensor) -> Tensor:
    """[B] derivative of a DDIM step from t to s by the clean image: `alpha_s - alpha_t sigma_s / sigma_t`."""
    return process.alpha(s) - process.alpha(t) * process.sigma(s) / process.sigma(t)
