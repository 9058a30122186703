"""The options that `sample` and `evaluate` share."""

import argparse


def add_sampling(parser: argparse.ArgumentParser, n: int) -> None:
    """Options of the sampler; `n` is the default number of images."""
    parser.add_argument("--n", type=int, default=n, help=f"number of images (default: {n})")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="scale of classifier-free guidance (default: 1, none)"
    )
    parser.add_argument("--batch_size", type=int, help="images at once (default: 256, or fewer of large ones)")
    add_allow(parser)


def add_allow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="MODULE",
        help="trust this package, or this module of the working folder: its classes may be named (repeatable)",
    )


def check_sampling(options: argparse.Namespace, steps: int) -> None:
    """Refuses numbers below 1; `steps` are the fewest that are asked for."""
    for name, value in (("n", options.n), ("steps", steps), ("batch_size", options.batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}={value}` must be at least 1")
