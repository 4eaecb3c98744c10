"""Two losses have the same identity if and only if they compute the same."""

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dirprune.landscape.objectives.loss_identity import loss_identity

Loss = Callable[[Tensor, Tensor], Tensor]


class Scaled(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(x, y)


def closure(scale: float) -> Loss:
    return lambda x, y: scale * F.cross_entropy(x, y)


class ScaledLogits:
    """An object whose attributes and code decide the loss."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * x, y)


class Listed(nn.Module):
    """A module with its settings in a list."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scales = [scale]


def keyword_only(scale: float) -> Loss:
    def loss(x: Tensor, y: Tensor, *, scale: float = scale) -> Tensor:
        return F.cross_entropy(scale * x, y)

    return loss


def compiled(code: str, scale: float) -> Loss:
    """The function of this name in a file of its own."""
    names = {"F": F, "SCALE": scale, "__name__": "own_losses"}
    exec(code.replace("CONSTANT", str(scale)), names)
    return names["loss"]  # type: ignore[return-value]


KINDS: dict[str, Callable[[float], Loss]] = {
    "module's attribute": lambda s: nn.CrossEntropyLoss(label_smoothing=s),
    "module's buffer": lambda s: nn.CrossEntropyLoss(weight=torch.tensor([1.0, s])),
    "module's parameter": Scaled,
    "closure": closure,
    "closure's tensor": lambda s: (lambda w: lambda x, y: F.cross_entropy(x, y, w))(
        torch.tensor([s, 1.0])
    ),
    "method": lambda s: Scaled(s).forward,
    "object": ScaledLogits,
    "module's list": Listed,
    "module's module": lambda s: nn.Sequential(nn.CrossEntropyLoss(label_smoothing=s)),
    "keyword's default": keyword_only,
    "global": lambda s: compiled("def loss(x, y): return F.cross_entropy(SCALE * x, y)", s),
    "global of an inner function": lambda s: compiled(
        "def loss(x, y): return (lambda z: F.cross_entropy(SCALE * z, y))(x)", s
    ),
    "constant of an inner function": lambda s: compiled(
        "def loss(x, y): return (lambda z: F.cross_entropy(CONSTANT * z, y))(x)", s
    ),
    "function that is called": lambda s: compiled(
        "def scaled(x): return SCALE * x\ndef loss(x, y): return F.cross_entropy(scaled(x), y)", s
    ),
    "code of a module": lambda s: type(
        "Own", (nn.Module,), {"forward": compiled("def loss(s, x, y): return CONSTANT * x", s)}
    )(),
    "partial": lambda s: functools.partial(F.cross_entropy, label_smoothing=s),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_identified_by_its_values(kind: str) -> None:
    make = KINDS[kind]
    assert loss_identity(make(0.25)) == loss_identity(make(0.25))
    assert loss_identity(make(0.25)) != loss_identity(make(0.5))


def test_losses_of_other_code_differ() -> None:
    losses: list[Loss] = [
        F.cross_entropy, F.nll_loss, nn.CrossEntropyLoss(), nn.NLLLoss(),
        lambda x, y: (x - y).square().mean(), lambda x, y: (x - y).abs().mean(),
        lambda x, y: 2.0 * (x - y).abs().mean(),
    ]  # fmt: skip
    assert len({loss_identity(loss) for loss in losses}) == len(losses)


def test_a_loss_may_refer_to_itself() -> None:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return loss(x[None], y) if x.dim() == 1 else F.cross_entropy(x, y)

    assert loss_identity(loss) == loss_identity(loss)
