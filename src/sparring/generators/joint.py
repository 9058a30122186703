"""A denoiser of images and their labels at once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparring.data import Batch, ImageData
from sparring.generators.denoiser import Denoiser
from sparring.generators.merging import merged_network
from sparring.generators.own import kernel_settings, write_own
from sparring.generators.pipeline import scheduler_settings
from sparring.networks.joint_unet import JointUNet
from sparring.networks.precision import at_least_float32
from sparring.process import Process

FAINTEST, LEVELS = 0.02, 8  # the time at which a finished sample is read, and levels over which an image is classified


class JointDenoiser(Denoiser):
    """Denoises `z_0 = x_0 + amount pattern_y`; samples are drawn with a label, whose pattern is taken off at the end.

    Args:
        net: the network, which predicts z_0.
        process: how z_0 is noised.
    """

    net: Any

    def __init__(self, net: JointUNet, process: Process) -> None:
        if not isinstance(net, JointUNet):
            raise ValueError(f"`generator.net`: labels are read by a JointUNet, and this is a {type(net).__name__}")
        super().__init__(net, process, "x0")

    def check_condition(self, data: ImageData) -> None:
        super().check_condition(data)
        if data.num_classes != self.net.config["num_labels"]:
            raise ValueError(
                f"`net.num_labels={self.net.config['num_labels']}`: `{data.name}` has "
                f"{data.num_classes or 'no'} classes; set it to that, or give labelled images"
            )

    def with_labels(self, images: Tensor, labels: Tensor) -> Tensor:
        """z_0 [B, C, H, W] of images and labels [B]."""
        return images + self.net.config["amount"] * self.net.patterns.to(images)[labels]

    def embed(self, batch: Batch) -> Batch:
        assert batch.labels is not None
        return replace(batch, x_0=self.with_labels(batch.images, batch.labels), condition=None)

    def heads(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The image [B, C, H, W] and the label's logits [B, K], at least float32, for noisy z_t at times t [B]."""
        self.images_seen += len(x_t)
        dtype = next(self.net.parameters()).dtype
        image, logits = self.net.parts(self.process.model_input(x_t, t).to(dtype), self.process.model_time(t))
        return at_least_float32(image), at_least_float32(logits)

    def labels_of(self, z_0: Tensor) -> Tensor:
        """[B] labels that finished samples carry."""
        return self.heads(z_0, torch.full((len(z_0),), FAINTEST, device=z_0.device))[1].argmax(1)

    def decode(self, x_0: Tensor) -> Tensor:
        _, logits = self.heads(x_0, torch.full((len(x_0),), FAINTEST, device=x_0.device))
        return x_0 - self.net.expected(torch.zeros_like(x_0), logits)

    def classified(self, images: Tensor, eps: Tensor) -> Tensor:
        """[B] labels of images by their mean logits over eight levels, with noise eps and the mean of all patterns."""
        z_0 = images + self.net.config["amount"] * self.net.patterns.to(images).mean(0)
        total: Any = 0
        for level in range(LEVELS):
            t = torch.full((len(images),), (level + 0.5) / LEVELS, device=images.device)
            total = total + self.heads(self.process.add_noise(z_0, eps, t), t)[1].log_softmax(1)
        return total.argmax(1)

    def save(self, folder: Path, sampler: str = "ddim") -> bool:
        """Writes it as class, arguments and weights: the pipelines of diffusers do not take the pattern off."""
        settings = kernel_settings(self.process) | {"image_shape": self._image_shape, "joint": True}
        net: Any = self.net
        scheduler = scheduler_settings(self._scheduler(sampler))
        return write_own(folder, merged_network(net), scheduler=scheduler, **settings)
