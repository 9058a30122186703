"""Backbones: networks that turn images into feature maps and feature vectors, for judges and for metrics."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """The same module with requires_grad False everywhere and in eval mode; gradient still passes to its inputs."""
    return module.requires_grad_(False).eval()


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with at most 8 groups of at least 4 channels, so that it also works on 1x1 maps."""
    groups = max(g for g in range(1, 9) if channels % g == 0 and (g == 1 or channels // g >= 4))
    return nn.GroupNorm(groups, channels)


class Backbone(nn.Module, ABC):
    """Images [B,C,H,W] in [-1,1] to a list of feature maps, and to one vector per image.

    Rows do not influence each other (no batch statistics), and gradient passes to the images.

    Attributes:
        channels: D_l of each map.
        dim: d of `features`.
        name: Short name for tables ("Frechet distance in NAME features").
    """

    channels: list[int]
    dim: int
    name: str

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps [B,D_l,g_l,g_l], shallow to deep."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """One vector per image, [B,d]."""

    def prepare(self, images: Tensor, labels: Tensor | None) -> bool:
        """Trains the backbone on the training data where it needs that; call it once, before training starts.

        Returns:
            Whether the weights changed. Pretrained backbones need nothing and return False.
        """
        return False


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


def _imagenet_input(images: Tensor, size: int) -> Tensor:
    """Grey or RGB images in [-1,1] as RGB [B,3,size,size], ImageNet mean and deviation removed; differentiable."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f"images have {images.shape[1]} channels: a pretrained backbone takes 1 (grey) or 3 (RGB)")
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
    mean, std = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1), images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return ((images.expand(-1, 3, -1, -1) + 1) / 2 - mean) / std


class _ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.stride, self.pad = stride, (c_out - c_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class CifarResNet(Backbone):
    """The three-stage residual network for 32x32 colour images, with CIFAR-10 classifier weights from a file.

    Maps are the outputs of the three stages (16, 32, 64 channels at 32, 16, 8 px), features the 64 pooled values.
    BatchNorm always uses its stored statistics. Images of other sizes are resized to 32 px.
    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2.

    Args:
        path: File of weights (`.th`) with a `state_dict`; the depth (20, 56, ...) is read from it.

    Raises:
        ValueError: No such file.
    """

    def __init__(self, *, path: str) -> None:
        super().__init__()
        if not Path(path).is_file():
            raise ValueError(f"`path={path}` is not a file: give the weights of a CIFAR-10 ResNet (`.th`)")
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        state = {key.removeprefix("module."): value for key, value in state.items()}
        num_blocks = sum(key.startswith("layer1.") and key.endswith(".conv1.weight") for key in state)
        self.channels, self.dim, self.name = [16, 32, 64], 64, f"cifar-resnet{6 * num_blocks + 2}"
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1, num_blocks)
        self.layer2 = self._layer(16, 32, 2, num_blocks)
        self.layer3 = self._layer(32, 64, 2, num_blocks)
        self.linear = nn.Linear(64, 10).requires_grad_(False)  # no player's loss reaches it
        self.load_state_dict(state)
        self.eval()

    @staticmethod
    def _layer(c_in: int, c_out: int, stride: int, num_blocks: int) -> nn.Sequential:
        blocks = [_ResidualBlock(c_in, c_out, stride)]
        blocks += [_ResidualBlock(c_out, c_out, 1) for _ in range(num_blocks - 1)]
        return nn.Sequential(*blocks)

    def train(self, mode: bool = True) -> "CifarResNet":
        """Stays in eval mode: batch statistics would couple the images of a batch."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(_imagenet_input(images, 32))))
        first = self.layer1(x)
        second = self.layer2(first)
        return [first, second, self.layer3(second)]

    def features(self, images: Tensor) -> Tensor:
        return self.forward(images)[-1].mean((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B,10] of the CIFAR-10 classes."""
        return self.linear(self.features(images))


class DINOv2(Backbone):
    """DINOv2 vision transformer: maps are the patch tokens after chosen blocks, features the normalised class token.

    Images (grey or RGB) are resized (bilinear, antialiased) and normalised with gradient. Fused attention has no
    second derivative: penalise gradients at the feature maps (R1 on the heads' inputs), not at the images.
    Source: Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision".

    Args:
        path: Folder or Hugging Face name of a `Dinov2Model`, for example "facebook/dinov2-small".
        blocks: Transformer blocks, from 0, whose outputs are the maps; None: four evenly spaced (2, 5, 8, 11 of 12).
        image_size: Side in pixels the images are resized to; a multiple of the patch size.

    Raises:
        ValueError: No such model, `image_size` no multiple of the patch size, or a block that the model does not have.
    """

    def __init__(self, *, path: str, blocks: Sequence[int] | None = None, image_size: int = 224) -> None:
        super().__init__()
        from transformers import Dinov2Model  # seconds to import, so only where it is used

        try:
            loaded: Any = Dinov2Model.from_pretrained(path, dtype=torch.float32, output_loading_info=True)
        except OSError as error:
            raise ValueError(f"`path={path}` is no DINOv2 model: {str(error).splitlines()[0]}") from error
        self.model, info = loaded
        if info["missing_keys"]:
            raise ValueError(f"`path={path}` is no DINOv2 model: it lacks {len(info['missing_keys'])} of its weights")
        config: Any = self.model.config
        depth, patch = config.num_hidden_layers, config.patch_size
        if blocks is None:
            blocks = sorted({math.ceil((k + 1) * depth / 4) - 1 for k in range(4)})
        if image_size % patch:
            raise ValueError(f"`image_size={image_size}` is no multiple of the patch size {patch} of {path}")
        if not blocks or min(blocks) < 0 or max(blocks) >= depth:
            raise ValueError(f"`blocks={list(blocks)}`, but {path} has the blocks 0 to {depth - 1}")
        if self.model.embeddings.mask_token is not None:
            self.model.embeddings.mask_token.requires_grad_(False)  # no patch is masked, so no loss reaches it
        self.blocks, self.image_size, self.grid = list(blocks), image_size, image_size // patch
        self.channels, self.dim = [config.hidden_size] * len(self.blocks), config.hidden_size
        self.name = Path(path).name

    def forward(self, images: Tensor) -> list[Tensor]:
        states = self.model(_imagenet_input(images, self.image_size), output_hidden_states=True).hidden_states
        tokens = [states[block + 1][:, 1:] for block in self.blocks]  # states[0] is the patch embedding
        return [t.transpose(1, 2).unflatten(2, (self.grid, self.grid)) for t in tokens]

    def features(self, images: Tensor) -> Tensor:
        return self.model(_imagenet_input(images, self.image_size)).last_hidden_state[:, 0]
