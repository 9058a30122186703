"""Known damage to real images, and what each number says about it: a Markdown table per data set and feature network.

python docs/experiments/metric_ladder.py --data digits
python docs/experiments/metric_ladder.py --data fashion_mnist-train-10k.parquet --holdout fashion_mnist-test.parquet
"""

import argparse
import io
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sparring.backbones import Backbone, Pixels
from sparring.metrics import Reference, learned_features

COLUMNS = [
    ("Frechet", "frechet", "{:.3g}"),
    ("interval", "frechet_interval", "{0[0]:.3g} to {0[1]:.3g}"),
    ("kernel", "kernel", "{:.3g}"),
    ("interval", "kernel_interval", "{0[0]:.2g} to {0[1]:.2g}"),
    ("precision", "precision", "{:.2f}"),
    ("recall", "recall", "{:.2f}"),
    ("density", "density", "{:.2f}"),
    ("coverage", "coverage", "{:.2f}"),
    ("class coverage", "class_coverage", "{:.1f}"),
    ("score", "inception_score", "{:.2f}"),
    ("memorisation", "memorisation", "{:.2f}"),
    ("train share", "train_share", "{:.2f}"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, or a parquet file of training images with labels")
    parser.add_argument("--holdout", type=Path, help="parquet file of images that nothing is trained on")
    parser.add_argument("--n", type=int, help="images per row of the table")
    parser.add_argument("--epochs", type=int, default=20, help="of the classifier")
    args = parser.parse_args()
    if args.data == "digits":
        images, labels = _digits()
        train, reference, pool = (slice(0, 750), slice(750, 1250), slice(1250, None))
        splits = [(images[rows], labels[rows]) for rows in (train, reference, pool)]
    else:
        held, held_labels = _parquet(args.holdout)
        half = len(held) // 2
        splits = [_parquet(Path(args.data)), (held[:half], held_labels[:half]), (held[half:], held_labels[half:])]
    (train, train_labels), (reference, reference_labels), (pool, pool_labels) = splits

    kept = pool[pool_labels >= 3]
    n = args.n or len(kept)
    arms = ladder(pool[:n], kept[:n], train[:n])
    classifier = learned_features(train, train_labels, holdout=(reference, reference_labels), epochs=args.epochs)
    spaces: list[Backbone] = [Pixels(pool=4), classifier]
    for features in spaces:
        measured = Reference(reference, features, train=train)
        results = {arm: measured.evaluate(fakes).to_json() for arm, fakes in arms.items()}
        floor = results["held-out real"]["floor"]
        expected = results["held-out real"]["train_share_expected"]
        note = f"; its accuracy on the reference {classifier.accuracy:.1%}" if features is classifier else ""
        print(
            f"\n{Path(args.data).name}: n = {n}, reference {len(reference)}, training {len(train)} images, "
            f"features: {features.name}{note}; train share of a fresh sample {expected:.2f}\n"
        )
        columns = [column for column in COLUMNS if column[1] in results["held-out real"]]
        print("| | " + " | ".join(title for title, _, _ in columns) + " |")
        print("|---|" + "--:|" * len(columns))
        for arm, result in {**results, f"*floor: {floor['source']}, n = {floor['n']}*": floor}.items():
            cells = [form.format(result[key]) if key in result else "" for _, key, form in columns]
            print(f"| {arm} | " + " | ".join(cells) + " |")


def ladder(real: Tensor, without_classes: Tensor, train: Tensor) -> dict[str, Tensor]:
    """The same number of images [n, C, H, W] in every arm."""
    n = len(real)
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(1))
    return {
        "held-out real": real,
        "light blur": blur(real, 0.3),
        "heavy blur": blur(blur(real, 0.8), 0.8),
        "pixel noise, sd 0.4": (real + 0.4 * noise).clamp(-1, 1),
        "three classes dropped": without_classes,
        "each image ten times": real[: (n + 9) // 10].repeat(10, 1, 1, 1)[:n],
        "copies of training images": train,
    }


def blur(images: Tensor, weight: float) -> Tensor:
    """Mixes `weight` of the eight neighbours into every pixel; edges are repeated."""
    kernel = torch.full((1, 1, 3, 3), weight / 8)
    kernel[0, 0, 1, 1] = 1 - weight
    channels = images.shape[1]
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel.repeat(channels, 1, 1, 1), groups=channels)


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.images).float()[:, None] / 8 - 1
    return images[order], torch.tensor(digits.target).long()[order]


def _parquet(path: Path) -> tuple[Tensor, Tensor]:
    """All images and labels of a parquet file, in a fixed random order."""
    import numpy as np
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(path).to_pydict()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["image"]])
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images = torch.from_numpy(pixels).float().unsqueeze(1) / 127.5 - 1
    return images[order], torch.tensor(table["label"]).long()[order]


if __name__ == "__main__":
    main()
