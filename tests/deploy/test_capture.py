"""What is captured computes what the module computed; what cannot be is refused by name."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.networks import NAMES, captured, difference, inputs
from dirprune.deploy import GraphNet, capture


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_computes_what_its_module_does(name: str) -> None:
    model, graph = captured(name)
    x = inputs(name, 3).double()
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x)
        found = GraphNet(graph).double()(x)
    assert expected.std() > 0
    assert difference(expected, found) < 1e-10
    state = model.state_dict()
    assert set(graph.tensors) <= set(state)
    for key, array in graph.tensors.items():
        assert torch.equal(state[key], torch.from_numpy(array))


class Lambda(nn.Module):
    def __init__(self, function: Callable[..., Tensor], **tensors: Tensor | nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, value in tensors.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def in_place(m: nn.Module, x: Tensor) -> Tensor:
    y = x * 2
    z = y + 1
    F.relu(y, inplace=True)
    return y + z  # y as it is after the activation


def buffers(m: nn.Module, x: Tensor) -> Tensor:
    return (x - m.mean) / m.variance.add(1e-3).sqrt() * m.scale + m.plain  # type: ignore


CASES: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "in place": (in_place, (6, 4, 4)),
    "dropout in place": (lambda m, x: F.dropout(x * 1, 0.5, False, True).relu_() - 1, (6,)),
    "scalars": (lambda m, x: (1 - x) / 2 + 3 * x - 1 / (x * x + 2) + (-x).square() ** 2, (6,)),
    "alpha": (lambda m, x: torch.add(x, x.relu(), alpha=2).sub(x.sigmoid(), alpha=0.5), (6,)),
    "activations": (
        lambda m, x: sum(
            f(x)
            for f in (F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, torch.tanh, F.hardswish,
                      F.hardsigmoid, lambda x: F.gelu(x, approximate="tanh"),
                      lambda x: F.hardtanh(x, 0, 6), lambda x: x.clamp(min=0))
        ),
        (6, 4),
    ),
    "softmax": (lambda m, x: x.softmax(-1) + F.softmax(x, 1), (6, 4)),
    "shapes": (
        lambda m, x: torch.stack([x.flatten(1), x.reshape(x.shape[0], -1)], -1)
        .unsqueeze(1).squeeze(1).unflatten(1, (3, -1)),
        (6, 4, 4),
    ),
    "slices": (
        lambda m, x: torch.cat([x[:, 1:-1:2], x[:, -1:], x.narrow(1, 1, 2), *x.chunk(4, 1),
                                *x.split([2, 4], 1), x.split(5, 1)[1]], 1),
        (6, 4, 4),
    ),
    "unbind": (lambda m, x: torch.cat(x.unbind(2), 1) + torch.cat([x[:, :, 3]] * 4, 1), (2, 4)),
    "pools": (
        lambda m, x: F.max_pool2d(x, 3, 2, 1, 1, True) + F.avg_pool2d(x, 3, 2, 1, True, False)
        + F.max_pool2d(F.pad(x, (1, 0, 2, 0)), (3, 2), (2, 2)).mean(3, True)
        + F.adaptive_avg_pool2d(x, (4, None))[..., :4] + F.adaptive_max_pool2d(x, (4, 4)),
        (3, 7, 7),
    ),
    "upsampling": (
        lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear")
        + F.interpolate(x, (6, 10))
        + F.interpolate(x, (6, 10), mode="bilinear", align_corners=True),
        (2, 3, 5),
    ),
    "same padding": (
        lambda m, x: F.conv2d(x, m.kernel, padding="same", dilation=(1, 3), groups=2), (6, 9, 9)
    ),
    "buffers": (buffers, (6, 4, 4)),
    "permute": (
        lambda m, x: x.permute(0, 2, 3, 1).transpose(1, -1) + x.transpose(-2, -1), (6, 4, 4)
    ),
}  # fmt: skip


def case(name: str) -> Lambda:
    model = Lambda(CASES[name][0], scale=nn.Parameter(torch.randn(6, 1, 1)))
    model.register_buffer("mean", torch.randn(6, 1, 1))
    model.register_buffer("variance", torch.rand(6, 1, 1))
    model.kernel = nn.Parameter(torch.randn(4, 3, 2, 4))
    model.plain = torch.randn(1, 6, 1, 1)  # in no state dict
    return model


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_operators(name: str) -> None:
    model, shape = case(name), CASES[name][1]
    graph = capture(model, torch.randn(2, *shape))
    x = torch.randn(5, *shape) * 3
    expected = model(x.clone())
    assert difference(expected, GraphNet(graph)(x)) < 1e-6
    # The graph rests on shapes that were inferred: torch's are the oracle.
    assert tuple(expected.shape[1:]) == graph.shapes[graph.output][1:]


def test_constants_keep_their_names_and_whether_they_are_trained() -> None:
    net = GraphNet(capture(case("buffers"), torch.randn(2, 6, 4, 4)))
    assert set(net.state_dict()) == {"mean", "scale", "constant.0", "constant.1"}
    assert [name for name, _ in net.named_parameters()] == ["scale"]


def test_shared_tensors_are_kept_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), first)
    graph = capture(model, torch.randn(2, 3))
    assert sorted(graph.tensors) == ["0.bias", "0.weight", "2.bias"]
    x = torch.randn(4, 3)
    assert torch.equal(model(x), GraphNet(graph)(x))


def test_the_module_is_left_in_its_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    model[1].eval()
    capture(model, (torch.randn(2, 3),))
    assert model.training
    assert not model[1].training


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.reads = reads
        self.calls, self.last = nn.Buffer(torch.zeros(())), nn.Buffer(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = self.last + self.calls
        return x + self.calls if self.reads else x * 2


@torch.no_grad()
def test_networks_that_write_to_buffers() -> None:
    model, x = Counting(reads=False).eval(), torch.randn(2, 3)
    torch.testing.assert_close(GraphNet(capture(model, x))(x), 2 * x)
    for buffer in model.buffers():  # as before
        assert not buffer.any()
    with pytest.raises(ValueError, match=r"calls: .* take the state as an input"):
        capture(Counting(reads=True), x)


def refused(function: Callable[..., Tensor], *shape: int) -> Callable[[], object]:
    return lambda: capture(nn.Sequential(nn.Identity(), Lambda(function)), torch.randn(2, *shape))


def _gradient(x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x.requires_grad_(True)
        return torch.autograd.grad(y.square().sum(), y)[0]


def _backward(x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = x.clone().requires_grad_(True)
        y.square().sum().backward()
    return y.grad


def _scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        return torch.jit.script(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (refused(lambda m, x: torch.special.i0(x), 3), r"i0.*has no operator for it, in 1"),
        (refused(lambda m, x: x.mean(0, True) + x, 3), "aten.mean.dim: it works along the batch"),
        (refused(lambda m, x: x - x.mean(), 3), "mean.default: it reduces over the batch, in 1"),
        (refused(lambda m, x: x[:1], 4), "along the batch"),
        (refused(lambda m, x: x + torch.arange(x.shape[0] + 1)[1:, None], 4), "of the batch"),
        (refused(lambda m, x: torch.stack([x[i] for i in range(len(x))]), 4), "over the samples"),
        (refused(lambda m, x: x.mean((0, 1)) + x, 4), "along the batch"),
        (refused(lambda m, x: x + torch.rand(3), 3), "at random"),
        (refused(lambda m, x: x + torch.randn_like(x), 3), "take the random numbers as an input"),
        (refused(lambda m, x: F.dropout(x), 3), "self.training"),
        (refused(lambda m, x: F.batch_norm(x, None, None, training=True), 3), "batch"),
        (refused(lambda m, x: x if x.sum() > 0 else -x, 3), "Lambda|Sequential cannot be export"),
        (refused(lambda m, x: (x, x.shape[0]), 3), "returns a number that follows from the batch"),
        (refused(lambda m, x: (x, x[:, :0]), 3), "Sequential returns a tensor without elements"),
        (refused(lambda m, x: _gradient(x), 3), "takes gradients: compute them outside"),
        (refused(lambda m, x: _backward(x), 3), "takes gradients: compute them outside"),
        (refused(lambda m, x: torch.vmap(lambda w: x * w)(torch.ones(2, 3)).sum(0), 3), "loop"),
        (lambda: capture(nn.Sequential(_scripted()), torch.ones(2, 3)), "0 is a ScriptModule"),
        (lambda: capture(nn.Linear(3, 3, device="meta"), torch.ones(2, 3)), "weight is on the me"),
        (lambda: capture(nn.Linear(3, 3), torch.ones(2, 3).to_sparse()), "must be dense tensors"),
        (lambda: capture(nn.Linear(3, 3), "x"), "must be a tensor"),
        (lambda: capture(nn.Linear(3, 3), torch.tensor(2.5)), "number 2.5: give one number for"),
        (lambda: capture(nn.Linear(3, 3), torch.ones(0, 3)), "batches of real numbers"),
        (lambda: capture(nn.Linear(3, 3), (torch.ones(2, 3),) * 2), "does not run on example_inp"),
        (lambda: capture(nn.Bilinear(3, 3, 2), (torch.ones(2, 3), torch.ones(3, 3))), "the batch"),
    ],
)
def test_refusals(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("model", "what"), [(torch.sin, "builtin_function"), (nn.Linear, "the class Linear")]
)
def test_what_is_no_module_is_refused(model: Any, what: str) -> None:
    with pytest.raises(TypeError, match=rf"must be a torch.nn.Module, got {what}"):
        capture(model, torch.ones(2, 3))


@torch.no_grad()
def test_lazy_layers_are_made_by_the_example() -> None:
    model, x = (
        nn.Sequential(nn.LazyConv1d(4, 1), nn.LazyBatchNorm1d()).eval(),
        torch.randn(2, 3, 5),
    )
    torch.testing.assert_close(GraphNet(capture(model, x))(x), model(x))


def test_samples_that_depend_on_each_other_are_told_apart() -> None:
    pairs = Lambda(lambda m, x: F.normalize(x) @ F.normalize(x).t())
    with pytest.raises(ValueError, match=r"matmul.*(?s:.*)return the result of each sample"):
        capture(pairs, torch.randn(2, 3))


@torch.no_grad()
def test_what_no_input_changes_may_hold_attention() -> None:
    def against_prompts(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        heads = m.prompts.unflatten(-1, (2, 3)).transpose(1, 2)
        y = F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.0)
        return F.dropout(x @ y.mean(2).flatten(1).t(), 0.5, m.training)

    model = Lambda(against_prompts, prompts=nn.Parameter(torch.randn(4, 5, 6)))
    x = torch.randn(3, 6)
    torch.testing.assert_close(GraphNet(capture(model.eval(), x))(x), model(x))


def test_gradients_of_each_sample_are_taken() -> None:
    def slopes(m: nn.Module, x: Tensor) -> Tensor:
        with torch.enable_grad():
            y = x.detach().requires_grad_(True)
            energy = (y**3).sum(1)
            return torch.autograd.grad(energy, y, torch.ones_like(energy))[0]

    x = torch.randn(3, 4)
    torch.testing.assert_close(GraphNet(capture(Lambda(slopes), x))(x), 3 * x**2)


@torch.no_grad()
def test_data_of_a_tensor_is_the_tensor() -> None:
    model = Lambda(lambda m, x: (x * m.scale.data).data.relu(), scale=nn.Parameter(torch.randn(4)))
    x = torch.randn(3, 4)
    torch.testing.assert_close(GraphNet(capture(model, x))(x), model(x))


def test_all_unsupported_operators_are_named_together() -> None:
    model = nn.Sequential(
        Lambda(lambda m, x: torch.special.i0(x)),
        Lambda(lambda m, x: x - x.mean()),
        Lambda(lambda m, x: torch.special.i0(x)),
    )
    with pytest.raises(ValueError, match="cannot be captured") as told:
        capture(model, torch.randn(2, 3))
    lines = str(told.value).splitlines()
    assert len([line for line in lines if "aten.i0" in line]) == 1
    assert "save without example_inputs" in lines[-1]


def test_an_operator_that_fixes_the_batch_is_refused() -> None:
    class Inverse(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.inv(x + 5 * torch.eye(3))

    with pytest.raises(ValueError, match="Inverse works for one batch size only"):
        capture(Inverse(), torch.randn(2, 3, 3))


def test_a_network_that_changes_its_parameters_is_refused() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.layer.weight.mul_(0.5)
            return self.layer(x)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"Halves gives other outputs .* keeps no state"):
        capture(Halves(), torch.randn(2, 4))


def test_assigning_to_data_is_refused() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.layer.weight.data = self.layer.weight.data * 0.5
            return self.layer(x)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"assigns to x\.data, but a graph keeps no state"):
        capture(Halves(), torch.randn(2, 4))


def test_a_network_that_counts_its_calls_is_refused() -> None:
    class Counts(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    with pytest.raises(ValueError, match=r"Counts gives other outputs .*because it keeps values"):
        capture(Counts(), torch.randn(2, 4))
