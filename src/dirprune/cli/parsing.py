"""Parsing a command line to a function call, with errors in one line."""

import inspect
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, Union

import tyro

from dirprune._support.decode import build
from dirprune._support.files import expand_user, read_json
from dirprune._support.suggestions import did_you_mean
from dirprune.cli import names
from dirprune.cli.commands import COMMANDS
from dirprune.cli.figures import FIGURES
from dirprune.cli.options import config_options, described, help_texts, plain_options
from dirprune.cli.training import DEMO
from dirprune.cli.wrapping import Wrapping
from dirprune.models.names import names_code
from dirprune.survey.config import SurveyConfig
from dirprune.train.config import TrainConfig
from dirprune.train.recipes import RECIPES, get_recipe

WITHOUT = {
    "compare": ("method", "seed", "batch_seed"),
    "figures": ("method", "sparsity", "batch_seed"),
}
"""Options of a run that a command of several runs sets itself."""


DEFAULTS = {
    "recipe": f"A recipe whose values become the defaults: {', '.join(RECIPES)}.",
    "config": "The config.json of a run, whose values become the defaults.",
}
"""Options that set the defaults of others, with their help."""

KINDS: dict[str, tuple[str, type]] = {"INT": ("a whole number", int), "FLOAT": ("a number", float)}
"""Types by their names in tyro's help, and what they mean."""


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
    if "" in arguments:
        raise UsageError("an argument is empty: is a variable of the shell not set?")
    arguments = [_with_home(word) for word in arguments]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        hint = did_you_mean(arguments[0], COMMANDS)
        raise UsageError(
            f"unknown command {arguments[0]!r}: {hint}use one of {', '.join(COMMANDS)}"
        )
    command = arguments[0] if arguments else ""
    if command == "compare":
        for option, instead in (("--method", "--methods"), ("--seed", "--seeds")):
            if any(word.partition("=")[0] == option for word in arguments):
                raise UsageError(f"compare has no {option}: use {instead} with one or more values")
    if command == "tune" and any(word.partition("=")[0] == "--part" for word in arguments):
        raise UsageError(
            "tune has no --part: each trial depends on the one before; for array jobs, start one "
            "tune for each mu (--mus), each in its own folder"
        )
    arguments, start = _take_defaults(arguments)
    with _parse_errors(arguments), redirect_stdout(Wrapping(sys.stdout)):
        parsed: Callable[[], None] = tyro.cli(
            _program(command, start),
            prog="dirprune",
            args=arguments,
            config=(
                tyro.conf.OmitArgPrefixes,
                tyro.conf.OmitSubcommandPrefixes,
                tyro.conf.FlagCreatePairsOff,
            ),
        )
    return parsed


def _with_home(word: str) -> str:
    """Replace a leading ~ of a value, which shells leave in quotes and after an equals sign."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    return f"{option}{equals}{expand_user(value)}" if value.startswith("~") else word


def _program(chosen: str, start: TrainConfig) -> Callable[..., Callable[[], None]]:
    """Return a function with the commands as alternatives, for tyro.

    Args:
        chosen: The command on the command line; the help of the others is their first sentence.
        start: The config with the defaults.
    """
    alternatives = []
    for name, function in COMMANDS.items():
        deferred = _deferred(name, function, start)
        if name != chosen:
            deferred.__doc__ = (function.__doc__ or "").partition("\n\n")[0]
        kind = tyro.conf.subcommand(name, constructor=deferred)
        alternatives.append(Annotated[Any, kind])
    commands: Any = Union[tuple(alternatives)]  # noqa: UP007 (of a tuple)

    def dirprune(command: Callable[[], None], debug: bool, version: bool) -> Callable[[], None]:
        """Train sparse with gRDA."""
        return command

    shown = {"debug": "Show the traceback of an error.", "version": "Print the version."}
    flags = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False,
            annotation=described(bool, False, text),
        )
        for name, text in shown.items()
    ]  # fmt: skip
    first = inspect.Parameter("command", inspect.Parameter.KEYWORD_ONLY, annotation=commands)
    dirprune.__signature__ = inspect.Signature([first, *flags])  # type: ignore[attr-defined]
    dirprune.__annotations__ = {p.name: p.annotation for p in [first, *flags]}
    return dirprune


def _take_defaults(arguments: list[str]) -> tuple[list[str], TrainConfig]:
    """Remove --recipe and --config from the command line; return the config of the defaults."""
    left, recipe = _take_option(arguments, "--recipe", ", ".join(RECIPES))
    left, file = _take_option(left, "--config", "the config.json of a run")
    start = FIGURES if arguments[:1] == ["figures"] else DEMO
    if recipe is not None and file is not None:
        raise UsageError("--recipe and --config exclude each other: give one of them")
    if recipe is not None:
        names.check_name("recipe", recipe, tuple(RECIPES))
        start = get_recipe(recipe)
    if file is not None:
        start = _recorded_config(Path(file), left)
    if arguments[:1] == ["compare"] and not start.momentum:
        # the usual values for the methods with momentum
        start = replace(start, momentum=0.9, weight_decay=start.weight_decay or 5e-4)
    return left, start


def _take_option(arguments: list[str], option: str, needed: str) -> tuple[list[str], str | None]:
    """Remove an option with a value; return the other words and the value."""
    for at, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == option:
            if not equals and at + 1 == len(arguments):
                raise UsageError(f"{option} needs a value: {needed}")
            after = at + 1 if equals else at + 2
            return arguments[:at] + arguments[after:], value if equals else arguments[at + 1]
    return arguments, None


def _recorded_config(path: Path, arguments: list[str]) -> TrainConfig:
    """Read the config of a run; code that it names runs only if the command line names it too."""
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"--config {file} does not exist: give the config.json of a run")
    fields = read_json(file).get("config")
    if not isinstance(fields, dict):
        raise ValueError(f"{file} is not the config.json of a run: it has no config")
    config = build(TrainConfig, fields, str(file))
    is_given = any(word.partition("=")[0] == "--model" for word in arguments)
    if names_code(config.model) and not is_given:
        raise ValueError(
            f"{file} names the code {config.model} as its model: check it, then add "
            f"--model {config.model}"
        )
    return config


def _deferred(
    name: str, command: Callable[..., None], start: TrainConfig
) -> Callable[..., Callable[[], None]]:
    """Make a function that takes the same arguments and returns the call without running it.

    The parameter ``config`` is replaced by a parameter for each group of options.
    """
    signature = inspect.signature(command)
    has_config = "config" in signature.parameters
    options = config_options(start, without=WITHOUT.get(name, ()))
    texts = help_texts(command)

    @wraps(command)
    def postponed(**given: Any) -> Callable[[], None]:
        if has_config:
            del given["recipe"], given["config"]  # see _take_defaults
            config = options.config({group: given.pop(group) for group in options.groups})
            names.check_config(config)
            given["config"] = config
        if "measurement" in given:
            given["measurement"] = SurveyConfig(**vars(given["measurement"]))
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
            parameters += [
                inspect.Parameter(
                    option, p.KEYWORD_ONLY, default=None,
                    annotation=described(str | None, None, text),
                )
                for option, text in DEFAULTS.items()
            ]  # fmt: skip
        elif p.annotation is SurveyConfig:
            shown = plain_options(SurveyConfig)
            parameters.append(p.replace(kind=p.KEYWORD_ONLY, annotation=shown, default=shown()))
        else:
            annotation = described(p.annotation, p.default, texts.get(p.name, ""))
            parameters.append(p.replace(kind=p.KEYWORD_ONLY, annotation=annotation))
    parameters.sort(key=lambda p: p.default is not p.empty)
    postponed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    postponed.__annotations__ = {p.name: p.annotation for p in parameters}
    del postponed.__wrapped__  # tyro would read its annotations
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
        see = f"see dirprune {command} --help".replace("  ", " ")
        raise UsageError(f"{text} {see}" if text.endswith("?") else f"{text}; {see}")

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
            hint = did_you_mean(event.value, event.choices)
            choices = ", ".join(map(repr, event.choices))
            return f"{_option(event.argument)} takes {choices}, got {event.value!r}: {hint}"
        case "BadValue":
            return f"{_option(event.argument)} needs a value"
        case "InstantiationFailure":
            return _wrong_type(event)
    return "the command line cannot be parsed"


def _wrong_type(event: Any) -> str:
    """Describe a value that is no number, without the words of Python's and tyro's errors."""
    text, argument = str(event.message), event.argument
    if argument is None:
        return text
    kind = next((KINDS[name] for name in KINDS if name in str(argument.lowered.metavar)), None)
    wrong = [value for value in re.findall("'([^']*)'", text) if not _is(kind, value)]
    if kind is None or not wrong:
        return f"{_option(argument)}: {text}"
    return f"{_option(argument)} takes {kind[0]}, got {wrong[0]!r}"


def _is(kind: tuple[str, type] | None, value: str) -> bool:
    try:
        return kind is not None and kind[1](value) is not None
    except ValueError:
        return False


def _option(argument: Any) -> str:
    return str(argument.display_name()).removeprefix("command.")


def _unrecognized(tokens: list[str], command: str) -> str:
    known = {"--help", "--version", "--debug", "--recipe", "--config"}
    if command:
        parameters = inspect.signature(COMMANDS[command]).parameters
        own = set(parameters) - {"config", "measurement"}
        if "config" in parameters:
            own |= TrainConfig.__dataclass_fields__.keys() - set(WITHOUT.get(command, ()))
        if "measurement" in parameters:
            own |= SurveyConfig.__dataclass_fields__.keys()
        known |= {f"--{name.replace('_', '-')}" for name in own}
    wrong = next((t for t in tokens if t.startswith("-")), tokens[0])
    option = wrong.partition("=")[0]
    return f"unrecognized option {option}: {did_you_mean(option, known)}"
