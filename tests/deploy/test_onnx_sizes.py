"""ONNX files with named sizes, run by ONNX Runtime at several of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deploy.test_dynamic_shrinking import ENDS_AND_BETWEEN, cases, network, without_channels
from deploy.test_dynamic_sizes import CASES, call, inputs_of
from dirprune.deploy import export_onnx

pytest.importorskip("onnx", reason="pip install dirprune[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install dirprune[onnx]")


@torch.no_grad()
def check(model: nn.Module, example: Any, dynamic: Any, path: Path) -> Any:
    written = export_onnx(model, path, example, dynamic)
    assert written.difference is not None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    for part, batch in ENDS_AND_BETWEEN:
        inputs = inputs_of(example, dynamic, part, batch)
        given = {
            key if isinstance(key, str) else names[key]: x.numpy() for key, x in inputs.items()
        }
        outputs = session.run(None, given)
        for found, wanted in zip(outputs, call(model, inputs), strict=True):
            torch.testing.assert_close(torch.as_tensor(found), wanted, rtol=1e-4, atol=1e-5)
    return session


@pytest.mark.parametrize("name", cases())
def test_one_file_works_for_all_sizes(name: str, tmp_path: Path) -> None:
    make, example, dynamic = CASES[name]
    model = without_channels(make(), 0.2)
    session = check(model, example, dynamic, tmp_path / "m.onnx")
    if name == "pyramid":
        assert session.get_inputs()[0].shape == ["batch", 3, "x.2", "x.3"]


def _pool(kind: Any, *arguments: Any, **options: Any) -> Callable[..., Tensor]:
    return lambda x, conv: kind(conv(x), *arguments, **options)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "average over windows": _pool(F.adaptive_avg_pool2d, (3, 2)),
    "average to half": lambda x, conv: F.adaptive_avg_pool2d(x, (x.shape[2] // 2, 3)),
    "largest of windows": _pool(F.adaptive_max_pool2d, (3, 5)),
    "hanging maximum": _pool(F.max_pool2d, 3, 2, 1, ceil_mode=True),
    "hanging average": _pool(F.avg_pool2d, 3, 2, 0, ceil_mode=True),
    "hanging average, padded": _pool(F.avg_pool2d, 3, 2, 1, ceil_mode=True),
    "hanging average, real elements": _pool(
        F.avg_pool2d, 4, 3, 1, ceil_mode=True, count_include_pad=False
    ),
    "average": _pool(F.avg_pool2d, 3, 2, 1, count_include_pad=False),
    "nearest": lambda x, conv: F.interpolate(conv(x), (x.shape[2] + 3, 2 * x.shape[3] - 1)),
    "nearest, doubled": _pool(F.interpolate, scale_factor=2),
    "bilinear": lambda x, conv: F.interpolate(
        conv(x), (x.shape[2] * 2, x.shape[3] // 2), mode="bilinear"
    ),
    "layer norm of maps": lambda x, conv: F.layer_norm(conv(x), x.shape[2:]),
    "scaled by a size": lambda x, conv: conv(x) / x.shape[2] + x.shape[3] ** 0.5,
    "padded to a multiple": lambda x, conv: conv(
        F.pad(x, (0, -x.shape[3] % 4, 0, (8 - x.shape[2] % 8) % 8), value=1.0)
    ),
    "rolled": lambda x, conv: conv(x).roll((1, 2), (2, 3)),
    "the last half": lambda x, conv: conv(x)[:, :, -(x.shape[2] // 2) :, 1::2],
    "sorted": lambda x, conv: conv(x).sort(-1, descending=True)[0],
    "places": lambda x, conv: conv(x) + torch.arange(x.shape[3]) / x.shape[3],
    "clamped": lambda x, conv: conv(x).clamp(1 / x.shape[2], x.shape[3] / 20),
    "raised to a size": lambda x, conv: conv(x).sigmoid() ** (x.shape[2] / 8),
    "mirrored": lambda x, conv: conv(x.flip(2, 3)).unfold(3, 3, 2).mean(2),
    "one line": lambda x, conv: conv(x).flatten(2).softmax(-1).transpose(1, 2),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_at_all_sizes(name: str, tmp_path: Path) -> None:
    model = network(OPERATORS[name], conv=nn.Conv2d(3, 4, 3, padding=1))
    dynamic = {"x": {2: (5, 40), 3: (6, 33)}}
    check(model, torch.randn(2, 3, 12, 16), dynamic, tmp_path / "m.onnx")
