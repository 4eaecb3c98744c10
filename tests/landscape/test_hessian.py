"""Products against dense Hessians, closed forms and the laws of second derivatives."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hessian_cases import (
    MODES,
    NETWORKS,
    D,
    Residual,
    Traceable,
    dense,
    images,
    matrix_of,
    mlp,
    rows,
    shaken,
)
from torch import Tensor, nn

from dirprune.landscape import GaussNewton, Hessian, top_eigenpairs
from dirprune.landscape.curvature.captured.capture import Uncaptured, capture
from dirprune.models import build


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", list(NETWORKS))
def test_products_are_those_of_the_dense_hessian(network: str, mode: Any) -> None:
    build, draw = NETWORKS[network]
    model, (x, y) = build(), draw()
    model.train()
    before = {k: t.clone() for k, t in model.state_dict().items()}
    hessian = Hessian(model, F.cross_entropy, (x, y), mode=mode)
    expected = dense(model, F.cross_entropy, x, y)
    torch.testing.assert_close(matrix_of(hessian), expected, rtol=1e-9, atol=1e-11)
    assert hessian.products == hessian.dimension == len(expected)
    mean = F.cross_entropy(model.eval()(x), y).detach()
    assert hessian.loss == pytest.approx(float(mean))
    model.train()
    assert all(m.training for m in model.modules())
    assert all(torch.equal(before[k], t) for k, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("keep", [0.0, 3000.0, 1e9])
def test_the_cache_does_not_change_products(keep: float) -> None:
    model, (x, y) = shaken(Traceable()), images(11)
    data = [(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])]
    hessian = Hessian(model, F.cross_entropy, data, mode="graph", keep=keep)
    plain = Hessian(model, F.cross_entropy, (x, y), mode="reverse-over-reverse")
    for v in torch.randn(3, hessian.dimension, dtype=D):
        torch.testing.assert_close(hessian(v), plain(v), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_batch_size_and_order_change_nothing(mode: Any) -> None:
    model, (x, y) = mlp(), rows(23)
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=D)
    full = Hessian(model, F.cross_entropy, (x, y), mode=mode)(v)
    order = torch.randperm(23)
    for size in (1, 5, 22):
        data = list(zip(x[order].split(size), y[order].split(size)))
        found = Hessian(model, F.cross_entropy, data, mode=mode)(v)
        torch.testing.assert_close(found, full, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("of", [Hessian, GaussNewton])
def test_least_squares_and_softmax_regression(of: Any) -> None:
    x, targets = torch.randn(30, 6, dtype=D), torch.randn(30, 1, dtype=D)
    line = nn.Linear(6, 1, bias=False, dtype=D)
    found = matrix_of(of(line, F.mse_loss, (x, targets)))
    torch.testing.assert_close(found, 2 * x.mT @ x / 30)
    softmax = nn.Linear(6, 3, bias=False, dtype=D)
    labels = torch.randint(3, (30,))
    found = matrix_of(of(softmax, F.cross_entropy, (x, labels)))
    p = softmax(x).softmax(dim=1).detach()
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nab,ni,nj->aibj", middle, x, x).reshape(18, 18) / 30
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("mode", ["graph", "forward-over-reverse"])
@pytest.mark.parametrize("network", list(NETWORKS))
def test_gauss_newton(network: str, mode: Any) -> None:
    build, draw = NETWORKS[network]
    model, (x, y) = build().eval(), draw()
    names = [n for n, _ in model.named_parameters()]
    own = {n: p.detach() for n, p in model.named_parameters()}
    jacobian = torch.func.jacrev(lambda w: torch.func.functional_call(model, w, (x,)))(own)
    j = torch.cat([jacobian[n].flatten(2) for n in names], dim=2)
    p = model(x).softmax(dim=1).detach()
    middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    expected = torch.einsum("nai,nab,nbj->ij", j, middle, j) / len(x)
    found = matrix_of(GaussNewton(model, F.cross_entropy, (x, y), mode=mode))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_a_restricted_hessian_is_a_submatrix(mode: Any) -> None:
    model, (x, y) = mlp(), rows()
    full = dense(model, F.cross_entropy, x, y)
    unrestricted = Hessian(model, F.cross_entropy, (x, y), mode=mode)
    places, start = {}, 0
    for name, p in model.named_parameters():
        places[name] = list(range(start, start + p.numel()))
        start += p.numel()
    selected = ["4.bias", "0.weight"]  # in any order: the result follows parameters()
    index = torch.tensor(places["0.weight"] + places["4.bias"])
    for restricted in (
        Hessian(model, F.cross_entropy, (x, y), mode=mode, parameters=selected),
        unrestricted.restricted(lambda name, _: name in selected),
    ):
        assert list(restricted.shapes) == ["0.weight", "4.bias"]
        found = matrix_of(restricted)
        torch.testing.assert_close(found, full[index][:, index], rtol=1e-9, atol=1e-12)
    layers = unrestricted.layers()
    assert list(layers) == ["0", "1", "4", "6", "7"]
    index = torch.tensor(places["1.weight"] + places["1.bias"])
    torch.testing.assert_close(
        matrix_of(layers["1"]), full[index][:, index], rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("mode", MODES)
def test_frozen_parameters_have_no_dimension(mode: Any) -> None:
    model, (x, y) = mlp(), rows()
    model[0].weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    hessian = Hessian(model, F.cross_entropy, (x, y), mode=mode)
    expected = dense(model, F.cross_entropy, x, y)
    torch.testing.assert_close(matrix_of(hessian), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["reverse-over-reverse", "forward-over-reverse", "auto"])
def test_batchnorm_by_the_batch(mode: Any) -> None:
    model, (x, y) = mlp(), rows(10)
    found = matrix_of(Hessian(model, F.cross_entropy, (x, y), batchnorm="batch", mode=mode))
    normalised = mlp()
    normalised.load_state_dict(model.state_dict())
    normalised.eval()
    for module in normalised.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean = module.running_var = None

    # torch.func.hessian is wrong here (torch 2.14), so by central differences of the gradient.
    weights = list(normalised.parameters())
    w = nn.utils.parameters_to_vector(weights).detach()

    def gradient(at: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(at, weights)
        loss = F.cross_entropy(normalised(x), y)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, weights)])

    steps = 1e-5 * torch.eye(len(w), dtype=D)
    expected = torch.stack([(gradient(w + e) - gradient(w - e)) / 2e-5 for e in steps])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    frozen = matrix_of(Hessian(model, F.cross_entropy, (x, y)))
    assert float((frozen - found).norm()) > 0.1 * float(found.norm())
    assert model[1].running_mean is not None


def test_auto_captures_known_modules_and_times_the_others() -> None:
    model, data = shaken(Traceable()), images()
    hessian = Hessian(model, F.cross_entropy, data)
    hessian(torch.randn(hessian.dimension, dtype=D))
    assert set(hessian.timings) == {"graph", "graph, channels last"}
    other = Hessian(shaken(Residual()), F.cross_entropy, data)
    other(torch.randn(other.dimension, dtype=D))
    assert set(other.timings) == {"reverse-over-reverse", "forward-over-reverse"}


def test_batchnorm_is_folded_if_one_layer_reads_it() -> None:
    names = [type(s.rule).__name__ for s in capture(shaken(Traceable()).eval()).steps]
    assert names == [
        *("Convolution", "Convolution", "Smooth", "Add", "Scale", "ReLU", "Convolution", "ReLU"),
        *("Convolution", "Convolution", "Add", "Smooth", "MaxPool", "SampleWise", "SampleWise"),
        "LinearLayer",
    ]


@pytest.mark.parametrize("name", ["resnet20", "vgg16_bn", "vgg16", "convnet", "mlp", "wrn28x10"])
def test_the_projects_networks_are_captured(name: str) -> None:
    width = 0.02 if name == "wrn28x10" else 0.1
    model = build(name, num_classes=10, channels=3, size=(32, 32), width=width)
    model = shaken(model)
    x, y = torch.randn(3, 3, 32, 32, dtype=D), torch.randint(10, (3,))
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=D)
    found = Hessian(model, F.cross_entropy, (x, y), mode="graph")(v)
    expected = Hessian(model, F.cross_entropy, (x, y), mode="reverse-over-reverse")(v)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8 * float(expected.norm()))


def test_float32_and_channels_last() -> None:
    # Not the network above: with so few channels oneDNN's gradient of a strided 1x1 convolution
    # overruns its memory in channels_last (torch 2.14).
    model = shaken(build("resnet20", num_classes=3, channels=3, size=(8, 8), width=0.5))
    x, y = torch.randn(7, 3, 8, 8, dtype=D), torch.randint(3, (7,))
    v = torch.randn(sum(p.numel() for p in model.parameters()), dtype=D)
    exact = Hessian(model, F.cross_entropy, (x, y))(v)
    single = Hessian(
        model.to(memory_format=torch.channels_last), F.cross_entropy, (x, y), dtype=torch.float32
    )
    found = single(v.float())
    assert found.dtype == torch.float32
    assert float((found.double() - exact).norm()) < 1e-5 * float(exact.norm())
    check = single.check()
    assert check.difference < 1e-6
    assert check.asymmetry < 1e-6
    wider = Hessian(model.float(), F.cross_entropy, (x.float(), y), dtype=D)
    assert wider(v).dtype == D


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_float32_eigenpairs_are_float64_eigenpairs_without_kinks(layout: Any) -> None:
    # With kinks they may differ: the side of a kink depends on rounding.
    model = shaken(
        nn.Sequential(
            *(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Softplus(), nn.Flatten()),
            nn.Linear(72, 3),
        )
    )
    x, y = images(20)
    exact = Hessian(model, F.cross_entropy, (x, y), mode="reverse-over-reverse")
    single = Hessian(
        model.to(memory_format=layout), F.cross_entropy, (x, y), dtype=torch.float32, mode="graph"
    )
    pairs = top_eigenpairs(single, 5, tol=1e-5)
    assert pairs.converged
    for row, value in zip(pairs.vectors.double(), pairs.values):
        assert float((exact(row) - value * row).norm()) < 2e-5 * float(value)


class Once(torch.autograd.Function):
    """A square without a second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * g


class Wrong(torch.autograd.Function):
    """A function with a wrong derivative, which is no gradient of any function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x.roll(1, dims=-1) * g


class With(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5, dtype=D), nn.Linear(5, 3, dtype=D)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


def test_operations_without_a_second_derivative_are_named() -> None:
    with pytest.raises(TypeError, match=r"^Once cannot be differentiated twice"):
        Hessian(With(Once.apply), F.cross_entropy, rows())(torch.zeros(43, dtype=D))
    with pytest.raises(ValueError, match=r"not symmetric.*second derivative"):
        Hessian(With(Wrong.apply), F.cross_entropy, rows(), mode="reverse-over-reverse")(
            torch.zeros(43, dtype=D)
        )


def test_randomness_and_infinite_losses_are_refused() -> None:
    def noisy(x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True) ** 2

    with pytest.raises(ValueError, match=r"same vector differ by .* randomness"):
        Hessian(With(noisy), F.cross_entropy, rows())(torch.zeros(43, dtype=D))
    x, y = rows()
    x[4] = torch.inf
    with pytest.raises(ValueError, match="mean loss is nan"):
        Hessian(mlp(), F.cross_entropy, [(x[:2], y[:2]), (x[2:], y[2:])])(torch.zeros(79, dtype=D))


class Shifting:
    """Data that is augmented differently in every pass."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.rand(5, 4, dtype=D), torch.arange(5) % 3


def test_wrong_input() -> None:
    model, data = mlp(), rows()
    with pytest.raises(ValueError, match="two passes over the data differ"):
        Hessian(model, F.cross_entropy, Shifting())
    with pytest.raises(
        ValueError, match=r"9\.weight is not a trainable parameter: use some of 0\."
    ):
        Hessian(model, F.cross_entropy, data, parameters=["9.weight"])
    with pytest.raises(ValueError, match="no parameter is selected"):
        Hessian(model, F.cross_entropy, data, parameters=lambda name, p: False)
    with pytest.raises(ValueError, match="batchnorm must be"):
        Hessian(model, F.cross_entropy, data, batchnorm="train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown mode 'backward'"):
        Hessian(model, F.cross_entropy, data, mode="backward")(torch.zeros(79, dtype=D))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="79 dimensions"):
        Hessian(model, F.cross_entropy, data)(torch.zeros(3, dtype=D))
    with pytest.raises(TypeError, match=r"function amax|amax is not known|amax"):
        Hessian(shaken(Residual()), F.cross_entropy, images(), mode="graph")(
            torch.zeros(293, dtype=D)
        )
    with pytest.raises(Uncaptured, match="normalises by the batch"):
        capture(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval())


def test_a_single_sample_cannot_be_normalised() -> None:
    x, y = rows(9)
    with pytest.raises(ValueError, match="a batch of one sample cannot be normalised"):
        Hessian(mlp(), F.cross_entropy, list(zip(x.split(4), y.split(4))), batchnorm="batch")


@pytest.mark.gpu
def test_products_on_cuda_are_those_of_the_cpu_under_tf32() -> None:
    model = build("resnet20", num_classes=10, channels=3, size=(32, 32), width=0.5).eval()
    x, y = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    v = torch.randn(sum(p.numel() for p in model.parameters()))
    expected = Hessian(model, F.cross_entropy, (x, y), dtype=D)(v.double())
    torch.set_float32_matmul_precision("high")  # cuDNN allows TF32 by default
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the captured network is not refused
            hessian = Hessian(model.cuda(), F.cross_entropy, (x, y))
            found = hessian(v.cuda())
        assert set(hessian.timings) == {"graph", "graph, channels last"}
        error = float((found.cpu().double() - expected).norm() / expected.norm())
        assert error < 2e-3  # ReLUs at their kinks; with TF32 it is 5e-2
    finally:
        torch.set_float32_matmul_precision("highest")
