"""What prevents a network from being captured, reported together."""

from torch import nn

NO_STATE = "a graph keeps no state: take the state as an input and return the new one"
STATE = (
    "the network writes to this buffer and reads it, so its outputs depend on earlier calls, but "
    f"{NO_STATE}"
)
RANDOM = "it draws at random, in evaluation mode too: take the random numbers as an input"
UNKNOWN = "a graph has no operator for it"
OTHER_FORM = "it is supported with other arguments only"
MAPPED = "a function of torch.func maps over tensors that are no inputs: use a loop over them"
FIXED_SIZES = "it is supported at fixed sizes only"
_SAMPLES_ALONE = (
    "Each sample is computed independently. Combine samples outside of the network: return the "
    "result of each sample, such as its embedding. Values that are the same in every call (other "
    "samples, a table) belong in a buffer. If dimension 0 counts the elements of a set or graph, "
    "add a batch dimension before it"
)
_MOST_PATHS = 5


class Blocked:
    """Placeholder for a result that could not be captured, or that depends on one."""


BLOCKED = Blocked()


class Blockers:
    """Operators that cannot be captured, each with the reason and the modules that call it."""

    def __init__(self) -> None:
        self._paths: dict[str, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._paths)

    def add(self, name: object, reason: str, path: str) -> None:
        """Add an operator, or a buffer.

        Args:
            name: Of the operator or buffer.
            reason: Why it cannot be captured.
            path: Of the module that calls it, empty for the root.
        """
        paths = self._paths.setdefault(f"{name}: {reason}", [])
        if (named := path or "the root") not in paths:
            paths.append(named)

    def error(self, model: nn.Module, hint: str | None) -> ValueError:
        """The error that lists all of them.

        Args:
            model: The network.
            hint: How to avoid them, or None.
        """
        lines = [f"  {what}, in {_list(paths)}" for what, paths in self._paths.items()]
        if hint:
            lines.append(f"  {hint}")
        if any("the batch" in what for what in self._paths):
            lines.append(_SAMPLES_ALONE)
        return ValueError(
            f"{type(model).__name__} cannot be captured:\n"
            + "\n".join(lines)
            + "\nReplace these, or save without example_inputs to store the weights only"
        )


def _list(paths: list[str]) -> str:
    rest = len(paths) - _MOST_PATHS
    return ", ".join(paths[:_MOST_PATHS]) + (f" and {rest} more" if rest > 0 else "")
