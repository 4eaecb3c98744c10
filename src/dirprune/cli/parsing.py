"""Parsing a command line to a function call, with errors in one line."""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial, wraps
from typing import Any, NoReturn

import tyro

from dirprune.cli import names
from dirprune.cli.commands import COMMANDS
from dirprune.cli.options import config_options
from dirprune.cli.training import DEMO
from dirprune.train.config import TrainConfig
from dirprune.train.recipes import RECIPES, get_recipe

PER_RUN = ("method", "seed", "batch_seed")
"""Options of a single run, which ``compare`` takes as --methods and --seeds."""


class UsageError(ValueError):
    """The command line cannot be parsed."""


def parse(arguments: list[str]) -> Callable[[], None]:
    """Parse a command line.

    Returns:
        A function without parameters that runs the command.

    Raises:
        UsageError: If an option or a value is invalid.
        ValueError: If a value is out of its range.
        SystemExit: If help was printed.
    """
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        hint = names.did_you_mean(arguments[0], COMMANDS)
        raise UsageError(
            f"unknown command {arguments[0]!r}: {hint}use one of {', '.join(COMMANDS)}"
        )
    command = arguments[0] if arguments else ""
    if command == "compare":
        for option, instead in (("--method", "--methods"), ("--seed", "--seeds")):
            if any(word.partition("=")[0] == option for word in arguments):
                raise UsageError(f"compare has no {option}: use {instead} with one or more values")
    arguments, start = _take_recipe(arguments)
    with _parse_errors(arguments):
        parsed: Callable[[], None] = tyro.extras.subcommand_cli_from_dict(
            {name: _deferred(name, function, start) for name, function in COMMANDS.items()},
            prog="dirprune",
            description="Train sparse with gRDA. For all commands: --debug shows the traceback "
            "of an error, --version prints the version. For train, compare and tune: --recipe "
            f"NAME uses a recipe's values as the defaults ({', '.join(RECIPES)}).",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    return parsed


def _take_recipe(arguments: list[str]) -> tuple[list[str], TrainConfig]:
    """Remove --recipe NAME from the command line, and return the recipe's config as defaults."""
    start, left = DEMO, list(arguments)
    for at, word in enumerate(arguments):
        option, equals, name = word.partition("=")
        if option == "--recipe":
            if not equals and at + 1 == len(arguments):
                raise UsageError(f"--recipe needs a name: {', '.join(RECIPES)}")
            name = name if equals else arguments[at + 1]
            names.check_name("recipe", name, tuple(RECIPES))
            start, left[at : at + 1 + (not equals)] = get_recipe(name), []
            break
    if arguments[:1] == ["compare"] and not start.momentum:
        # the usual values for the methods with momentum
        start = replace(start, momentum=0.9, weight_decay=start.weight_decay or 5e-4)
    return left, start


def _deferred(
    name: str, command: Callable[..., None], start: TrainConfig
) -> Callable[..., Callable[[], None]]:
    """Make a function that takes the same arguments and returns the call without running it.

    The parameter ``config`` is replaced by a parameter for each group of options.
    """
    signature = inspect.signature(command)
    has_config = "config" in signature.parameters
    options = config_options(start, without=PER_RUN if name == "compare" else ())

    @wraps(command)
    def postponed(**given: Any) -> Callable[[], None]:
        if has_config:
            config = options.config({group: given.pop(group) for group in options.groups})
            names.check_config(config)
            given["config"] = config
        if "methods" in given:
            names.check_methods(given["methods"])
        return partial(command, **given)

    parameters = []
    for p in signature.parameters.values():
        if p.name == "config":
            parameters += [
                inspect.Parameter(group, p.KEYWORD_ONLY, default=kind(), annotation=kind)
                for group, kind in options.groups.items()
            ]
        else:
            parameters.append(p.replace(kind=p.KEYWORD_ONLY))
    parameters.sort(key=lambda p: p.default is not p.empty)
    postponed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return postponed


def _parse_errors(arguments: list[str]) -> Any:
    """Raise UsageError instead of tyro's error of several lines and its exit."""
    try:
        from tyro import _errors
    except ImportError:  # an older or newer tyro prints its own message
        return nullcontext()

    def explain(event: Any) -> NoReturn:
        command = arguments[0] if arguments and arguments[0] in COMMANDS else ""
        text = _explanation(event, command).rstrip(": ")
        raise UsageError(f"{text}; see dirprune {command} --help".replace("  ", " "))

    return _errors.on_parse_error(explain)


def _explanation(event: Any, command: str) -> str:
    """Describe one of tyro's parse errors."""
    match type(event).__name__:
        case "MissingSubcommand":
            return f"a command is missing: use one of {', '.join(COMMANDS)}"
        case "MissingArgs":
            if event.unrecognized_tokens:
                return _unrecognized(event.unrecognized_tokens, command)
            missing = ", ".join(_option(a.arg) for a in event.missing_arguments)
            return f"{missing} is missing"
        case "UnrecognizedArgs":
            return _unrecognized(event.tokens, command)
        case "InvalidChoice":
            hint = names.did_you_mean(event.value, event.choices)
            choices = ", ".join(map(repr, event.choices))
            return f"{_option(event.argument)} takes {choices}, got {event.value!r}: {hint}"
        case "BadValue":
            return f"{_option(event.argument)} needs a value"
        case "InstantiationFailure":
            text = str(event.message)
            return f"{_option(event.argument)}: {text}" if event.argument else text
    return "the command line cannot be parsed"


def _option(argument: Any) -> str:
    return str(argument.display_name())


def _unrecognized(tokens: list[str], command: str) -> str:
    known = {"--help", "--version", "--debug", "--recipe"}
    if command:
        parameters = inspect.signature(COMMANDS[command]).parameters
        known |= {f"--{name.replace('_', '-')}" for name in parameters if name != "config"}
        if "config" in parameters:
            known |= {f"--{name.replace('_', '-')}" for name in TrainConfig.__dataclass_fields__}
    wrong = next((t for t in tokens if t.startswith("-")), tokens[0])
    option = wrong.partition("=")[0]
    return f"unrecognized option {option}: {names.did_you_mean(option, known)}"
