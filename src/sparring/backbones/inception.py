"""The Inception-v3 network of the original FID."""

from importlib.util import find_spec

import torch
from torch import Tensor

from sparring.backbones.backbone import Backbone, freeze


class Inception(Backbone):
    """Inception-v3 of the original FID (2048 pooled values and 1008 logits), from the torch-fidelity package.

    Images are rounded to 8 bits and resized to 299 as in TensorFlow 1, inside the package, so no gradient passes to
    them. Only in this space is a Frechet distance an FID and a kernel distance a KID. Source: Heusel et al. 2017.

    Args:
        path: File of the converted weights, or None: torch-fidelity downloads them.

    Raises:
        ValueError: The package is not installed.
    """

    labelled = True

    def __init__(self, *, path: str | None = None) -> None:
        super().__init__()
        if find_spec("torch_fidelity") is None:
            raise ValueError(
                "Inception features need the package torch-fidelity, which is not installed: "
                "pip install -e '.[eval]', or use another feature network (their distances are not FIDs)"
            )
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.name, self.resize = "Inception-v3", "bilinear of TensorFlow 1, to 299"
        self.dim, self.num_classes = 2048, 1008
        self.net = freeze(
            FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=path
            )
        )

    def features(self, images: Tensor) -> Tensor:
        return self.features_and_logits(images)[0]

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels, expected 1 (grey) or 3 (RGB)")
        bits = ((images.expand(-1, 3, -1, -1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        features, logits = self.net(bits)
        return features, logits
