"""Own steps: pure noise at the noisiest level, the student's own steps before a cleaner one, as LCM's sampler goes."""

import pytest
import torch
from torch import nn

from sparring.data import Batch, Draws
from sparring.generators import Denoiser
from sparring.process import VP, Uniform, set_timesteps
from sparring.rollout import falling_steps, own_steps, student_levels


class Clean(nn.Module):
    """Predicts half of what it sees, plus a shift, as the clean image, and remembers its calls."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.25, dtype=torch.float64))
        self.calls = []

    def forward(self, x, time):
        self.calls.append((x.detach().clone(), time.clone(), torch.is_grad_enabled()))
        return 0.5 * x + self.shift


def student():
    return Denoiser(Clean(), VP(), "x0")


def batch_of(seed, value=0.0):
    return Batch(torch.full((5, 1, 2, 2), value, dtype=torch.float64), draws=Draws(seed))


LEVELS = student_levels(student(), 4)


def of_calls(calls):
    """A rollout of so many calls, found by trying seeds."""
    for seed in range(100):
        denoiser = student()
        made = own_steps(denoiser, batch_of(seed, 3.0), LEVELS)
        if made.t[0] == LEVELS.flip(0)[calls - 1]:
            return denoiser, made
    raise AssertionError("no seed found")


def test_every_number_of_calls_comes_and_all_rows_share_it():
    seen = {tuple(own_steps(student(), batch_of(seed), LEVELS).t.tolist()) for seed in range(40)}
    assert len(seen) == 4
    assert all(len(set(times)) == 1 for times in seen)


def test_the_first_call_is_of_pure_noise():
    x = torch.cat([own_steps(student(), batch_of(seed, 100.0), LEVELS[-1:]).x_t for seed in range(200)])
    assert x.mean().item() == pytest.approx(0, abs=0.05)
    assert x.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("calls", [2, 4])
def test_the_calls_before_are_the_samplers(calls):
    """At the timesteps of diffusers' LCM scheduler, with fresh noise on what the call before predicted."""
    denoiser, made = of_calls(calls)
    scheduler = denoiser.process.scheduler("lcm", "x0")
    set_timesteps(scheduler, 4)
    seen = denoiser.net.calls
    assert len(seen) == calls
    assert [grad for _, _, grad in seen] == [False] * (calls - 1) + [True]
    noises = []
    for number, (x, time, _) in enumerate(seen):
        assert time.tolist() == pytest.approx([float(scheduler.timesteps[number])] * 5)
        if number:
            before, alpha = seen[number - 1][0], denoiser.process.alpha(LEVELS.flip(0)[number : number + 1].double())
            noises.append((x - alpha * (0.5 * before + 0.25)) / (1 - alpha**2).sqrt())
    for noise in noises:  # fresh, and standard normal
        assert noise.std().item() == pytest.approx(1, abs=0.45)
    assert len(noises) == 1 or abs(torch.corrcoef(torch.stack([n.flatten() for n in noises]))[0, 1].item()) < 0.8
    torch.testing.assert_close(made.x_t, seen[-1][0])
    (slope,) = torch.autograd.grad(made.x0.mean(), denoiser.net.shift)
    assert slope == 1  # of the last call only


def test_falling_steps_end_at_times_of_each_row_that_never_rise():
    """1 to 3 calls, of which the first is of pure noise and the last has the graph."""
    numbers, ends = set(), []
    for seed in range(60):
        denoiser = student()
        made = falling_steps(denoiser, batch_of(seed, 100.0), Uniform(), 3)
        seen = denoiser.net.calls
        numbers.add(len(seen))
        times = torch.stack([time for _, time, _ in seen])
        assert (times[0] == 999).all()
        assert (times[1:] <= times[:-1]).all()
        assert seen[0][0].abs().max() < 6  # nothing of the images
        assert [grad for _, _, grad in seen] == [False] * (len(seen) - 1) + [True]
        if len(seen) == 2:
            ends.append(made.t)
            alpha = denoiser.process.alpha(made.t.double()).view(-1, 1, 1, 1)
            noise = (made.x_t - alpha * (0.5 * seen[0][0] + 0.25)) / (1 - alpha**2).sqrt()
            assert noise.std().item() == pytest.approx(1, abs=0.5)
    assert numbers == {1, 2, 3}
    drawn = torch.cat(ends)  # uniform in t: the least of it and 1 is itself
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.1)
    assert all(len(set(one.tolist())) == 5 for one in ends)
