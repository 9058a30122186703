"""What the commands share on a terminal: an error in one line, quiet libraries, paths as a shell would read them."""

import logging
import os
import sys
from pathlib import Path


def path(text: str) -> Path:
    """A path; `--out=~/runs` means the home folder, which a shell leaves to us behind an equals sign."""
    return Path(text).expanduser()


def place(text: str) -> str:
    """A file or folder of the user's, or another word such as `digits`, `hub:NAME`; the home folder is written out."""
    return os.path.expanduser(text)


def check_there(source: str | Path) -> None:
    """Refuses a run or pipeline folder that is not there, before anything is imported that takes seconds."""
    if not os.path.exists(source):
        raise ValueError(f"{source} does not exist: give a run of sparring or a diffusers pipeline folder")


def fail(error: Exception) -> int:
    """One line on stderr for a user's mistake; returns the exit code."""
    # a ValueError of a library is a user's mistake only if we say so
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    print(f"sparring: error: {kind}{' '.join(str(error).split())}", file=sys.stderr)
    return 2


class Lines(logging.Handler):
    """Prints what the library says of long work on stderr, whatever stands for that now."""

    def emit(self, record: logging.LogRecord) -> None:
        print(record.getMessage(), file=sys.stderr, flush=True)


def quiet() -> None:
    """Keeps the libraries' progress bars and advice off the terminal; warnings and long work are said in one line."""
    import warnings

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    says = logging.getLogger("sparring")
    if os.environ.get("RANK", "0") == "0" and not says.handlers:
        says.addHandler(Lines())
        says.setLevel(logging.INFO)
        says.propagate = False
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for libraries_logging in (diffusers_logging, transformers_logging):
        libraries_logging.set_verbosity_error()
        libraries_logging.disable_progress_bar()
