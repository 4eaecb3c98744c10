"""A network of every family through save and the engine, against torch in float32 and float64."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import measure
from suites import SUITES, build, family, names

pytestmark = pytest.mark.slow


class UNet(nn.Module):
    """Skip connections around transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.middle = (
            self._block(3, 8),
            self._block(8, 16),
            self._block(16, 32),
        )
        self.up_first, self.up_second = (nn.ConvTranspose2d(2 * n, n, 2, 2) for n in (16, 8))
        self.third, self.fourth = self._block(32, 16), self._block(16, 8)
        self.head = nn.Conv2d(8, 4, 1)

    def _block(self, inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs),
                             nn.ReLU(inplace=True))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = self.second(nn.functional.max_pool2d(a, 2))
        y = self.up_first(self.middle(nn.functional.max_pool2d(b, 2)))
        y = self.up_second(self.third(torch.cat([y, b], 1)))
        return self.head(self.fourth(torch.cat([y, a], 1)))  # type: ignore[no-any-return]


class Detector(nn.Module):
    """Boxes and classes on the grids of two scales, joined, beside the raw maps of every scale."""

    anchors: Tensor

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes
        widths = (16, 32)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.SiLU())
        self.heads = nn.ModuleList(nn.Conv2d(width, 2 * (5 + classes), 1) for width in widths)
        self.register_buffer(
            "anchors", torch.tensor([[[10.0, 13], [16, 30]], [[33, 23], [30, 61]]])
        )

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        first = self.stem(x)
        decoded, raw = [], []
        for i, (head, maps) in enumerate(zip(self.heads, (first, self.down(first)))):
            batch, _, height, width = maps.shape
            y = head(maps).view(batch, 2, 5 + self.classes, height, width).permute(0, 1, 3, 4, 2)
            rows, columns = torch.meshgrid(
                torch.arange(height), torch.arange(width), indexing="ij"
            )
            grid = torch.stack([columns, rows], -1).to(y)
            stride = x.shape[2] // height
            centres, sizes, rest = y.contiguous().sigmoid().split((2, 2, 1 + self.classes), 4)
            centres = (centres * 2 - 0.5 + grid) * stride
            sizes = (sizes * 2) ** 2 * self.anchors[i].view(1, 2, 1, 1, 2)
            decoded.append(torch.cat([centres, sizes, rest], -1).flatten(1, 3))
            raw.append(y)
        boxes = torch.cat(decoded, 1)
        scores, labels = (boxes[..., 4:5] * boxes[..., 5:]).max(-1)
        return {"boxes": boxes[..., :4], "scores": scores, "labels": labels, "raw": raw}


WRITTEN = {"U-Net": UNet, "detector": Detector}


def check(row: dict[str, Any]) -> None:
    """Within 1e-4 of torch, or within four times torch's own distance of float64."""
    assert row["outcome"] == "ok", row


def smallest(suite: str) -> list[str]:
    """The first network of every family; torchvision's classifiers are sorted by size."""
    if suite != "torchvision":
        return names(suite)
    return list({family(name): name for name in reversed(names(suite))}.values())


@pytest.mark.parametrize(
    ("suite", "name"), [(suite, name) for suite in SUITES for name in smallest(suite)]
)
def test_a_network_of_every_family(suite: str, name: str) -> None:
    pytest.importorskip(suite.partition(" ")[0])
    torch.manual_seed(0)
    check(measure(*build(suite, name)))


@pytest.mark.parametrize("name", WRITTEN)
def test_networks_as_people_write_them(name: str) -> None:
    torch.manual_seed(0)
    check(measure(WRITTEN[name](), lambda batch: torch.randn(batch, 3, 64, 64)))
