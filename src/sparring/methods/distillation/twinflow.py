"""TwinFlow: one network with a true and a fake branch that differ in the sign of time (arXiv 2512.05150).

Status: no gain; 3.45 in one call, without its branches 3.20 (docs/results/students.md).

On the path x_t = (1 - t) x_0 + t z the network F(x_t, t, r) gives the mean velocity from t to r, so that one call makes
xhat = z - F(z, 1, 0). At negative times the same network learns the velocity of its own samples. The difference of the
two branches says where the samples have to go, as two scores do in distribution matching, without a teacher, a second
network or a discriminator:

    base      |F - sg[F - clamp(((t - r) F - I) / h - v)]|^2,        v = z - x_0,        h = 0.01
              I = int_r^(t - h) F of an EMA
    fake      |F(x_s, -s, -s) - (z' - xhat)|^2,        x_s = (1 - s) sg xhat + s z'
    rectify   |F(z, 1, 0) - sg[F(z, 1, 0) - Delta]|^2,        Delta = clamp(F(x_s, -s, -s) - F(x_s, s, s))

The base term says that the mean velocity adds up over the path (I takes two steps of the EMA), and is flow matching if
r = t. Descent on the last term moves xhat by + Delta. Both clamps are to [-1, 1], as in the official program.

Fake: one call from pure noise; the two branches of the network tell it from real images. Ours: rows draw one of three
kinds of (t, r), which are (1, 0), (t, any r < t) and (t, t); equal weights of the terms; the length t - r enters by a
`TimeSlot`; h = 0.1 in the recipe, because from scratch what network and EMA differ by, over h, fills the clamp. The
paper's robust loss, its weight over t - r and guided targets are left out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.data import Batch
from sparring.generators import Condition, Denoiser
from sparring.methods.method import Losses, Method, check_not_negative, moving_copy
from sparring.process import RectifiedFlow, Times, Uniform, per_image
from sparring.rollout import check_begins_in_noise, noise, standard_normal


@dataclass
class Twin:
    """Real images on the path, and own samples, all [B, C, H, W] and times [B].

    Attributes:
        x_t, v: noised real images, and the velocity of their path.
        t, r: where a step starts and ends.
        one_call: F(z, 1, 0), with graph.
        x_s, v_s: noised own samples, and the velocity of their path.
        s: their times.
    """

    x_t: Tensor
    v: Tensor
    t: Tensor
    r: Tensor
    one_call: Tensor
    x_s: Tensor
    v_s: Tensor
    s: Tensor


class TwinFlow(Method):
    """Learns a flow for one call or a few, corrected by a fake branch of its own.

    Args:
        generator: a denoiser of a rectified flow that predicts the flow, with `second_time`.
        fake_weight: weight of the fake branch's own loss.
        rectify_weight: weight of the term that moves the one-call samples; 0 with `fake_weight` 0 leaves the base.
        flipped: Delta with the wrong sign, a control.
        target_decay: decay of the EMA in the base term's target.
        interval: h, over which the base term looks at the velocity.
        times: distribution of t and s; uniform when None.
    """

    generator: Denoiser
    sample_steps = 1
    trains_lengths = True

    def __init__(
        self,
        generator: Denoiser,
        *,
        fake_weight: float = 1.0,
        rectify_weight: float = 1.0,
        flipped: bool = False,
        target_decay: float = 0.99,
        interval: float = 0.01,
        times: Times | None = None,
    ):
        check_not_negative(fake_weight=fake_weight, rectify_weight=rectify_weight)
        process, kind = type(generator.process).__name__, generator.prediction
        if not isinstance(generator.process, RectifiedFlow) or kind != "flow":
            raise ValueError(
                f"`process={process}`, `prediction={kind}`: TwinFlow is a flow: give RectifiedFlow and flow"
            )
        check_begins_in_noise(generator)
        if generator.time_slot is None:
            raise ValueError("TwinFlow needs `denoiser.second_time` true")
        if not 0 <= target_decay < 1:
            raise ValueError(f"`target_decay={target_decay}` must lie in [0, 1)")
        if not 0 < interval < 1:
            raise ValueError(f"`interval={interval}` must lie in (0, 1)")
        super().__init__(generator)
        self.target = moving_copy(generator)
        self.fake_weight, self.rectify_weight, self.flipped = fake_weight, rectify_weight, flipped
        self.target_decay, self.interval = target_decay, interval
        self.times = times or Uniform()

    def rollout(self, batch: Batch) -> Twin:
        n, draws, process = len(batch), batch.draws, self.generator.process
        t, kind = self.times(process, draws, n), draws.integers(3, (n,))
        end_to_end, ones = kind == 0, torch.ones_like(t)
        share = draws.uniform((n,)).to(t)
        r = torch.where(kind == 2, t, torch.where(end_to_end, 0 * t, share * t))
        noised = noise(process, batch, torch.where(end_to_end, ones, t))
        z, other, s = standard_normal(batch), standard_normal(batch), self.times(process, draws, n)
        one_call = velocity(self.generator, z, ones, ones, batch.condition)
        sample = (z - one_call).detach()
        x_s = process.add_noise(sample, other, s)
        return Twin(noised.x_t, noised.eps - noised.x_0, noised.t, r, one_call, x_s, other - sample, s)

    def generator_loss(self, batch: Batch, rollout: Twin) -> Losses:
        losses: Losses = {"base": self.base(rollout, batch.condition)}
        if self.fake_weight == self.rectify_weight == 0:
            return losses
        fake = velocity(self.generator, rollout.x_s, rollout.s, 0 * rollout.s, batch.condition, sign=-1)
        if self.fake_weight > 0:
            losses["fake"] = self.fake_weight * (fake - rollout.v_s).square().mean()
        if self.rectify_weight > 0:
            with torch.no_grad():
                real = velocity(self.generator, rollout.x_s, rollout.s, 0 * rollout.s, batch.condition)
                delta = (fake - real).clamp(-1, 1) * (-1 if self.flipped else 1)
            self.log(delta=delta.square().mean())
            moved = (rollout.one_call - delta).detach()
            losses["rectify"] = self.rectify_weight * (rollout.one_call - moved).square().mean()
        return losses

    def base(self, rollout: Twin, condition: Condition) -> Tensor:
        """How far the mean velocity from t to r is from adding up to the true one at t; squared, mean over all."""
        t, r, x_t, v = rollout.t, rollout.r, rollout.x_t, rollout.v
        mean = velocity(self.generator, x_t, t, t - r, condition)
        with torch.no_grad():
            h = (t - r).clamp(max=self.interval)
            middle, x, integral = (t - h + r) / 2, x_t - per_image(h, x_t) * v, torch.zeros_like(v)
            for start, end in ((t - h, middle), (middle, r)):
                moved = per_image(start - end, x) * velocity(self.target.module, x, start, start - end, condition)
                x, integral = x - moved, integral + moved
            added = (per_image(t - r, v) * mean - integral) / per_image(h.clamp(min=1e-6), v)
            slope = torch.where(per_image(h, v) > 1e-6, added, mean)  # if r = t, F itself
            target = mean - (slope - v).clamp(-1, 1)
        return (mean - target).square().mean()

    @torch.no_grad()
    def after_step(self) -> None:
        self.target.follow(self.generator, 1 - self.target_decay)


def velocity(
    denoiser: Denoiser, x: Tensor, t: Tensor, length: Tensor, condition: Condition, *, sign: int = 1
) -> Tensor:
    """F(x, sign t, sign (t - length)) [B, C, H, W], with the time as the network takes it."""
    return denoiser.network(x, sign * denoiser.process.model_time(t), condition, None, length)
