"""A small network that was trained once and is kept in a file: for discriminators, and as features to measure in."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparring.backbones.convnet import SmallConvNet
from sparring.networks.loading import put_weights
from sparring.runs.checkpoint import let_read

METADATA = "sparring encoder"


class FileEncoder(SmallConvNet):
    """The `SmallConvNet` of a file that `sparring encoder` wrote; it is not trained again by `prepare`.

    Args:
        path: The file (`.safetensors`).

    Attributes:
        mean: [d] mean of the features over the images that it was trained on.
        std: [d] their standard deviation.

    Raises:
        ValueError: No such file, or one of another kind.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, path: str) -> None:
        state, settings = _read(path)
        super().__init__(**settings)
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("std", torch.ones(self.dim))
        put_weights(self, state, f"`path={path}`")


def save_encoder(net: SmallConvNet, path: str | Path, images: Tensor, **description: Any) -> None:
    """Writes a trained net, with the mean and deviation of its features over `images`, as a file of `FileEncoder`.

    Args:
        net: The net.
        path: The file, written over if it is there.
        images: [N,C,H,W] in [-1,1], the training images.
        description: What else the header says, as JSON: the data and how the net was trained.
    """
    training = net.training
    net.eval()
    with torch.no_grad():
        device = next(net.parameters()).device
        features = torch.cat([net.features(batch.to(device)) for batch in images.split(500)])
    net.train(training)
    state = net.state_dict() | {"mean": features.mean(0), "std": features.std(0)}
    header = {"settings": net.settings, **description}
    draft = Path(path).with_name(Path(path).name + ".draft")
    save_file({k: v.cpu().contiguous() for k, v in state.items()}, draft, {METADATA: json.dumps(header)})
    let_read(draft)
    draft.replace(path)


def _read(path: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an encoder's file, and the settings of its network."""
    if not Path(path).is_file():
        raise ValueError(f"`path={path}` is not a file: make one with `sparring encoder DATA --out {path}`")
    try:
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = (file.metadata() or {}).get(METADATA)
    except SafetensorError:
        header = None
    if header is None:
        raise ValueError(f"`path={path}` is no encoder of `sparring encoder`")
    return state, json.loads(header)["settings"]
