"""The options of a run in groups, generated from the fields of :class:`TrainConfig`."""

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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


def config_options(start: TrainConfig, without: tuple[str, ...] = ()) -> ConfigOptions:
    """Divide the fields of a config into groups of options.

    Args:
        start: The config with the defaults.
        without: Fields that are not options of this command.
    """
    hints = get_type_hints(TrainConfig)
    help_texts = {
        p.arg_name: " ".join((p.description or "").split())
        for p in parse_docstring(TrainConfig.__doc__ or "").params
    }
    known = {name for names in GROUPS.values() for name in names}
    others = tuple(f.name for f in fields(TrainConfig) if f.name not in known)
    *_, last = GROUPS
    groups = {}
    for title, members in GROUPS.items():
        shown = [
            (
                name,
                Annotated[hints[name], tyro.conf.arg(help=help_texts.get(name))],
                field(default=getattr(start, name)),
            )
            for name in (*members, *(others if title == last else ()))
            if name in hints and name not in without
        ]
        groups[title] = make_dataclass(title.capitalize(), shown, frozen=True)
    return ConfigOptions(start, groups)
