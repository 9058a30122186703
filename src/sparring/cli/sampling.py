"""The options that `sample` and `evaluate` share."""

import argparse
from typing import Any


def add_sampling(parser: argparse.ArgumentParser, n: int) -> None:
    """Options of the sampler; `n` is the default number of images."""
    parser.add_argument("--n", type=int, default=n, help=f"number of images (default: {n})")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="scale of classifier-free guidance (default: 1, none)"
    )
    parser.add_argument(
        "--guidance_interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="guide only if sigma / alpha lies in (LOW, HIGH] (default: always)",
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


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of a `Sampling`, beside its numbers, seeds, classes and captions; opens other models."""
    interval = options.guidance_interval
    using = []
    if options.rest:
        from sparring.recipes.with_systems import interventions

        using = interventions(options.rest, options.allow)
    return {
        "guidance": options.guidance,
        "guidance_interval": None if interval is None else tuple(interval),
        "using": using,
        "batch_size": options.batch_size,
    }


def shown_settings(options: argparse.Namespace) -> bool:
    """Whether `--with.help` asks what the settings of a system mean, which is printed then."""
    if not any(word == "--with.help" for word in options.rest):
        return False
    from sparring.recipes.explain import text
    from sparring.recipes.with_systems import class_of, groups

    for name, _ in groups(options.rest):
        print(text("with", class_of(name), {}))
    return True


def check_sampling(options: argparse.Namespace, steps: int) -> None:
    """Refuses numbers below 1; `steps` are the fewest that are asked for."""
    from sparring.recipes.with_systems import groups

    groups(options.rest)
    for name, value in (("n", options.n), ("steps", steps), ("batch_size", options.batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}={value}` must be at least 1")
