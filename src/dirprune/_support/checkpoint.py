"""Checkpoints: one safetensors file each, with a hash that detects changes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dirprune._support.hashing import hash_tensor
from dirprune._support.tensors import utf8_path, write_tensors

_KEY, _FORMAT, _VERSION = "dirprune", "dirprune-checkpoint", 1


class DamagedCheckpoint(ValueError):
    """The file is damaged or is not a checkpoint."""


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: The file; its folder is created if necessary.
        tensors: Any shapes and dtypes.
        meta: Any JSON value; floats are restored exactly.

    Raises:
        OSError: If the disk is full or not writable; the message names the file.

    Example:
        >>> import tempfile, torch
        >>> path = Path(tempfile.mkdtemp()) / "step-1.safetensors"
        >>> save_checkpoint(path, {"w": torch.ones(2)}, {"step": 1})
        >>> load_checkpoint(path)
        ({'w': tensor([1., 1.])}, {'step': 1})
    """
    text = json.dumps(meta)
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "sha256": _digest(tensors, text),
        "meta": text,
    }
    # A single key, because safetensors writes several keys in an undefined order.
    write_tensors(path, tensors, {_KEY: json.dumps(header)})


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: its tensors, on the CPU, and its metadata.

    Raises:
        FileNotFoundError: If the file does not exist.
        DamagedCheckpoint: If the file is truncated, was changed, or is not a checkpoint.
        ValueError: If it has another version of the format.
    """
    advice = "delete it to resume without it"
    try:
        with utf8_path(path) as name, safe_open(name, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedCheckpoint(
            f"{path} is truncated or not a checkpoint ({error}): {advice}"
        ) from error
    try:
        header = json.loads(metadata.get(_KEY, "null"))
    except json.JSONDecodeError:
        header = None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise DamagedCheckpoint(
            f"{path} is a safetensors file but not a checkpoint of dirprune: {advice}"
        )
    if header.get("version") != _VERSION:
        raise ValueError(
            f"{path} has checkpoint version {header.get('version')}, but this dirprune reads "
            f"{_VERSION}: resume with the version of dirprune that wrote it"
        )
    if header.get("sha256") != _digest(tensors, str(header.get("meta"))):
        raise DamagedCheckpoint(f"{path} was changed after it was written: {advice}")
    meta: dict[str, Any] = json.loads(header["meta"])
    return tensors, meta


def pack(value: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Split nested dicts, lists and tuples, such as a state_dict, into JSON and tensors.

    Args:
        value: Its leaves are tensors, numbers, strings, booleans and None; its keys are integers
            and strings.
        name: Prefix of the names of the tensors.

    Returns:
        A JSON value, and the tensors that it refers to by name.

    Raises:
        TypeError: If a leaf is something else.

    Example:
        >>> import torch
        >>> pack({"state": {0: {"n": 3, "v": torch.ones(1)}}}, "optimizer")[1]
        {'optimizer.state.0.v': tensor([1.])}
    """
    if isinstance(value, Tensor):
        return {"tensor": name}, {name: value}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value, {}
    if isinstance(value, dict):
        parts = [pack(item, f"{name}.{key}") for key, item in value.items()]
        packed: Any = {"dict": [[key, p] for key, (p, _) in zip(value, parts, strict=True)]}
    elif isinstance(value, (list, tuple)):
        parts = [pack(item, f"{name}.{i}") for i, item in enumerate(value)]
        packed = {"list" if isinstance(value, list) else "tuple": [p for p, _ in parts]}
    else:
        raise TypeError(
            f"a checkpoint cannot hold {name}, a {type(value).__name__}: use tensors, numbers, "
            "strings, booleans and None"
        )
    return packed, {key: tensor for _, tensors in parts for key, tensor in tensors.items()}


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo :func:`pack`.

    Args:
        packed: Its JSON part.
        tensors: At least its tensors.

    Returns:
        The equal nested value. Tensors that were the same object are separate objects.

    Example:
        >>> unpack(*pack({"betas": (0.9, 0.99), 3: [None]}, "optimizer"))
        {'betas': (0.9, 0.99), 3: [None]}
    """
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content}
    items = [unpack(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of the checkpoint after ``step`` optimizer steps.

    Example:
        >>> checkpoint_path(Path("checkpoints"), 45).name
        'step-00000045.safetensors'
    """
    return folder / f"step-{step:08}.safetensors"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first; none if the folder does not exist."""
    return sorted(folder.glob("step-*.safetensors"), key=lambda path: (len(path.name), path.name))


def remove_old_checkpoints(folder: Path, keep: int, best: int | None = None) -> None:
    """Delete all but the latest checkpoints and the best one.

    Args:
        folder: Folder of the checkpoints.
        keep: Number of latest checkpoints to keep, at least 1.
        best: Step of a checkpoint that is always kept.
    """
    kept = None if best is None else checkpoint_path(folder, best)
    for path in list_checkpoints(folder)[:-keep]:
        if path != kept:
            path.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} ".encode())
        hash_tensor(digest, tensors[name])
    return digest.hexdigest()
