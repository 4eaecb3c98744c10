"""JSON objects as dataclasses, with one line on the first value that does not fit."""

from typing import TypeVar

import msgspec

T = TypeVar("T")


def build(kind: type[T], record: object, where: str) -> T:
    """Convert a JSON object to a dataclass, and the objects in it to the dataclasses in it.

    Args:
        kind: A dataclass; fields with a default may be missing.
        record: As ``json`` loads it; keys without a field are ignored.
        where: The file that an error names.

    Returns:
        An instance with every value of its annotated type.

    Raises:
        ValueError: If a field is missing or of another type.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     height: int
        >>> build(Size, {"height": "tall"}, "size.json")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: size.json: Expected `int`, got `str` - at `$.height`: the file is...
    """
    try:
        return msgspec.convert(record, kind)
    except msgspec.ValidationError as error:
        raise ValueError(
            f"{where}: {error}: the file is damaged or of another version of dirprune; restore it"
        ) from None
