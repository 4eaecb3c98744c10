"""results/gpu: the step in a CUDA graph equals that of the library's optimizers."""

import csv
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dirprune import GRDA, SparsityPlan
from dirprune.models import build
from dirprune.train.config import TrainConfig
from dirprune.train.schedule import learning_rates

FOLDER = Path(__file__).parents[2] / "results" / "gpu"


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("images", "methods", "training", "run", "vgg", "between"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("method", ["dense", "p=1", "p=2"])
def test_a_step_equals_that_of_grda(method: str) -> None:
    from images import Images
    from training import Settings, Slot

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (32, 32, 32, 3), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(32) % 10, "cpu")
    settings = Settings("resnet20", 0.25, 2, 8, 0.9, 5e-4, "cosine", False)
    slot = Slot(method, settings, images, torch.arange(32))
    # With more zeros whole channels are zero: BatchNorm divides rounding errors by their variance.
    slot.begin(0.1, 3, sparsity=0.5)
    torch.manual_seed(3)
    model = build("resnet20", num_classes=10, width=0.25)
    model = model.to(memory_format=torch.channels_last)
    plan = SparsityPlan(0.5, slot.steps, minimum=0)
    planned = [p for p in model.parameters() if p.dim() > 1]
    dense = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": planned}, {"params": dense, "c": 0.0}]
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    if method == "dense":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
    else:
        power = float(method[2:])
        optimizer = GRDA(groups, lr=0.1, plan=plan, power=power, **options)
    rates = learning_rates(TrainConfig(lr=0.1, epochs=2, schedule="cosine"), 4)
    for step in range(5):
        slot.advance()
        places, dx, dy, flip = (t[8 * (step % 4) :][:8] for t in slot.order)
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.zero_grad()
        x = images.batch(places, dx, dy, flip > 0)
        F.cross_entropy(model(x), images.labels[places]).backward()
        optimizer.step()
    found = slot.state()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-4)
    if method != "dense":
        assert slot.sparsity_now() == pytest.approx(plan.sparsity_at(5), abs=1e-3)


def archive(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    with tarfile.open(path, "w:xz") as tar:
        for c in range(10):
            for i in range(8):
                buffer = io.BytesIO()
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(buffer, "JPEG")
                info = tarfile.TarInfo(f"part/class{c}/{i:04d}.jpg")
                info.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(info, buffer)


@pytest.mark.slow
def test_a_dry_run_writes_rows_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import methods
    import run

    for part, seed in (("train", 0), ("test", 1)):
        archive(tmp_path / f"cifar10-jpeg-{part}.tar.xz", seed)
    few = {name: methods.METHODS[name] for name in ("dense", "p=2", "gmp", "rigl", "acdc")}
    monkeypatch.setattr(run, "METHODS", few)
    out = tmp_path / "out"
    arguments = ["run.py", "--dry", "--data", str(tmp_path), "--out", str(out), "--threads", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    run.main()
    monkeypatch.setattr(run, "METHODS", {"dense": few["dense"]})
    run.main()
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == [*few, "dense"]
    assert [row["lr"] for row in rows] == ["0.1"] * 5 + ["0.2"]
    for row in rows:
        assert float(row["zeros"]) == pytest.approx(float(row["sparsity"]), abs=2e-3)
        assert 0 <= float(row["test"]) <= 1
    visit = out / "vgg16" / "1-epochs"
    with (visit / "vgg16.csv").open() as file:
        assert {row["method"] for row in csv.DictReader(file)} == {
            "sgd", "grda", "sgd, other batches",
        }  # fmt: skip
    with (visit / "landscape.csv").open() as file:
        assert {row["path"] for row in csv.DictReader(file)} == {
            "line", "line to the control", "curve",
        }  # fmt: skip
    with (visit / "plane.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 9
    with (visit / "projections.csv").open() as file:
        assert all(0 <= float(row["ratio"]) <= 1 for row in csv.DictReader(file))
    assert "done" in capsys.readouterr().out
