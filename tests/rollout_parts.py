"""What the tests of rollouts share: small networks, the samplers written out again, and their closed forms."""

import torch
from torch import nn

from sparring.data import Batch, Draws
from sparring.process import EDM, VP, RectifiedFlow, set_timesteps

VP_COSINE = VP(schedule="cosine")
PATHS = {
    "ddim-eps": (VP(), "eps", "ddim"),
    "ddim-v": (VP(), "v", "ddim"),
    "ddim-x0": (VP(), "x0", "ddim"),
    "euler-eps": (VP(), "eps", "euler"),
    "euler-flow": (RectifiedFlow(), "flow", "euler"),
    "euler-flow-shifted": (RectifiedFlow(shift=3.0), "flow", "euler"),
    "euler-edm": (EDM(), "edm", "euler"),
    "dpm-eps": (VP(), "eps", "dpm"),
    "dpm-v": (VP_COSINE, "v", "dpm"),
    "dpm-flow": (RectifiedFlow(), "flow", "dpm"),
    "dpm-edm": (EDM(), "edm", "dpm"),
    "unipc-eps": (VP(), "eps", "unipc"),
    "unipc-v": (VP_COSINE, "v", "unipc"),
    "unipc-flow": (RectifiedFlow(), "flow", "unipc"),
    "unipc-flow-shifted": (RectifiedFlow(shift=3.0), "flow", "unipc"),
    "heun-eps": (VP(), "eps", "heun"),
    "heun-v": (VP(), "v", "heun"),
    "heun-flow": (RectifiedFlow(), "flow", "heun"),
    "heun-edm": (EDM(), "edm", "heun"),
}


class Tiny(nn.Module):
    """A smooth network in float64 that remembers what it was shown and made."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.time = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(1, 4)
        self.last = nn.Conv2d(4, 1, 3, padding=1)
        self.double()
        self.calls = []

    def forward(self, x, time):
        assert not x.requires_grad
        hidden = self.first(x) + self.time(time[:, None] / 1000)[:, :, None, None]
        output = self.last(torch.tanh(hidden))
        self.calls.append((x.detach().clone(), time, output))
        return output


class Gaussian(nn.Module):
    """The optimal network for data N(mean, diag(variance)), as images [B, 1, 1, d]; it counts its calls."""

    def __init__(self, process, kind, mean, variance):
        super().__init__()
        self.process, self.kind, self.mean, self.variance, self.calls = process, kind, mean, variance, 0
        self.register_parameter("precision", nn.Parameter(torch.zeros((), dtype=torch.float64)))

    def forward(self, x, time):
        self.calls += 1
        t = self.process.t_from_model_time(time.double())[:, None, None, None]
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        if isinstance(self.process, EDM):
            x = x * (sigma**2 + self.process.sigma_data**2).sqrt()
        x_0 = self.mean + alpha * self.variance / (alpha**2 * self.variance + sigma**2) * (x - alpha * self.mean)
        eps = (x - alpha * x_0) / sigma
        spread = sigma**2 + 0.5**2
        edm = (x_0 - 0.5**2 / spread * x) / (0.5 * sigma / spread.sqrt())
        return {"eps": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "flow": eps - x_0, "edm": edm}[self.kind]


def batch_of(n=3, seed=0, shape=(1, 4, 4), labels=None):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, *shape, generator=generator, dtype=torch.float64) * 2 - 1
    return Batch(images, labels, Draws(seed, phase="test"))


def noise_of(batch):
    """The noise a rollout of this batch starts from, drawn again."""
    return Draws(batch.draws.seed, phase="test").normal(batch.images.shape).double()


def levels_of(process, name, num_steps):
    """The path as (alpha, sigma) per step in float64, with the clean image (1, 0) at its end."""
    if isinstance(process, VP):
        n = torch.arange(num_steps, 0, -1, dtype=torch.float64) * (1000 / num_steps)  # trailing: 1000, ...
        t = n.round() / 1000
    elif isinstance(process, RectifiedFlow):
        t = torch.linspace(1, 1 / num_steps, num_steps).double()  # diffusers makes them in float32
        if name == "heun":
            t = torch.linspace(1, 0.001, num_steps).double()
        t = process.shift * t / (1 + (process.shift - 1) * t)
        if name in ("dpm", "unipc"):  # both begin a little below 1
            scheduler = process.scheduler(name, "flow")
            set_timesteps(scheduler, num_steps)
            t = scheduler.sigmas[:-1].double()
    else:
        t = torch.linspace(1, 0, num_steps).double()
    end = torch.zeros(1, dtype=torch.float64)
    return torch.cat([process.alpha(t), 1 + end]), torch.cat([process.sigma(t), end])


def x0_coefficients(process, kind, alpha, sigma):
    """(p, q) with x_0 = p x + q output, for every prediction type."""
    if kind == "edm":
        spread = sigma**2 + process.sigma_data**2
        return process.sigma_data**2 / spread, sigma * process.sigma_data / spread**0.5
    return {"eps": (1 / alpha, -sigma / alpha), "x0": (0.0, 1.0), "v": (alpha, -sigma), "flow": (1.0, -sigma)}[kind]


def written_out(path, num_steps, start, x_0, eps, outputs):
    """The sampler again, in plain float64 formulas and the process's own scale; `outputs` are the network's, in order.

    First order: DDIM, x' = alpha' x_0 + sigma' eps, which is also Euler in x / alpha over sigma / alpha, and in t for a
    flow. "dpm": DPM-Solver++ 2M (Lu et al. 2022), x' = sigma'/sigma x + alpha' (1 - e^-h) ((1 + w) m - w m_before) with
    m = x_0, w = h / (2 h_before) and h the step in log(alpha/sigma); the first and the last step are of order one.
    "heun": the trapezoidal rule in the variables of Euler; the last step is of order one. "unipc": `unipc` below.
    """
    process, kind, name = path
    alphas, sigmas = levels_of(process, name, num_steps)
    if name == "unipc":
        return unipc(process, kind, alphas[start:], sigmas[start:], x_0, eps, outputs)
    outputs, before, h_before = iter(outputs), None, None
    x = alphas[start] * x_0 + sigmas[start] * eps
    for i in range(start, num_steps):
        alpha, sigma, alpha_next, sigma_next = alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1]
        p, q = x0_coefficients(process, kind, alpha, sigma)
        m = p * x + q * next(outputs)
        h = (alpha_next / sigma_next).log() - (alpha / sigma).log()
        last = i == num_steps - 1
        if name == "dpm" and i > start and not last:
            w = h / (2 * h_before)
            x = sigma_next / sigma * x + alpha_next * (1 - torch.exp(-h)) * ((1 + w) * m - w * before)
        elif name == "heun" and kind == "flow" and not last:
            x = x + (sigma_next - sigma) * ((x - m) / sigma + next(outputs)) / 2
        elif name == "heun" and not last:  # z = x / alpha over u = sigma / alpha: dz/du = (z - x_0) / u
            z, u, u_next = x / alpha, sigma / alpha, sigma_next / alpha_next
            slope = (z - m) / u
            z_next = z + (u_next - u) * slope
            p_next, q_next = x0_coefficients(process, kind, alpha_next, sigma_next)
            slope_next = (z_next - (p_next * alpha_next * z_next + q_next * next(outputs))) / u_next
            x = alpha_next * (z + (u_next - u) * (slope + slope_next) / 2)
        else:
            x = sigma_next / sigma * x + (alpha_next - sigma_next * alpha / sigma) * m
        before, h_before = m, h
    return x


def unipc(process, kind, alphas, sigmas, x_0, eps, outputs):
    """UniPC-2 with B(h) = e^-h - 1 (Zhao et al. 2023, arXiv 2302.04867, Algorithms 1 and 2, in x_0).

    The predictor is x' = sigma'/sigma x - alpha' (e^-h - 1) (m + d / 2) with d = (m_before - m) / r, r the ratio of the
    step before to this one (negative). The corrector does the step again once m' at x' is known, with weights of d and
    m' - m that integrate polynomials of degree 2 in log(alpha/sigma) exactly; after a step of order one: 0 and 1/2.
    """
    half_log_snr = (alphas / sigmas).log()
    x = alphas[0] * x_0 + sigmas[0] * eps
    plain = scale = before = h = r = d = None  # of the step before
    for i, output in enumerate(outputs):
        p, q = x0_coefficients(process, kind, alphas[i], sigmas[i])
        m = p * x + q * output
        if i == 1:
            x = plain - scale * (m - before) / 2
        elif i > 1:
            phi_2 = torch.expm1(-h) / -h - 1
            phi_3 = phi_2 / -h - 0.5
            rows = torch.stack([torch.ones(2).double(), torch.stack([r, torch.ones(()).double()])])
            weights = torch.linalg.solve(rows, torch.stack([phi_2, 2 * phi_3]) / torch.expm1(-h))
            x = plain - scale * (weights[0] * d + weights[1] * (m - before))
        h = half_log_snr[i + 1] - half_log_snr[i]
        scale = alphas[i + 1] * torch.expm1(-h)
        plain = sigmas[i + 1] / sigmas[i] * x - scale * m
        x = plain
        if 0 < i < len(outputs) - 1:
            r = (half_log_snr[i - 1] - half_log_snr[i]) / h
            d = (before - m) / r
            x = plain - scale * d / 2
        before = m
    return x


def closed_form(path, num_steps):
    """c_i of the sheet for the first-order samplers: b_i times the later a_j, telescoped where they telescope."""
    process, kind, name = path
    alpha, sigma = levels_of(process, name, num_steps)
    if kind == "eps":
        return (sigma / alpha).diff()  # sigma'/alpha' - sigma/alpha
    if kind == "flow":
        return sigma.diff()
    if kind == "v":
        a = alpha[:-1] * alpha[1:] + sigma[:-1] * sigma[1:]
        b = sigma[1:] * alpha[:-1] - alpha[1:] * sigma[:-1]
    elif kind == "x0":
        a = sigma[1:] / sigma[:-1]
        b = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]
    else:
        p, q = x0_coefficients(process, "edm", alpha[:-1], sigma[:-1])
        a = sigma[1:] / sigma[:-1] + (1 - sigma[1:] / sigma[:-1]) * p
        b = (1 - sigma[1:] / sigma[:-1]) * q
    later = torch.cat([a, torch.ones(1).double()]).flip(0).cumprod(0).flip(0)[1:]
    return b * later
