"""Places: from the end, of tables, of rows merged with the batch, one of each sample, none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deploy.test_coverage import Written, outputs
from dirprune.deploy import capture, shrink


def from_the_end(m: Any, x: Tensor) -> Tensor:
    places = (x[:, :, 0] > 0).int().argmax(-1) - 1
    return x[torch.arange(x.shape[0]), places]


def of_later_dimensions(m: Any, x: Tensor) -> Tensor:
    """The selected places come first, wherever their dimension was."""
    every = torch.arange(x.shape[0])
    last, maps = x.mean(1).argmax(-1), x.view(-1, 5, 2, 2)
    parts = [x[every, :, last], x[every[:, None], :, torch.stack([last, last - 1], 1)],
             x[every[:, None], :, torch.tensor([2, 0])], maps[every, :, :, last % 2]]  # fmt: skip
    return torch.cat([part.flatten(1) for part in parts], 1)


def written(m: Any, x: Tensor) -> Tensor:
    every, places = torch.arange(x.shape[0]), (x[:, :, 0] > 0).int().argmax(-1) - 1
    y, ends = x.clone(), torch.zeros(x.shape[:2])
    y[every, places] = 2 * x[:, 0]
    ends[every, places] = 1.0
    more = x.index_put((every, places), x[:, 1], accumulate=True)
    return torch.cat([y, more, ends.flip(-1).cumsum(-1)[..., None].expand_as(x)], 1)


def tables(m: Any, x: Tensor) -> Tensor:
    places = (2 * x[..., 0]).long().clamp(-4, 3)
    rows = m.table.index_select(0, places.abs().clamp(max=3).view(-1)).view(*places.shape, -1)
    columns = m.wide.index_select(1, places.abs().view(-1)).view(2, *places.shape).transpose(0, 1)
    parts = [rows, m.table[places], m.maps[places], m.bias[places], columns]
    parts += [m.maps.permute(1, 0, 2)[:, places].transpose(0, 1), m.wide[:, places].sum(0)]
    return torch.cat([part.reshape(x.shape[0], -1) for part in parts], 1)


def merged_rows(m: Any, x: Tensor) -> Tensor:
    batch, rows, columns = x.shape
    flat = x.reshape(batch * rows, columns)
    every = torch.arange(batch * rows)[:, None, None]
    return flat[every, torch.arange(columns - 1)].view(batch, rows, -1)


def none_at_all(m: Any, x: Tensor) -> Tensor:
    return torch.cat([x, m.registers.expand(x.shape[0], -1, -1), x[:, :1]], 1)


CASES = {
    "from the end": lambda: Written(from_the_end),
    "of later dimensions": lambda: Written(of_later_dimensions),
    "written": lambda: Written(written),
    "tables": lambda: Written(tables, table=nn.Parameter(torch.randn(4, 3)),
                              maps=nn.Parameter(torch.randn(4, 2, 3)),
                              bias=nn.Parameter(torch.randn(4)),
                              wide=nn.Parameter(torch.randn(2, 5))),
    "merged rows": lambda: Written(merged_rows),
    "none at all": lambda: Written(none_at_all, registers=nn.Parameter(torch.randn(1, 0, 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_places(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CASES[name]().eval()
    example, x = torch.randn(2, 5, 4), torch.randn(7, 5, 4)
    expected, found, net = outputs(model, example, x, tmp_path / "m.dpz")
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(shrink(net, example)(x), expected.float(), rtol=1e-6, atol=1e-6)


def test_places_along_the_batch_are_refused() -> None:
    def pooled(m: Any, x: Tensor) -> Tensor:
        flat = x.reshape(-1)
        return torch.zeros_like(flat).scatter_reduce(0, (flat > 0).long(), flat, "mean")

    with pytest.raises(ValueError, match="it works along the batch"):
        capture(Written(pooled), torch.ones(2, 3))
