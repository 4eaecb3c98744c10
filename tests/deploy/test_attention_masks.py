"""Queries that see no key, as those of padding on the left do, give zeros as torch's do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.test_coverage import Written
from dirprune.deploy import Engine, capture, export_onnx, save, shrink

KEPT = torch.ones(5, 5).tril().bool()
UNSEEN = KEPT & (torch.arange(5)[:, None] != 2)


def attend(x: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x, attn_mask=mask)


def as_numbers(mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)


MASKS: dict[str, Any] = {
    "constant": lambda m, x, seen: attend(x, m.unseen),
    "constant numbers": lambda m, x, seen: attend(x, m.numbers),
    "constant of half precision": lambda m, x, seen: attend(x, m.short.to(x.dtype)),
    "of the input": lambda m, x, seen: attend(attend(x, m.kept & seen[:, None]), seen[:, None]),
    "numbers of the input": lambda m, x, seen: attend(
        x[:, None], as_numbers(m.kept & seen[:, None])[:, None]
    )[:, 0],
}


@pytest.mark.parametrize("name", MASKS)
@torch.no_grad()
def test_a_query_without_keys(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Written(
        MASKS[name],
        kept=nn.Buffer(KEPT),
        unseen=nn.Buffer(UNSEEN),
        numbers=nn.Buffer(as_numbers(UNSEEN)),
        short=nn.Buffer(as_numbers(UNSEEN).half()),
    ).eval()
    x, seen = torch.randn(3, 5, 4), torch.ones(3, 5, dtype=torch.bool)
    example = (x[:2], seen[:2])
    save(model, tmp_path / "m.dpz", example)
    seen = seen.clone()
    seen[0, :3], seen[1] = False, False
    expected = model.double()(x.double(), seen).float()
    model.float()
    assert expected.isfinite().all()
    found = Engine(tmp_path / "m.dpz", threads=1, tune=False)(x.numpy(), seen.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shrink(model, example)(x, seen), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_layers_of_a_network_reduce_their_mask_once() -> None:
    def twice(m: Any, x: Tensor, seen: Tensor) -> Tensor:
        mask = seen[:, None]
        return attend(attend(x, mask), mask)

    graph = capture(Written(twice), (torch.ones(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)))
    assert [node.op for node in graph.nodes].count("amax") == 1


@torch.no_grad()
def test_onnx_files_give_zeros_too(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = Written(MASKS["of the input"], kept=nn.Buffer(KEPT))
    seen = torch.tensor([[True] * 5, [False] * 5])
    export_onnx(model, tmp_path / "m.onnx", (torch.randn(2, 5, 4), seen))  # which compares
