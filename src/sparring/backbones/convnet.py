"""A small convolutional network that learns its features from the data itself."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.backbones.backbone import Backbone, group_norm
from sparring.backbones.fitting import fit_classifier, fit_self_supervised


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


Pretrain = Literal["classifier", "self-supervised", "none"]


class SmallConvNet(Backbone):
    """A small convolutional network, trained on the data itself, with or without labels; default (ours).

    One 3x3 convolution, GroupNorm and activation per stage. Later stages halve the image as long as it stays at
    least 2x2 (8 px, three stages: 8, 4, 2; 32 px: 16, 8, 4), so one net takes any image size. `features` is the mean
    of the last map. Two nets that differ in widths, kernel, activation or seed can serve in a
    discriminator and in the evaluation.

    Args:
        in_channels: Channels of the images.
        widths: Channels of each stage.
        num_classes: Number of classes of the data; needed for `pretrain="classifier"`.
        pretrain: "classifier": `prepare` trains the net on labels, in seconds. "self-supervised": only on the images,
            in a minute (`fit_self_supervised`). "none": random features, the control.
        kernel_size: Odd size of the convolution kernels.
        activation: "silu" or "leaky_relu" (slope 0.2).
        epochs: Passes over the data in `prepare`; None: 30 with labels, without them 250 for a thousand images, fewer
            for more (by the square root).
        lr: Peak learning rate in `prepare`; None: 5e-3 with labels, 3e-3 without.
        seed: Seed of the initial weights and of all draws; torch's global generator is left alone.

    Raises:
        ValueError: A classifier without `num_classes`, an even kernel, no stage; images of other channels.
    """

    _accuracy: Tensor

    def __init__(
        self,
        *,
        in_channels: int,
        widths: Sequence[int] = (32, 64, 64),
        num_classes: int | None = None,
        pretrain: Pretrain = "classifier",
        kernel_size: int = 3,
        activation: Literal["silu", "leaky_relu"] = "silu",
        epochs: int | None = None,
        lr: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if pretrain == "classifier" and num_classes is None:
            raise ValueError(
                "`num_classes=None` with `pretrain='classifier'`: give the number, or use `pretrain='none'`"
            )
        if kernel_size % 2 == 0 or min(widths, default=0) < 1:
            raise ValueError(
                f"`kernel_size={kernel_size}`, `widths={widths}`: use an odd kernel and stages of width 1 or more"
            )
        self.settings: dict[str, Any] = {"in_channels": in_channels, "widths": list(widths), "num_classes": num_classes}
        self.settings |= {"pretrain": pretrain, "kernel_size": kernel_size, "activation": activation, "seed": seed}
        self.pretrain, self.epochs, self.lr, self.seed = pretrain, epochs, lr, seed
        self.channels, self.dim, self.num_classes = list(widths), widths[-1], num_classes
        self.needs_images, self.labelled = pretrain != "none", pretrain == "classifier"
        kind = {"classifier": "", "self-supervised": "-self-supervised", "none": "-random"}[pretrain]
        self.name = "convnet-" + "-".join(str(w) for w in widths) + kind
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
        """What `prepare` saw on held-out images; NaN before. Saved with the weights.

        "classifier": the share that is classified correctly. "self-supervised": the share of views whose nearest one
        among all others is of the same image.
        """
        return math.nan if self._accuracy < 0 else float(self._accuracy)

    def maps(self, images: Tensor) -> list[Tensor]:
        if images.shape[1] != self.settings["in_channels"]:
            raise ValueError(
                f"`in_channels={self.settings['in_channels']}` of SmallConvNet, but the images have {images.shape[1]}"
            )
        halvings = min(len(self.stages), int(math.log2(max(min(images.shape[-2:]) / 2, 1))))
        maps, x = [], images
        for i, stage in enumerate(self.stages):
            x = stage(x, stride=2 if i >= len(self.stages) - halvings else 1)
            maps.append(x)
        return maps

    def features(self, images: Tensor) -> Tensor:
        return self.maps(images)[-1].mean((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        """Class logits [B, num_classes].

        Raises:
            ValueError: The net was built without `num_classes`.
        """
        if self.classifier is None:
            raise ValueError("`SmallConvNet(num_classes=None)` has no class logits: give `num_classes`")
        return self.classifier(self.features(images))

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.features(images)
        if self.pretrain != "classifier" or self.classifier is None:
            return features, None
        return features, self.classifier(features)

    def prepare(self, images: Tensor, labels: Tensor | None, seed: int = 0) -> bool:
        """Trains the net and sets `accuracy`; does nothing for "none" and when trained already.

        Args:
            images: [N,C,H,W] in [-1,1]; a seeded tenth (at most 1000) is held out to measure `accuracy`.
            labels: [N] int64; only "classifier" reads them.
            seed: Of the run, added to the net's own: another one gives another start and other draws.

        Raises:
            ValueError: No labels if they are needed, fewer than 10 (without labels 20) images, or a label outside
                [0, num_classes).
        """
        if self.pretrain == "none" or not math.isnan(self.accuracy):
            return False
        if self.pretrain == "classifier" and labels is None:
            raise ValueError(
                "`pretrain='classifier'` needs labels: use 'self-supervised', 'none' or a pretrained backbone"
            )
        fewest = 10 if self.pretrain == "classifier" else 20
        if len(images) < fewest:
            raise ValueError(
                f"`pretrain='{self.pretrain}'` needs {fewest} images or more, a tenth of which is held out, and got "
                f"{len(images)}"
            )
        if seed != 0:
            other = SmallConvNet(**self.settings | {"seed": self.seed + seed})
            self.load_state_dict(other.state_dict())
        seed += self.seed
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).to(images.device)
        num_held = min(len(images) // 10, 1000)
        held, kept = order[:num_held], order[num_held:]
        if self.pretrain == "classifier":
            assert labels is not None
            accuracy = fit_classifier(
                self,
                images[kept],
                labels[kept],
                validation=(images[held], labels[held]),
                epochs=30 if self.epochs is None else self.epochs,
                lr=self.lr or 5e-3,
                seed=seed,
            )
        else:
            epochs = math.ceil(250 * min(1.0, math.sqrt(1000 / len(images))))
            accuracy = fit_self_supervised(
                self,
                images[kept],
                validation=images[held],
                epochs=epochs if self.epochs is None else self.epochs,
                lr=self.lr or 3e-3,
                seed=seed,
            )
        self._accuracy.fill_(accuracy)
        return True
