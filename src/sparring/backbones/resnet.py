"""The CIFAR-10 residual network, from a file of weights."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sparring.backbones.backbone import Backbone, imagenet_input
from sparring.networks.loading import put_weights


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
        ValueError: No such file, or other things in it.
    """

    image_size = 32
    labelled = True

    def __init__(self, *, path: str) -> None:
        super().__init__()
        if not Path(path).is_file():
            raise ValueError(f"`path={path}` is not a file: give the weights of a CIFAR-10 ResNet (`.th`)")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
            raise ValueError(f"`path={path}` holds no weights of a CIFAR-10 ResNet ({type(error).__name__})") from None
        state = {key.removeprefix("module."): value for key, value in state.items()}
        num_blocks = sum(key.startswith("layer1.") and key.endswith(".conv1.weight") for key in state)
        self.channels, self.dim, self.num_classes = [16, 32, 64], 64, 10
        self.name, self.resize = f"cifar-resnet{6 * num_blocks + 2}", "bilinear, antialiased, to 32"
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1, num_blocks)
        self.layer2 = self._layer(16, 32, 2, num_blocks)
        self.layer3 = self._layer(32, 64, 2, num_blocks)
        self.linear = nn.Linear(64, 10).requires_grad_(False)  # no player's loss reaches it
        put_weights(self, state, f"`path={path}`")
        self.eval()

    @staticmethod
    def _layer(c_in: int, c_out: int, stride: int, num_blocks: int) -> nn.Sequential:
        blocks = [_ResidualBlock(c_in, c_out, stride)]
        blocks += [_ResidualBlock(c_out, c_out, 1) for _ in range(num_blocks - 1)]
        return nn.Sequential(*blocks)

    def train(self, mode: bool = True) -> "CifarResNet":
        """Stays in eval mode: batch statistics would couple the images of a batch."""
        return super().train(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(imagenet_input(images, self.image_size))))
        first = self.layer1(x)
        second = self.layer2(first)
        return [first, second, self.layer3(second)]

    def features(self, images: Tensor) -> Tensor:
        return self.maps(images)[-1].mean((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        """Logits [B,10] of the CIFAR-10 classes."""
        return self.linear(self.features(images))
