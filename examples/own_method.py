"""An own method: a patch discriminator compares one-step predictions with the images they came from.

    T_b    = alpha^2 / (alpha^2 + sigma^2)                              trust in a prediction; low where it is a blur
    L_G    = L_diffusion + weight * mean_b T_b mean_p softplus(D(x_0)_p - D(x0_pred)_p)
    L_D    = mean_b T_b mean_p softplus(D(x0_pred)_p - D(x_0)_p) + gamma/2 R1

D gives a logit per patch p and compares each patch of a fake with the same patch of its real image (relativistic
pairing, Huang et al. 2025). As a program, on scikit-learn's digits:

    python examples/own_method.py --steps 300 --out runs/patch

As a recipe, with every setting a flag; `--allow` says that you trust the module which the recipe names:

    PYTHONPATH=examples sparring fit examples/own_method.yaml --allow own_method --out runs/patch-recipe
"""

import argparse
from pathlib import Path

from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import softplus

from sparring import VP, AdamW, Batch, Denoiser, Digits, Method, Trainer
from sparring.methods.method import Losses
from sparring.objectives import r1_penalty
from sparring.process import LogNormal, Sigmoid, Times
from sparring.rollout import OneStep, denoising_error, one_step


class PatchDiscriminator(nn.Sequential):
    """Images [B, C, H, W] to logits [B, 1, H/2, W/2], each of which sees 7x7 pixels.

    Args:
        in_channels: channels of the images.
        width: channels inside.
    """

    def __init__(self, *, in_channels: int = 1, width: int = 32):
        super().__init__(
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 1),
        )


class PatchMethod(Method):
    """Denoising training with a patch discriminator on the predictions.

    Args:
        generator: the denoiser to train or tune.
        discriminator: images to a logit per patch.
        weight: of the adversarial term.
        r1_gamma: strength of R1 on the real images.
        times: distribution of the noise level; the process's own when None.
    """

    discriminator: PatchDiscriminator

    def __init__(
        self,
        generator: Denoiser,
        discriminator: PatchDiscriminator,
        *,
        weight: float = 0.05,
        r1_gamma: float = 0.001,
        times: Times | None = None,
    ):
        super().__init__(generator, discriminator)
        self.weight, self.r1_gamma, self.times = weight, r1_gamma, times or generator.process.default_times()
        self.trust = Sigmoid(bias=0.0)  # of log SNR, which is alpha^2 / (alpha^2 + sigma^2)

    def rollout(self, batch: Batch) -> OneStep:
        return one_step(self.generator, batch, self.times)

    def discriminator_loss(self, batch: Batch, fake: OneStep) -> Losses:
        real = batch.images.clone().requires_grad_()
        logits_real, logits_fake = self.discriminator(real), self.discriminator(fake.prediction.x0.detach())
        self.log(logit_real=logits_real.mean(), logit_fake=logits_fake.mean())
        adversarial = self.trusted(softplus(logits_fake - logits_real), fake)
        return {"adversarial": adversarial, "r1": 0.5 * self.r1_gamma * r1_penalty(logits_real, real)}

    def generator_loss(self, batch: Batch, fake: OneStep) -> Losses:
        gap = self.discriminator(batch.images) - self.discriminator(fake.prediction.x0)
        return {
            "diffusion": denoising_error(self.generator, fake).mean(),
            "adversarial": self.weight * self.trusted(softplus(gap), fake),
        }

    def trusted(self, losses: Tensor, fake: OneStep) -> Tensor:
        """The mean of losses [B, 1, h, w] over patches and, with weight T, over images."""
        log_snr = self.generator.process.log_snr(fake.noised.t)
        return (self.trust(log_snr) * losses.float().mean((1, 2, 3))).mean()


def main(steps: int, out: Path) -> Path:
    """Trains from scratch on digits; returns the run folder, whose `pipeline/` opens with diffusers."""
    net = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=[16, 32],
        norm_num_groups=8,
        down_block_types=["DownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "UpBlock2D"],
        add_attention=False,
    )
    denoiser = Denoiser(net, VP(), "v")
    method = PatchMethod(denoiser, PatchDiscriminator(), times=LogNormal(mean=-0.4, std=1.2))
    return Trainer(
        method,
        Digits(),
        out=out,
        steps=steps,
        generator_optimizer=AdamW(lr=2e-3, decay="cosine"),
        discriminator_optimizer=AdamW(lr=2e-3, betas=(0.5, 0.999)),
        ema_decay=0.99,
    ).fit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train digits with a patch discriminator.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/patch"))
    options = parser.parse_args()
    print("run:", main(options.steps, options.out))
