"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return a question that suggests similar names, or an empty string.

    Example:
        >>> did_you_mean("gRDA", ["sgd", "grda"])
        'did you mean grda? '
    """
    bare = {word.lower().lstrip("-"): word for word in known}
    close = difflib.get_close_matches(name.lower().lstrip("-"), bare, 3, cutoff)
    return f"did you mean {' or '.join(bare[word] for word in close)}? " if close else ""
