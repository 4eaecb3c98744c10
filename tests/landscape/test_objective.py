"""Points and objectives: exact means over batches of different sizes, and an unchanged model."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector

from dirprune.landscape import FrozenData, Hessian, Objective, ParameterLayout
from dirprune.landscape.objectives.policy import BatchNormStatistics

D = torch.float64


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3)
    )


def examples(count: int = 23) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 4), torch.randint(3, (count,))


def test_a_point_is_the_vector_of_the_parameters() -> None:
    model = network()
    layout = ParameterLayout(model)
    point = layout.point(model.state_dict())
    assert torch.equal(point.w, parameters_to_vector(model.parameters()))
    assert point.rest.keys() == {f"1.{n}" for n, _ in model[1].named_buffers()}
    again = network()
    again.load_state_dict(layout.state(point))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_frozen_and_shared_parameters() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
            self.b.weight = self.a.weight
            self.c.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.b(self.a(x)))

    model = Shared()
    layout = ParameterLayout(model)
    point = layout.point(model.state_dict())
    assert layout.size == 9 + 3 + 3
    assert point.rest.keys() == {"c.weight", "c.bias"}
    assert layout.state(point).keys() == model.state_dict().keys()
    other = layout.point({n: t + 1 for n, t in model.state_dict().items()})
    with pytest.raises(ValueError, match=r"c\.bias is not trainable but differs between a and b"):
        layout.check_distinct({"a": point, "b": other})


def test_points_that_do_not_fit_are_refused() -> None:
    model = network()
    layout, state = ParameterLayout(model), model.state_dict()
    with pytest.raises(ValueError, match=r"SGD belongs to another model: 4\.bias has shape none"):
        layout.point({n: t for n, t in state.items() if n != "4.bias"}, "SGD")
    with pytest.raises(ValueError, match=r"extra has shape \(1,\), the model's none"):
        layout.point(state | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"0\.weight has shape \(6, 5\), the model's \(6, 4\)"):
        layout.point(state | {"0.weight": torch.zeros(6, 5)})
    with pytest.raises(ValueError, match=r"2 weights of 0\.bias are NaN or infinite"):
        layout.point(state | {"0.bias": torch.tensor([0, 1, torch.nan, torch.inf, 0, 0])})
    with pytest.raises(TypeError, match="Linear: give a state dict"):
        layout.point(nn.Linear(1, 1))  # type: ignore[arg-type]
    point = layout.point(state)
    with pytest.raises(ValueError, match="x and y are the same point"):
        layout.check_distinct({"x": point, "y": layout.point(state)})
    with pytest.raises(ValueError, match="no trainable parameter"):
        ParameterLayout(nn.ReLU())
    with pytest.raises(ValueError, match="63 trainable weights"):
        layout.tensors(torch.zeros(5))


@pytest.mark.parametrize("sizes", [[23], [7, 7, 7, 2], [1, 22], [1] * 23])
def test_the_mean_does_not_depend_on_the_batches(sizes: list[int]) -> None:
    model, (x, y) = network(), examples()
    model(x)  # running statistics that are not the initial ones
    model.eval()
    expected = F.cross_entropy(model.double()(x.double()), y).item()
    wrong = int((model(x.double()).argmax(1) != y).sum())
    objective = Objective(model, F.cross_entropy, list(zip(x.split(sizes), y.split(sizes))))
    measured = objective(objective.layout.point(model.state_dict()))
    assert measured.loss == pytest.approx(expected, rel=1e-13)
    assert measured.error == wrong / 23


def test_the_model_stays_as_it_was() -> None:
    model, data = network(), examples()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    addresses = [p.data_ptr() for p in model.parameters()]
    objective = Objective(model, F.cross_entropy, data, dtype=torch.float64)
    objective(objective.layout.point({n: t + 1 for n, t in before.items()}))
    assert [m.training for m in model.modules()] == modes
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_regression_and_dense_classes() -> None:
    x = torch.randn(6, 2)
    objective = Objective(nn.Linear(2, 3), F.mse_loss, (x, torch.randn(6, 3)))
    assert objective.measure().error is None
    soft = Objective(nn.Linear(2, 3), F.cross_entropy, (x, torch.rand(6, 3)))
    assert soft.measure().error is None
    image = torch.randn(2, 3, 4, 4)
    pixels = Objective(nn.Conv2d(3, 5, 1), F.cross_entropy, (image, torch.zeros(2, 4, 4).long()))
    outputs = pixels.model(image)
    share = (outputs.argmax(1) != 0).double().mean().item()
    assert pixels.measure().error == pytest.approx(share)


def test_data_that_is_not_frozen_is_refused() -> None:
    x, y = examples(8)

    class Noisy:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield x + torch.rand(1), y

    class Shrinking:
        left = 3

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.left -= 1
            return iter([(x, y)] * self.left)

    shuffled = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=4, shuffle=True
    )
    for data in (Noisy(), shuffled):
        with pytest.raises(ValueError, match=r"inputs of batch 0 by up to [\d.]+; turn shuffling"):
            FrozenData(data)
    with pytest.raises(ValueError, match="differ in length, one ends after 1 batches"):
        FrozenData(Shrinking())
    with pytest.raises(ValueError, match="the data is empty"):
        FrozenData([])
    with pytest.raises(ValueError, match="the data is empty"):
        FrozenData((x[:0], y[:0]))
    with pytest.raises(TypeError, match="a generator can be read only once"):
        FrozenData(batch for batch in [(x, y)])
    with pytest.raises(TypeError, match="pair"):
        FrozenData([x, x, x])
    with pytest.raises(ValueError, match="8 inputs and 7 targets"):
        FrozenData((x, y[:7]))
    with pytest.raises(ValueError, match="batch 0 has 8 inputs and 7 targets"):
        FrozenData([(x, y[:7])])


def test_the_digest_differs_for_different_data() -> None:
    x, y = examples()
    one = FrozenData((x, y))
    assert one.digest == FrozenData((x.clone(), y.clone())).digest
    assert one.digest != FrozenData((x, y), batch_size=5).digest
    assert one.digest != FrozenData((x, (y + 1) % 3)).digest


def test_losses_that_cannot_be_averaged_are_refused() -> None:
    model, data = network(), examples()
    with pytest.raises(ValueError, match="give a mean"):
        Objective(model, nn.CrossEntropyLoss(reduction="sum"), data)
    with pytest.raises(TypeError, match=r"one number, got \(23,\)"):
        Objective(model, nn.CrossEntropyLoss(reduction="none"), data)
    with pytest.raises(TypeError, match=r"an nn\.Module"):
        Objective(lambda x: x, F.mse_loss, data)  # type: ignore[arg-type]
    objective = Objective(model, F.cross_entropy, (data[0] * torch.nan, data[1]))
    with pytest.raises(ValueError, match="loss at the SGD end is nan"):
        objective(objective.layout.point(model.state_dict()), "the SGD end")


class TwoInputs(nn.Module):
    """A network of two arguments, with a term that only one of them has."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 4, dtype=D), nn.Linear(3, 4, dtype=D)
        self.norm, self.head = nn.BatchNorm1d(4, dtype=D), nn.Linear(4, 3, dtype=D)

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.a(u) + self.b(v))))


@pytest.mark.parametrize("by_name", [False, True])
def test_models_of_several_inputs(by_name: bool) -> None:
    u, v, y = torch.randn(9, 2, dtype=D), torch.randn(9, 3, dtype=D), torch.randint(3, (9,))
    parts = zip(u.split(4), v.split(4), y.split(4))
    data = [({"v": b, "u": a} if by_name else (a, b), c) for a, b, c in parts]
    model = TwoInputs().eval()
    names, weights = zip(*model.named_parameters())
    parameters = tuple(w.detach() for w in weights)

    def loss(*changed: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, dict(zip(names, changed)), (u, v)), y)

    blocks = torch.autograd.functional.hessian(loss, parameters)
    rows = [[b.reshape(p.numel(), -1) for b in row] for row, p in zip(blocks, parameters)]
    expected = torch.cat([torch.cat(row, dim=1) for row in rows])
    for mode in ("reverse-over-reverse", "forward-over-reverse", "auto"):
        hessian = Hessian(model, F.cross_entropy, data, mode=mode)  # type: ignore[arg-type]
        found = torch.stack([hessian(e) for e in torch.eye(hessian.dimension, dtype=D)])
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    with pytest.raises(TypeError, match="several inputs is not captured"):
        Hessian(model, F.cross_entropy, data, mode="graph")(found[0])
    objective = Objective(model, F.cross_entropy, data)
    assert objective.measure().loss == pytest.approx(loss(*parameters).item(), rel=1e-12)
    point = objective.layout.point(model.state_dict())
    BatchNormStatistics(objective, "refresh", [point]).load(point.w, [1.0])
    sums = [model.a(a) + model.b(b) for a, b in zip(u.split(4), v.split(4))][:2]
    mean = torch.stack([s.mean(0) for s in sums]).mean(0)  # the last batch has one sample
    torch.testing.assert_close(objective.model.norm.running_mean, mean.detach())
    one_pair = FrozenData(((u, v), y), batch_size=4)
    assert (one_pair.samples, one_pair.batches) == (9, 3)
    with pytest.raises(ValueError, match="batch 0 has 2 inputs and 4 targets"):
        FrozenData([((u[:4], v[:2]), y[:4])])


def test_data_with_missing_values_is_the_same_in_two_passes() -> None:
    x, y = torch.randn(6, 2), torch.randn(6, 1)
    y[0] = torch.nan
    fresh = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets)[~targets.isnan()].square().mean()

    model = nn.Linear(2, 1)
    expected = (model(x[1:]) - y[1:]).square().mean().item()
    assert Objective(model, loss, fresh).measure().loss == pytest.approx(expected, rel=1e-5)


def test_a_loss_is_computed_in_the_dtype_of_the_objective() -> None:
    x, y = examples()
    weight = torch.tensor([0.5, 1.0, 2.0])
    exact = F.cross_entropy(nn.Identity()(x[:, :3].double()), y, weight.double())
    model = nn.Linear(4, 3, bias=False)
    nn.init.eye_(model.weight)
    for loss in (nn.CrossEntropyLoss(weight), partial(F.cross_entropy, weight=weight)):
        found = Objective(model, loss, (x, y), dtype=D).measure().loss
        assert found == pytest.approx(float(exact), rel=1e-13)
    half = nn.CrossEntropyLoss(weight.bfloat16())
    assert Objective(model.bfloat16(), half, (x, y)).measure().loss == pytest.approx(
        float(exact), rel=1e-5
    )
    assert half.weight.dtype == torch.bfloat16


def test_the_arithmetic_has_the_widest_dtype_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3).double())
    objective = Objective(model, F.cross_entropy, examples())
    assert objective.layout.dtype == D
    plain = nn.Sequential(*model).double()
    expected = Objective(plain, F.cross_entropy, objective.data).measure()
    assert objective.measure() == expected


def test_sparse_gradients_and_extra_state() -> None:
    class Counting(nn.Embedding):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 3}

        def set_extra_state(self, state: dict[str, int]) -> None: ...

    x, y = torch.randint(5, (7, 2)), torch.randint(3, (7,))
    plain = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(4, 3))
    other = nn.Sequential(Counting(5, 2, sparse=True), nn.Flatten(), nn.Linear(4, 3))
    other.load_state_dict(plain.state_dict(), strict=False)
    first, second = (Hessian(m, F.cross_entropy, (x, y)) for m in (plain, other))
    v = torch.randn(first.dimension)
    torch.testing.assert_close(second(v), first(v))
    points = [ParameterLayout(m).point(m.state_dict()) for m in (plain, other)]
    assert torch.equal(points[0].w, points[1].w)


def test_unsuitable_models_and_data_are_named() -> None:
    x, y = examples()
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet"):
        Objective(nn.Sequential(nn.LazyLinear(3)), F.cross_entropy, (x, y))
    complex_model = nn.Linear(4, 3, dtype=torch.complex64)
    with pytest.raises(TypeError, match="weight is complex"):
        Objective(complex_model, F.cross_entropy, (x, y))
    with pytest.raises(TypeError, match="a TensorDataset does not consist of batches"):
        FrozenData(torch.utils.data.TensorDataset(x, y))
    with pytest.raises(TypeError, match=r"pair .*got a ndarray"):
        FrozenData((x.numpy(), y.numpy()))
