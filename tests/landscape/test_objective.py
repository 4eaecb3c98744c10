"""Points and objectives: exact means over batches of different sizes, and an unchanged model."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from dirprune.landscape import FrozenData, Objective, ParameterLayout


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
