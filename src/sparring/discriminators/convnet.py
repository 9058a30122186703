"""A small convolutional network that learns its features from the data itself."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.discriminators.backbones import Backbone, group_norm


class _Stage(nn.Module):
    """Convolution with a stride chosen in forward, GroupNorm, activation."""

    def __init__(self, c_in: int, c_out: int, kernel_size: int, activation: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel_size, padding=kernel_size // 2)
        self.norm = group_norm(c_out)
        self.activation: nn.Module = nn.SiLU() if activation == "silu" else nn.LeakyReLU(0.2)

    def forward(self, x: Tensor, stride: int) -> Tensor:
        x = F.conv2d(x, self.conv.weight, self.conv.bias, stride, self.conv.padding)
        return self.activation(self.norm(x))


class SmallConvNet(Backbone):
    """A small convolutional network, trained as a classifier on the data itself in seconds; default (ours).

    One 3x3 convolution, GroupNorm and activation per stage. Later stages halve the image as long as it stays at
    least 2x2 (8 px, three stages: 8, 4, 2; 32 px: 16, 8, 4), so one net takes any image size. `features` is the mean
    of the last map. Two nets that differ in widths, kernel, activation or seed can play judge and evaluator.

    Args:
        in_channels: Channels of the images.
        widths: Channels of each stage.
        num_classes: Number of classes of the data; needed for `pretrain="classifier"`.
        pretrain: "classifier": `prepare` trains the net on labels. "none": random features, the control.
        kernel_size: Odd size of the convolution kernels.
        activation: "silu" or "leaky_relu" (slope 0.2).
        epochs: Passes over the data in `prepare`.
        lr: Peak learning rate in `prepare`.
        seed: Seed of the initial weights and of the order of the data; torch's global generator is left alone.

    Raises:
        ValueError: A classifier without `num_classes`, an even kernel, no stage.
    """

    _accuracy: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        widths: Sequence[int] = (32, 64, 64),
        num_classes: int | None = None,
        pretrain: Literal["classifier", "none"] = "classifier",
        kernel_size: int = 3,
        activation: Literal["silu", "leaky_relu"] = "silu",
        epochs: int = 30,
        lr: float = 5e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pretrain == "classifier" and num_classes is None:
            raise ValueError(
                "`num_classes=None` with `pretrain='classifier'`: give the number, or use `pretrain='none'`"
            )
        if kernel_size % 2 == 0 or not widths:
            raise ValueError(
                f"`kernel_size={kernel_size}`, `widths={widths}`: use an odd kernel and at least one stage"
            )
        self.pretrain, self.epochs, self.lr, self.seed = pretrain, epochs, lr, seed
        self.channels, self.dim = list(widths), widths[-1]
        self.name = "convnet-" + "-".join(str(w) for w in widths) + ("" if pretrain == "classifier" else "-random")
        self.register_buffer("_accuracy", torch.tensor(-1.0))  # below 0: not prepared
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            sizes = zip([in_channels, *widths], widths, strict=False)
            self.stages = nn.ModuleList(_Stage(c_in, c_out, kernel_size, activation) for c_in, c_out in sizes)
            self.classifier = nn.Linear(self.dim, num_classes) if num_classes is not None else None
        if self.classifier is not None:
            self.classifier.requires_grad_(False)  # trained by `prepare` only; no player's loss reaches it

    @property
    def accuracy(self) -> float:
        """Share of held-out images that `prepare` saw classified rightly; NaN before. Saved with the weights."""
        return math.nan if self._accuracy < 0 else float(self._accuracy)

    def forward(self, images: Tensor) -> list[Tensor]:
        halvings = min(len(self.stages), int(math.log2(max(min(images.shape[-2:]) / 2, 1))))
        maps, x = [], images
        for i, stage in enumerate(self.stages):
            x = stage(x, stride=2 if i >= len(self.stages) - halvings else 1)
            maps.append(x)
        return maps

    def features(self, images: Tensor) -> Tensor:
        return self.forward(images)[-1].mean((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        """Class logits [B, num_classes].

        Raises:
            ValueError: The net was built without `num_classes`.
        """
        if self.classifier is None:
            raise ValueError("`SmallConvNet(num_classes=None)` has no class logits: give `num_classes`")
        return self.classifier(self.features(images))

    def prepare(self, images: Tensor, labels: Tensor | None) -> bool:
        """Trains the net as a classifier and sets `accuracy`; does nothing for "none" and when trained already.

        Args:
            images: [N,C,H,W] in [-1,1]; a seeded tenth (at most 1000) is held out to measure `accuracy`.
            labels: [N] int64.

        Raises:
            ValueError: No labels, fewer than 10 images, or a label outside [0, num_classes).
        """
        if self.pretrain == "none" or not math.isnan(self.accuracy):
            return False
        if labels is None:
            raise ValueError("`pretrain='classifier'` needs labels: use `pretrain='none'` or a pretrained backbone")
        if len(images) < 10:
            raise ValueError(f"`pretrain='classifier'` holds out a tenth of the images, but there are {len(images)}")
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed)).to(images.device)
        num_held = min(len(images) // 10, 1000)
        held, kept = order[:num_held], order[num_held:]
        accuracy = fit_classifier(
            self,
            images[kept],
            labels[kept],
            validation=(images[held], labels[held]),
            epochs=self.epochs,
            lr=self.lr,
            seed=self.seed,
        )
        self._accuracy.fill_(accuracy)
        return True


def fit_classifier(
    net: SmallConvNet,
    images: Tensor,
    labels: Tensor,
    *,
    validation: tuple[Tensor, Tensor],
    epochs: int = 30,
    lr: float = 5e-3,
    batch_size: int = 128,
    seed: int = 0,
) -> float:
    """Trains `net.logits` by cross entropy and gives its accuracy on `validation`; recipe: default (ours).

    AdamW with a one-cycle rate, targets smoothed by 0.1.

    The same seed gives the same weights; torch's global generator is neither read nor moved, and the flags of the
    parameters and the mode of the net are as before.

    Args:
        net: The net; trained in place on the device where it lies.
        images: [N,C,H,W] in [-1,1].
        labels: [N] int64.
        validation: Held-out images and labels.
        epochs: Passes over the images.
        lr: Peak learning rate.
        batch_size: Images per update.
        seed: Seed of the order of the images.

    Returns:
        Share of `validation` classified rightly, in [0, 1].

    Raises:
        ValueError: A label outside the net's classes.
    """
    num_classes = net.classifier.out_features if net.classifier is not None else 0
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"`num_classes={num_classes}`, but labels run from {int(labels.min())} to {int(labels.max())}")
    device = next(net.parameters()).device
    parameters = list(net.parameters())
    flags, was_training = [p.requires_grad for p in parameters], net.training
    net.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.05)
    steps = epochs * math.ceil(len(images) / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=max(steps, 1), pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.randperm(len(images), generator=generator).split(batch_size):
                rows = rows.to(images.device)
                logits = net.logits(images[rows].to(device))
                loss = F.cross_entropy(logits, labels[rows].to(device), label_smoothing=0.1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    for parameter, flag in zip(parameters, flags, strict=True):
        parameter.requires_grad_(flag).grad = None
    net.train(was_training)
    with torch.no_grad():
        right = [
            net.logits(x.to(device)).argmax(1).cpu() == y.cpu()
            for x, y in zip(validation[0].split(500), validation[1].split(500), strict=True)
        ]
    return float(torch.cat(right).float().mean())
