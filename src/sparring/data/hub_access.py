"""Access to the Hugging Face hub that does not wait for a network that is not there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT_SECONDS = 5.0


def hub_answers() -> bool:
    """Whether the hub can be reached, known within seconds; the libraries would try again for a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
    except Exception:  # of the network, of its library, or of the offline mode that a user asked for
        return False
    return True


@contextmanager
def without_waiting(path: str | Path) -> Iterator[bool]:
    """For a block that reads a file or folder, or else a name on the hub.

    Gives whether what is needed can be reached; if not, the block only looks for what was downloaded before.
    """
    if Path(path).exists() or hub_answers():
        yield True
        return
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield False
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
