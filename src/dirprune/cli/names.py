"""Check of the names on the command line, without importing torch."""

import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from dirprune._support.suggestions import did_you_mean
from dirprune.data.names import NAMES
from dirprune.models.names import OWN_NAMES
from dirprune.train.config import TrainConfig
from dirprune.train.names import COMPARABLE, TRAINED


def check_config(config: TrainConfig) -> None:
    """Refuse unknown names of data, model and method.

    Raises:
        ValueError: If a name is unknown; the message suggests similar names.
    """
    check_name("data", config.data.partition(":")[0], NAMES)
    if ":" not in config.model:
        known = (*OWN_NAMES, *_torchvision_names())
        shown = (*OWN_NAMES, "resnet50", "timm:NAME", "module.path:callable")
        check_name("model", config.model, known, shown)
    check_name("method", config.method, TRAINED)


def check_methods(methods: Iterable[str]) -> None:
    """Refuse unknown names of methods to compare."""
    for method in methods:
        check_name("method", method, COMPARABLE)


def check_name(
    kind: str, name: str, known: Sequence[str], shown: Sequence[str] | None = None
) -> None:
    """Refuse an unknown name, with a message that lists ``shown``, by default all known names."""
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"unknown {kind} {name!r}: {hint}use one of {', '.join(shown or known)}")


def _torchvision_names() -> list[str]:
    """The classifiers of torchvision, read from its source, because importing it takes seconds."""
    spec = find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    registered = re.compile(r"@register_model\(.*\)\n(?:@.*\n)*def (\w+)")
    return [
        name
        for folder in folders or ()
        for path in sorted(Path(folder, "models").glob("*.py"))
        for name in registered.findall(path.read_text(encoding="utf-8"))
    ]
