"""Whether what a sampler is given was trained for it, as far as its run says."""

from collections.abc import Sequence
from pathlib import Path

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
