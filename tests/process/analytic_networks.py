"""Networks that know the answer: exact denoisers of Gaussians and of their mixtures, for any process and output."""

import torch
from torch import Tensor, nn

from sparring.process import EDM, Kind, Process


class Mixture(nn.Module):
    """The optimal network for data sum_k w_k N(mean_k, cov_k), as images [B, 1, 1, d], in float64.

    It is called as diffusers calls a network: with what the process shows it and with the process's own time.
    """

    def __init__(self, process: Process, kind: Kind, weights: Tensor, means: Tensor, covs: Tensor) -> None:
        super().__init__()
        self.process, self.kind = process, kind
        self.weights, self.means, self.covs = weights.double(), means.double(), covs.double()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = self.process.t_from_model_time(time.double())[:1]  # a scheduler has one time for the whole batch
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        if isinstance(self.process, EDM):
            x = x * (sigma**2 + self.process.sigma_data**2) ** 0.5
        flat = x.double().flatten(1)
        noisy_covs = alpha**2 * self.covs + sigma**2 * torch.eye(flat.shape[1], dtype=torch.float64)
        logits, x_0s = [], []
        for weight, mean, cov, noisy_cov in zip(self.weights, self.means, self.covs, noisy_covs, strict=True):
            residual = flat - alpha * mean
            solved = torch.linalg.solve(noisy_cov, residual.T).T
            logits.append(weight.log() - 0.5 * (residual * solved).sum(1) - 0.5 * torch.logdet(noisy_cov))
            x_0s.append(mean + alpha * solved @ cov)
        responsibility = torch.stack(logits).softmax(0)[..., None]
        x_0 = (responsibility * torch.stack(x_0s)).sum(0).reshape(x.shape)
        eps = (x - alpha * x_0) / sigma
        if self.kind == "edm":
            assert isinstance(self.process, EDM)
            spread = self.process.sigma_data**2 + sigma**2
            skip = self.process.sigma_data**2 / spread
            return (x_0 - skip * x) / (sigma * self.process.sigma_data / spread**0.5)
        return {"eps": eps, "x0": x_0, "v": alpha * eps - sigma * x_0, "flow": eps - x_0}[self.kind]


def gaussian(process: Process, kind: Kind, mean: Tensor, cov: Tensor) -> Mixture:
    """The optimal network for data N(mean, cov)."""
    return Mixture(process, kind, torch.ones(1), mean[None], cov[None])


def probability_flow(process: Process, x_t: Tensor, t: Tensor, s: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    """Where the probability-flow ODE of data N(mean, cov) carries x_t, [B, 1, 1, d], from time t to time s.

    In the eigenbasis of cov each coordinate keeps its distance from alpha mean in units of its standard deviation
    sqrt(alpha^2 c + sigma^2). `s` below 0 means all the way to the clean image, which EDM's s = 0 is not.
    """
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    alpha_s, sigma_s = (one, zero) if s < 0 else (process.alpha(s), process.sigma(s))
    variances, basis = torch.linalg.eigh(cov)
    ratio = (alpha_s**2 * variances + sigma_s**2) / (process.alpha(t) ** 2 * variances + process.sigma(t) ** 2)
    moved = (x_t.flatten(1) - process.alpha(t) * mean) @ basis * ratio.sqrt() @ basis.T
    return (alpha_s * mean + moved).reshape(x_t.shape)
