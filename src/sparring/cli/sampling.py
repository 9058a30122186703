"""The options that `sample` and `evaluate` share."""

import argparse

from sparring.cli.terminal import place


def add_sampling(parser: argparse.ArgumentParser, n: int) -> None:
    """Options of the sampler; `n` is the default number of images."""
    parser.add_argument("--n", type=int, default=n, help=f"number of images (default: {n})")
    parser.add_argument("--steps", type=int, default=10, help="sampler steps (default: 10)")
    parser.add_argument("--scheduler", help="ddim, dpm, unipc, euler, heun, ddpm, lcm (default: the pipeline's own)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents (default: 0)")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="scale of classifier-free guidance (default: 1, none)"
    )
    parser.add_argument("--batch_size", type=int, help="images at once (default: 256, or fewer of large ones)")


def add_source(parser: argparse.ArgumentParser, metavar: str) -> None:
    parser.add_argument("source", type=place, metavar=metavar, help="what to sample")


def check_sampling(options: argparse.Namespace) -> None:
    """Refuses numbers below 1."""
    for name in ("n", "steps", "batch_size"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"`{name}={value}` must be at least 1")
