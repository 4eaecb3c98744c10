"""Second derivatives of common kinds of networks: structured outputs, pruning, wrappers."""

import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hessian_cases import D, images, matrix_of, mlp, rows
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

from dirprune.landscape import GaussNewton, Hessian, Objective

Out = namedtuple("Out", "logits hidden")


@dataclass
class Output:
    """An output object like those of the transformers library."""

    logits: Tensor
    loss: Tensor | None = None


class Structured(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(4, 5, dtype=D), nn.Linear(5, 3, dtype=D), kind

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.a(x))
        z = self.b(h)
        kinds = {"dict": {"logits": z, "hidden": [h]}, "namedtuple": Out(z, h), "tuple": (z, h)}
        return kinds.get(self.kind, Output(z))


PICK: dict[str, Callable[[Any], Tensor]] = {
    "dict": lambda o: o["logits"],
    "tuple": lambda o: o[0],
    "namedtuple": lambda o: o.logits,
    "dataclass": lambda o: o.logits,
}


@pytest.mark.parametrize("of", [Hessian, GaussNewton])
@pytest.mark.parametrize("kind", list(PICK))
def test_models_that_return_structures(kind: str, of: Any) -> None:
    model, (x, y) = Structured(kind), rows()
    plain = nn.Sequential(model.a, nn.Tanh(), model.b)
    data = list(zip(x.split(4), y.split(4)))

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return F.cross_entropy(PICK[kind](outputs), targets)

    found = matrix_of(of(model, loss, data))
    torch.testing.assert_close(found, matrix_of(of(plain, F.cross_entropy, (x, y))))
    measured = Objective(model, loss, data).measure()
    assert measured == pytest.approx(Objective(plain, F.cross_entropy, (x, y)).measure())


def weight_normed() -> nn.Module:
    normed = nn.utils.parametrizations
    return nn.Sequential(
        *(normed.weight_norm(nn.Linear(4, 5)), nn.Tanh(), normed.spectral_norm(nn.Linear(5, 4))),
        *(nn.BatchNorm1d(4), nn.Linear(4, 3)),
    )


class Pooled(nn.Module):
    """Adds tensors of two shapes, and reads values after an in-place change."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3, 3)
        self.act, self.pool = nn.ReLU(inplace=inplace), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.act(x)
        x = x + self.pool(y)  # where the activation is in place, x is y
        x += self.pool(x)
        return self.head(torch.flatten(self.pool(torch.tanh(x)), 1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x[:, None].repeat(1, 3, 1)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.unflatten(1, (2, 2)))[0][:, -1])


def pruned() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    l1_unstructured(model[0], "weight", amount=0.5)
    model(torch.randn(2, 4))  # leaves a computed weight in the module
    return model


class HooksOutput(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        self[0].register_forward_hook(lambda module, args, output: 3 * output)


def inplace(act: Any) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), act(inplace=True), nn.Flatten()),
        nn.Linear(48, 3),
    )


ORDINARY: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "weight and spectral norm": (weight_normed, rows),
    "pooled": (lambda: Pooled(False), images),
    "in place": (lambda: Pooled(True), images),
    "in-place SiLU": (lambda: inplace(nn.SiLU), images),
    "in-place ELU": (lambda: inplace(nn.ELU), images),
    "attention": (Attention, rows),
    "recurrent": (Recurrent, rows),
    "pruned": (pruned, rows),
    "hooked": (HooksOutput, rows),
    "Linear, BatchNorm": (
        lambda: nn.Sequential(
            *(nn.Unflatten(1, (2, 2)), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Flatten()),
            nn.Linear(4, 3),
        ),
        rows,
    ),
}


@pytest.mark.parametrize("name", list(ORDINARY))
def test_auto_multiplies_wherever_the_gradient_exists(name: str) -> None:
    build, draw = ORDINARY[name]
    model, (x, y) = build().to(D), draw()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5)
    model.eval()
    weights = [p for p in model.parameters() if p.requires_grad]
    w = nn.utils.parameters_to_vector(weights).detach()
    v = torch.randn_like(w)

    def gradient(at: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(at, weights)
        grads = torch.autograd.grad(F.cross_entropy(model(x.clone()), y), weights)
        return torch.cat([g.reshape(-1) for g in grads])

    step = 1e-5
    expected = (gradient(w + step * v) - gradient(w - step * v)) / (2 * step)
    nn.utils.vector_to_parameters(w, weights)
    data = list(zip(x.split(4), y.split(4)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Hessian(model, F.cross_entropy, data)(v)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    try:
        captured = Hessian(model, F.cross_entropy, data, mode="graph")(v)
    except TypeError as error:
        assert "use mode auto" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(captured, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["graph", "auto"])
def test_dropout_that_evaluation_does_not_turn_off(mode: Any) -> None:
    class Always(nn.Module):
        def __init__(self, training: bool) -> None:
            super().__init__()
            self.a, self.training_always = nn.Linear(4, 3, dtype=D), training

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(F.silu(self.a(x)), 0.5, self.training_always)

    v = torch.randn(15, dtype=D)
    with pytest.raises((TypeError, ValueError), match="random"):
        Hessian(Always(True), F.cross_entropy, rows(), mode=mode)(v)
    Hessian(Always(False), F.cross_entropy, rows(), mode=mode)(v)


def test_wrapped_models() -> None:
    net, data = mlp(), rows()
    hessian = Hessian(net, F.cross_entropy, data)
    v = torch.randn(hessian.dimension, dtype=D)
    wrapped = [
        nn.DataParallel(net),
        torch.optim.swa_utils.AveragedModel(net),
        torch.compile(net, backend="eager"),
        nn.DataParallel(torch.compile(net, backend="eager")),  # type: ignore[arg-type]
    ]
    for model in wrapped:
        other = Hessian(model, F.cross_entropy, data)  # type: ignore[arg-type]
        assert other.shapes == hessian.shapes
        torch.testing.assert_close(other(v), hessian(v))
        layout = Objective(model, F.cross_entropy, data).layout  # type: ignore[arg-type]
        point = layout.point(model.state_dict())  # type: ignore[attr-defined]
        assert torch.equal(point.w, nn.utils.parameters_to_vector(net.parameters()))
        block = Hessian(model, F.cross_entropy, data, parameters=["module.0.weight"])  # type: ignore[arg-type]
        assert [*block.shapes] == ["0.weight"]
    part = nn.Sequential(torch.compile(net, backend="aot_eager"), nn.Tanh())  # type: ignore[arg-type]
    part(data[0])
    plain = nn.Sequential(net, nn.Tanh())
    found, expected = (Hessian(m, F.cross_entropy, data)(v) for m in (part, plain))
    torch.testing.assert_close(found, expected)


def test_half_precision_models_are_measured_in_float32() -> None:
    model, (x, y) = mlp(), rows()
    hessian = Hessian(model.to(torch.bfloat16), F.cross_entropy, (x.float(), y))
    assert hessian.dtype == torch.float32
    v = torch.randn(hessian.dimension, dtype=D)
    expected = Hessian(model, F.cross_entropy, (x, y), dtype=D)(v)
    torch.testing.assert_close(hessian(v.float()).double(), expected, rtol=1e-3, atol=1e-5)


def test_global_precision_flags_and_autocast_change_nothing() -> None:
    model, (x, y) = mlp().float(), rows()
    hessian = Hessian(model, F.cross_entropy, (x.float(), y), mode="reverse-over-reverse")
    v = torch.randn(hessian.dimension)
    expected = hessian(v)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(hessian(v), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
