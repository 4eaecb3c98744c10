"""The options of a run in groups, generated from the fields of :class:`TrainConfig`."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from docstring_parser import parse as parse_docstring

from dirprune.train.config import TrainConfig

Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
"""Where a command writes."""

GROUPS: dict[str, tuple[str, ...]] = {
    "data": ("data", "augment", "validation"),
    "model": ("model", "width", "start_from"),
    "method": (
        "method", "target_sparsity", "c", "mu", "power", "plan_begin", "plan_end", "sparsity",
        "prune", "momentum", "nesterov", "weight_decay",
    ),
    "schedule": (
        "epochs", "batch_size", "lr", "schedule", "lr_steps", "warmup_epochs", "seed",
        "batch_seed", "refresh_batchnorm",
    ),
    "hardware": (
        "device", "precision", "threads", "workers", "compile", "channels_last", "accumulation",
    ),
    "output": ("keep_checkpoints",),
}  # fmt: skip
"""The fields of every group, in the order of the help; other fields join the last group."""


@dataclass(frozen=True)
class ConfigOptions:
    """The groups of a command's options.

    Attributes:
        start: The config with the defaults.
        groups: A dataclass per group, by the group's name.
    """

    start: TrainConfig
    groups: dict[str, type]

    def config(self, given: dict[str, Any]) -> TrainConfig:
        """Make the config from the options; fields without an option are those of ``start``.

        Args:
            given: An instance of every group, by the group's name.

        Raises:
            ValueError: If a value is out of its range.
        """
        values = {f.name: getattr(self.start, f.name) for f in fields(self.start)}
        for group in given.values():
            values |= vars(group)
        return TrainConfig(**values)


def help_texts(documented: Any) -> dict[str, str]:
    """Return the descriptions of the parameters in a docstring, each as one line.

    Other options are named as on the command line, such as --batch-size.
    """
    found = parse_docstring(documented.__doc__ or "").params
    texts = {p.arg_name: " ".join((p.description or "").split()) for p in found}
    fields_of_run = "|".join(name for name in TrainConfig.__dataclass_fields__ if "_" in name)
    as_option = re.compile(rf"(?<![-\w])({fields_of_run})\b")
    return {
        name: as_option.sub(lambda m: "--" + m[0].replace("_", "-"), text)
        for name, text in texts.items()
    }


def described(kind: Any, default: object, text: str) -> Any:
    """Annotate the type of an option with its help.

    Args:
        kind: The type, which may be annotated already.
        default: Its default; None means that the help text says what happens.
        text: The help; a flag that is on by default is shown as --no-NAME.
    """
    if default is True:
        text = text.removeprefix("Whether ")
        text = f"By default, {text[:1].lower()}{text[1:]}"
    return Annotated[_plain_option(kind, default), tyro.conf.arg(help=text or None)]


def _plain_option(kind: Any, default: object) -> Any:
    """Annotate a type so that the help shows no None, no state of a flag and no long fractions."""
    if isinstance(default, bool):
        return Annotated[kind, tyro.conf.arg(help_behavior_hint="")]
    if default is None:
        return Annotated[kind, tyro.conf.arg(metavar=_metavar(kind), help_behavior_hint="")]
    if isinstance(default, tuple) and default and isinstance(default[0], float):
        values = " ".join(f"{value:.3g}" for value in default)
        return Annotated[kind, tyro.conf.arg(help_behavior_hint=f"(default: {values})")]
    return kind


def _metavar(kind: Any) -> str | None:
    """The placeholder of an optional value, without None; None leaves it to tyro."""
    known = {bool: "{True,False}", int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}
    if kind in known:
        return known[kind]
    inner = [found for arg in get_args(kind) if isinstance(arg, type | GenericAlias | UnionType)
             and (found := _metavar(arg))]  # fmt: skip
    text = inner[0] if inner else None
    return f"[{text} ...]" if text and get_origin(kind) is tuple else text


def plain_options(kind: type) -> type:
    """Return a dataclass with the same fields and :func:`described` for each.

    Args:
        kind: A dataclass in which every field has a default.
    """
    return _options("Options", kind(), [f.name for f in fields(kind)])


def _options(title: str, start: Any, names: Iterable[str]) -> type:
    """A dataclass of some fields of ``start``, with its values as defaults and with help texts."""
    hints = get_type_hints(type(start))
    texts = help_texts(type(start))
    shown = [
        (
            name,
            described(hints[name], getattr(start, name), texts.get(name, "")),
            field(default=getattr(start, name)),
        )
        for name in names
    ]
    return make_dataclass(title, shown, frozen=True)


def given_options(config: TrainConfig) -> str:
    """Return the options that make a config, without those that are the defaults.

    Example:
        >>> given_options(TrainConfig(mu=0.51, augment=False, lr_steps=(0.5, 0.75)))
        '--no-augment --mu 0.51 --lr-steps 0.5 0.75'
    """
    words = []
    defaults = TrainConfig()
    for name in (name for members in GROUPS.values() for name in members):
        value, option = getattr(config, name), name.replace("_", "-")
        if value == getattr(defaults, name):
            continue
        if isinstance(getattr(defaults, name), bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words.append(shlex.join([f"--{option}", *map(str, values)]))
    return " ".join(words)


def config_options(start: TrainConfig, without: tuple[str, ...] = ()) -> ConfigOptions:
    """Divide the fields of a config, without some, into groups of options with its defaults."""
    defined = [f.name for f in fields(TrainConfig)]
    known = {name for names in GROUPS.values() for name in names}
    others = [name for name in defined if name not in known]
    *_, last = GROUPS
    groups = {}
    for title, members in GROUPS.items():
        names = [*members, *(others if title == last else ())]
        shown = [name for name in names if name in defined and name not in without]
        groups[title] = _options(title.capitalize(), start, shown)
    return ConfigOptions(start, groups)
