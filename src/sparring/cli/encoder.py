"""Train a small image encoder, to use in a discriminator or as evaluation features.

examples:
  sparring encoder digits --out encoder.safetensors
  sparring encoder train.parquet --size 16 --kind classifier --out classes.safetensors
  sparring evaluate runs/base --features encoder.safetensors
"""

import argparse

from sparring.cli.sampling import add_reading
from sparring.cli.terminal import path, place, quiet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", type=place, metavar="DATA", help="images: digits, a folder, a parquet file, hub:OWNER/NAME"
    )
    parser.add_argument("--out", type=path, required=True, help="the new file (.safetensors)")
    parser.add_argument(
        "--kind",
        choices=["self-supervised", "classifier"],
        default="self-supervised",
        help="without or with labels (default: without)",
    )
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[32, 64, 64], help="channels of its stages (default: 32 64 64)"
    )
    parser.add_argument("--epochs", type=int, help="passes over the images (default: by their number)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and views (default: 0)")
    for name in ("size", "pad", "limit"):
        parser.add_argument(f"--{name}", type=int, help=f"`{name}` of the images")
    add_reading(parser)


def run(options: argparse.Namespace) -> int:
    if min(options.widths) < 1 or (options.epochs is not None and options.epochs < 1):
        raise ValueError(f"`widths={options.widths}` and `epochs={options.epochs}` must be at least 1")
    quiet()
    from sparring.data import from_spec
    from sparring.training.encoder import train_encoder

    names = ("size", "pad", "limit", "on_error", "follow_links")
    data = from_spec(options.data, **{name: getattr(options, name) for name in names})
    trained = train_encoder(
        data, options.out, kind=options.kind, widths=tuple(options.widths), epochs=options.epochs, seed=options.seed
    )
    print(f"{trained.path}: {options.kind}, {trained.images} images, {trained.seconds:.0f} s")
    what = "accuracy" if options.kind == "classifier" else "two-view retrieval accuracy"
    print(f"held-out {what}: {trained.accuracy:.1%}")
    if trained.neighbours is not None:
        untrained = f"untrained: {trained.neighbours_untrained:.1%}"
        print(f"labels from 5 nearest neighbours: {trained.neighbours:.1%} ({untrained})")
    return 0
