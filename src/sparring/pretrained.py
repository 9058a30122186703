"""The denoiser that a recipe tunes: read from a run or a diffusers pipeline folder."""

from sparring.denoiser import Denoiser
from sparring.pipeline import load_pipeline


class Pretrained(Denoiser):
    """The denoiser of a run or of a diffusers pipeline folder.

    Args:
        path: run of sparring, or pipeline folder.
    """

    def __init__(self, path: str):
        loaded = load_pipeline(path)[0]
        super().__init__(loaded.net, loaded.process, loaded.prediction)
