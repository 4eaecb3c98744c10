"""Suggestions for misspelt names."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that suggests similar names, or an empty string.

    Example:
        >>> did_you_mean("gRDA", ["sgd", "grda"])
        'did you mean grda? '
    """
    bare = {word.lower().lstrip("-"): word for word in known}
    close = difflib.get_close_matches(name.lower().lstrip("-"), bare)
    return f"did you mean {' or '.join(bare[word] for word in close)}? " if close else ""
