"""From words to a call that has all its arguments; and what is wrong with them, in one line."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial, wraps

import tyro

from dirprune.cli.commands import COMMANDS, DEMO
from dirprune.train.config import TrainConfig
from dirprune.train.recipes import RECIPES, get_recipe


def parse(arguments: list[str]) -> Callable[[], None]:
    """Turn words into a call that has all its arguments."""
    arguments, start = _take_recipe(arguments)
    parsed: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
        {name: _later(command, start) for name, command in COMMANDS.items()},
        prog="dirprune",
        description="Train sparse with gRDA. --recipe NAME, with train, compare or tune, makes a "
        f"recipe's values the defaults: {', '.join(RECIPES)}. --version says which this is.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    return parsed


def _take_recipe(arguments: list[str]) -> tuple[list[str], TrainConfig]:
    """Take --recipe NAME out of the words; what it names replaces the defaults."""
    # --recipe=NAME is --recipe NAME
    arguments = [word for given in arguments for word in re.split("(?<=^--recipe)=", given)]
    if "--recipe" not in arguments:
        # the usual values of the paper's extensions, for the methods that use momentum
        usual = replace(DEMO, momentum=0.9, weight_decay=5e-4)
        return arguments, usual if arguments[:1] == ["compare"] else DEMO
    at = arguments.index("--recipe")
    if at + 1 == len(arguments):
        raise ValueError(f"--recipe needs a name: {', '.join(RECIPES)}")
    return arguments[:at] + arguments[at + 2 :], get_recipe(arguments[at + 1])


def _later(command: Callable[..., None], start: TrainConfig) -> Callable[..., Callable[[], None]]:
    """Make a function that takes the same arguments and returns the call instead of making it."""

    @wraps(command)
    def postponed(*args: object, **kwargs: object) -> Callable[[], None]:
        return partial(command, *args, **kwargs)

    signature = inspect.signature(command)
    parameters = [
        p.replace(default=start) if p.name == "config" else p
        for p in signature.parameters.values()
    ]
    parameters.sort(key=lambda p: p.default is not p.empty)
    postponed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return postponed


def unboxed(complaint: str, words: list[str]) -> str:
    """Return what the parser says without its frame, its headings and its help texts."""
    lines = [line.strip("╭╮╰╯│+| ") for line in complaint.splitlines()[1:]]
    told, *others = re.split(r"\n[─-]+\n", "\n".join(lines))
    text = re.sub(r"Error parsing __tyro-dummy-inner__\S*: ", "", told.strip().rstrip("."))
    for other in others:
        if other.startswith("Perhaps you meant"):
            options = dict.fromkeys(re.findall(r"^--[\w-]+", other, re.MULTILINE))
            text += f"; perhaps you meant {' or '.join(options)}"
        elif other.startswith("Available"):
            text += f"; {other}"
    if required := re.match(r"Missing from .*\n(.*)", text):
        text = f"{required[1]} is missing"
    command = f"{words[0]} " if words and words[0] in COMMANDS else ""
    return f"{text}; see dirprune {command}--help"
