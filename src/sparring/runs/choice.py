"""Settings that take one of a few words, also when a class is used from Python, where no parser checks them."""


def check_choice(*known: str | bool, **settings: str | bool) -> None:
    """Raises ValueError for a setting that is none of the known words.

    Args:
        known: the words, at least two.
        settings: what was given, by name.
    """
    for name, value in settings.items():
        if value not in known:
            words = [str(word) for word in known]
            raise ValueError(f"`{name}={value}` must be {', '.join(words[:-1])} or {words[-1]}")
