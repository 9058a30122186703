"""One call of a generator for the sake of its shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sparring.generators.generator import Generator
from sparring.networks.modes import eval_mode


@contextmanager
def trial(generator: Generator, net: Any, image_shape: tuple[int, ...]) -> Iterator[None]:
    """In here its network is called without a graph, in eval mode and not counted in `images_seen`.

    Raises:
        ValueError: in one line, whatever was raised in here.
    """
    images_seen = generator.images_seen
    try:
        with torch.no_grad(), eval_mode(net):
            yield
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{type(net).__name__} cannot take images of shape {tuple(image_shape)}: {reason}") from error
    finally:
        generator.images_seen = images_seen
