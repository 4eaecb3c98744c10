"""JSON objects as dataclasses, with one line on the first value that does not fit."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def build(kind: type[T], record: object, where: str) -> T:
    """A dataclass, and the dataclasses in it, from a JSON object.

    Args:
        kind: With fields of float, int, str, mapping, dataclass, tuple or None; those with a
            default may be missing.
        record: As ``json`` loads it; keys without a field are left alone.
        where: The place that an error names.

    Returns:
        An instance with every value of its annotated type.

    Raises:
        ValueError: If a field is missing or of another type.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Size:
        ...     height: int
        >>> build(Size, {"height": "tall"}, "size.json")
        Traceback (most recent call last):
        ValueError: size.json, 'height' must be int, found 'tall'
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be a JSON object, found {type(record).__name__}")
    values = {}
    defaults = _defaults(kind)
    for name, hint in _hints(kind).items():
        if name not in record:
            if defaults[name] is not MISSING:
                continue
            raise ValueError(f"{where} lacks {name!r}: it is not of this version of dirprune")
        values[name] = _convert(hint, record[name], f"{where}, {name!r}")
    return kind(**values)


def _defaults(kind: type) -> dict[str, Any]:
    return {
        field.name: field.default if field.default is not MISSING else field.default_factory
        for field in fields(kind)
    }


def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _convert(hint: Any, value: object, where: str) -> Any:
    """``value`` as the annotated type, or one line on what it should have been."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(arg for arg in get_args(hint) if arg is not types.NoneType)
        return None if value is None else _convert(inner, value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(get_args(hint)[0], item, where) for item in value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if get_origin(hint) is Mapping and isinstance(value, dict):
        kind = get_args(hint)[1]
        if kind is Any:
            return value
        return {key: _convert(kind, item, f"{where}, {key!r}") for key, item in value.items()}
    if hint is str and isinstance(value, str):
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, found {value!r:.60}")
