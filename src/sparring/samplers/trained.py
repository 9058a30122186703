"""Whether what a sampler is given was trained for it, and for the model that is sampled, as far as its run says."""

from collections.abc import Sequence
from pathlib import Path

from sparring.generators import DenoisingNetwork
from sparring.generators.lineage import fingerprint, lineage
from sparring.runs import RunFolder, is_run

METHODS = "sparring.methods."


def check_trained_by(source: object, name: str, methods: Sequence[str]) -> None:
    """Refuses the run of another method of the library; what is no run, or of a method from elsewhere, is taken.

    Args:
        source: run or pipeline folder, or what was opened already.
        name: of the setting that gives it.
        methods: names of `sparring fit` that train such a thing; none: any.

    Raises:
        ValueError: it was trained by something else.
    """
    if not methods or not isinstance(source, str | Path) or not is_run(Path(source)):
        return
    method = RunFolder(Path(source)).read_config().get("method") or {}
    module, _, kind = str(method.get("class_path", "")).rpartition(".")
    if kind and module.startswith(METHODS) and module.rpartition(".")[2] not in methods:
        wanted = " or ".join(f"`fit {method}`" for method in methods)
        raise ValueError(f"`{name}={source}` was trained by {kind}, and a run of {wanted} is needed here")


def check_trained_beside(source: object, name: str, denoiser: DenoisingNetwork, tuned: bool = True) -> None:
    """Refuses a run that was trained beside another denoiser; what is no run, or does not say beside which, is taken.

    Args:
        source: run or pipeline folder, or what was opened already.
        name: of the setting that gives it.
        denoiser: what is sampled.
        tuned: the one that it was trained beside may have been trained on since.

    Raises:
        ValueError: it was trained beside another one.
    """
    if not isinstance(source, str | Path) or not is_run(Path(source)):
        return
    beside = (RunFolder(Path(source)).read_config().get("made_with") or {}).get("beside")
    if beside is not None and beside not in (lineage(denoiser) if tuned else [fingerprint(denoiser)]):
        other = "is not that, nor tuned from it" if tuned else "has other weights, if only by more training"
        raise ValueError(
            f"`{name}={source}` was trained beside another denoiser, and the sampled one {other}: train it with --init "
            "and the run that is sampled"
        )
