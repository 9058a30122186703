"""Self-perceptual loss: "Diffusion Model with Perceptual Loss" (Lin and Yang, arXiv 2401.00110).

Status: no gain on digits, and alone a harm; three seeds (docs/results/limits.md).

The model's own hidden layers measure its error. A frozen copy of the trained model sees the clean image and the
predicted one, both noised to a level t' of their own, and its middle layer F tells them apart:

    xh = D(x_t, t, c);   a = add_noise(x_0, e, t'),   b = add_noise(xh, e', t')
    L = weight mean |F(a, t', c) - F(b, t', c)|^2 + diffusion_weight L_diffusion

Fake: the one-step prediction, through b only. There is no discriminator; the copy never changes. From summaries of the
paper: the frozen copy, the new level, the distance of hidden features. From general knowledge: the middle block. Ours:
e' = e (new noise, shared), with the step's own noise and the predicted noise as the other choice; t' in [0.1, 0.9],
since near 0 it is a distance of pixels and near 1 it vanishes; the weights.
"""

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn

from sparring.backbones import freeze
from sparring.data import Batch
from sparring.generators import Denoiser
from sparring.generators.middle import middle_block, output_of
from sparring.methods.method import Losses, Method, check_weights, frozen_copy
from sparring.networks.precision import at_least_float32
from sparring.process import Times, Weighting
from sparring.rollout import OneStep, denoising_error, noise
from sparring.runs.choice import check_choice


class SelfPerceptual(Method):
    """Tunes a trained denoiser on the distance in its own hidden features.

    Args:
        generator: a trained denoiser; its state at the start is the perceptual network.
        weight: of the perceptual term.
        diffusion_weight: of the ordinary denoising loss beside it.
        through: what measures the distance: the frozen "copy"; "shuffled", the copy with the weights of each tensor in
            a random order (a control); or "pixels", the noised images themselves (a control).
        noise: "shared" noises both images with the same new noise; "predicted" the clean one with the noise of the step
            and the other with the noise that was predicted.
        layer: name in the network of the layer that is looked at; None: its middle block.
        low: least t'.
        high: largest t'.
        times: distribution of the noise level t; the process's own when None.
        weighting: of the denoising loss over log-SNR; None: equal weight on the network's own output.
    """

    generator: Denoiser

    def __init__(
        self,
        generator: Denoiser,
        *,
        weight: float = 1.0,
        diffusion_weight: float = 0.0,
        through: Literal["copy", "shuffled", "pixels"] = "copy",
        noise: Literal["shared", "predicted"] = "shared",
        layer: str | None = None,
        low: float = 0.1,
        high: float = 0.9,
        times: Times | None = None,
        weighting: Weighting | None = None,
    ):
        check_choice("copy", "shuffled", "pixels", through=through)
        check_choice("shared", "predicted", noise=noise)
        check_weights(weight=weight, diffusion_weight=diffusion_weight)
        if not 0 < low <= high < 1:
            raise ValueError(f"`low={low}`, `high={high}`: times must lie between 0 and 1, the smaller one first")
        if generator.slot is not None:
            raise ValueError("a network that is conditioned on a latent z has no features of its own here: use another")
        super().__init__(generator)
        self.eyes: Denoiser | None = None
        if through != "pixels" and weight > 0:
            self.eyes = frozen_copy(generator) if through == "copy" else shuffled(generator)
            self.layer = layer
            self.block()
        self.weight, self.diffusion_weight = weight, diffusion_weight
        self.noise, self.low, self.high = noise, low, high
        self.times = times or generator.process.default_times()
        self.weighting = weighting

    def block(self) -> nn.Module:
        """The layer of the copy whose output is compared."""
        assert self.eyes is not None
        if self.layer is None:
            try:
                return middle_block(self.eyes.net)
            except ValueError as error:
                raise ValueError(f"{error}: name a `layer`") from None
        try:
            return self.eyes.net.get_submodule(self.layer)
        except AttributeError:
            raise ValueError(
                f"`layer={self.layer}`: {type(self.eyes.net).__name__} has no layer of that name"
            ) from None

    def rollout(self, batch: Batch) -> OneStep:
        process = self.generator.process
        noised = noise(process, batch, self.times(process, batch.draws, len(batch)))
        condition = self.generator.condition_with_dropout(batch)
        return OneStep(noised, self.generator(noised.x_t, noised.t, condition))

    def generator_loss(self, batch: Batch, rollout: OneStep) -> Losses:
        losses: Losses = {}
        if self.weight > 0:
            losses["perceptual"] = self.weight * self.distance(batch, rollout)
        if self.diffusion_weight > 0:
            error = denoising_error(self.generator, rollout, self.weighting)
            losses["diffusion"] = self.diffusion_weight * error.mean()
        return losses

    def distance(self, batch: Batch, rollout: OneStep) -> Tensor:
        """Mean squared distance of the clean images and the predicted ones, through the copy; new draws of t' and e."""
        process = self.generator.process
        t = process.snap(self.low + (self.high - self.low) * batch.draws.uniform((len(batch),)))
        real = fake = process.kernel(batch.draws, tuple(batch.x_0.shape)).to(batch.x_0)
        if self.noise == "predicted":
            real, fake = rollout.noised.eps, rollout.prediction.eps
        with torch.no_grad():
            target = self.see(process.add_noise(batch.x_0, real, t), t, batch)
        seen = self.see(process.add_noise(rollout.prediction.x0, fake, t), t, batch)
        return (seen - target).square().mean()

    def see(self, x_t: Tensor, t: Tensor, batch: Batch) -> Tensor:
        """Features [B, ...] of noised images [B, C, H, W], or these themselves; at least float32."""
        if self.eyes is None:
            return x_t
        return at_least_float32(output_of(self.block(), self.eyes, x_t, t, batch.condition))


def shuffled(denoiser: Denoiser) -> Denoiser:
    """A frozen copy with the numbers of each weight tensor in another order: a random network of equal sizes."""
    copy = deepcopy(denoiser)
    order = torch.Generator().manual_seed(0)
    for parameter in copy.parameters():
        numbers = parameter.data.flatten()
        parameter.data = numbers[torch.randperm(len(numbers), generator=order)].view_as(parameter)
    return freeze(copy)
