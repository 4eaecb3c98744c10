"""Exporting and measuring from the command line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dirprune import cli
from dirprune.bench import latency as bench
from dirprune.deploy import load
from dirprune.deploy.graph.module import GraphNet
from dirprune.models import build
from dirprune.train.trained import trained_network


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train = ["train", "--model", "mlp", "--width", "0.1", "--epochs", "2", "--c", "0.1"]
    assert cli.main([*train, "--out", str(folder)]) == 0
    return folder


def answers(net: torch.nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad():
        return net(torch.ones(3, *shape))


def test_a_run_is_exported(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.dpz"
    assert cli.main(["export", str(run), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "all layers" in printed
    assert str(out) in printed
    net, shape = trained_network(run)
    small = load(out)
    assert isinstance(small, GraphNet)
    torch.testing.assert_close(answers(small, shape), answers(net, shape), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())


def test_a_run_is_exported_with_other_weights(run: Path, tmp_path: Path) -> None:
    net, shape = trained_network(run)
    halved = {name: 0.5 * tensor for name, tensor in net.state_dict().items()}
    save_file(halved, tmp_path / "halved.safetensors")
    [checkpoint, *_] = sorted((run / "checkpoints").glob("*.safetensors"))
    for file in (tmp_path / "halved.safetensors", checkpoint):
        words = ["export", str(run), "--checkpoint", str(file), "-o", str(tmp_path / "m.dpz")]
        assert cli.main(words) == 0
        tensors = load_file(file)
        net.load_state_dict({n: tensors.get(f"model.{n}", tensors.get(n)) for n in halved})
        small = load(tmp_path / "m.dpz")
        assert isinstance(small, GraphNet)
        torch.testing.assert_close(
            answers(small, shape), answers(net, shape), rtol=1e-4, atol=1e-5
        )
    assert cli.main(["export", str(run), "--checkpoint", "gone", "-o", str(tmp_path / "x")]) == 2


def test_a_model_by_name_is_exported(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install dirprune[onnx]")
    model = build("convnet", num_classes=5, channels=3, size=(32, 32)).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    words = ["export", "convnet", "--checkpoint", str(tmp_path / "weights.safetensors")]
    words += ["--classes", "5", "--size", "32", "--out", str(tmp_path / "model.dpz")]
    assert cli.main([*words, "--onnx", str(tmp_path / "m.onnx"), "--values", "float16"]) == 0
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    [found] = session.run(None, {"input": np.ones((3, 3, 32, 32), np.float32)})
    expected = answers(model, (3, 32, 32))
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


def test_a_model_is_exported_for_several_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install dirprune[onnx]")
    model = build("resnet20", num_classes=5, channels=3, size=(32, 32)).eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    words = ["export", "resnet20", "--checkpoint", str(tmp_path / "weights.safetensors")]
    words += ["--classes", "5", "--out", str(tmp_path / "m.dpz")]
    assert cli.main([*words, "--height", "33"]) == 2
    assert "--height takes the lowest and the highest size" in capsys.readouterr().err
    assert cli.main([*words, "--width", "64,33"]) == 2
    assert "bounds of --width" in capsys.readouterr().err
    sizes = ["--height", "32,64", "--width", "28,60,4", "--onnx", str(tmp_path / "m.onnx")]
    assert cli.main([*words, *sizes]) == 0
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    small = load(tmp_path / "m.dpz")
    assert isinstance(small, GraphNet)
    for height, width in ((32, 28), (64, 60), (47, 36)):
        expected = answers(model, (3, height, width))
        torch.testing.assert_close(answers(small, (3, height, width)), expected)
        [found] = session.run(None, {"input": np.ones((3, 3, height, width), np.float32)})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="size 65 is not within 32 to 64"):
        answers(small, (3, 65, 60))


def test_bench_prints_and_saves(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def engine(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
        net = load(path)
        assert isinstance(net, GraphNet)
        return lambda x: net(torch.from_numpy(x)).detach().numpy()

    monkeypatch.setattr(bench, "_engine", engine)
    file, out = str(tmp_path / "model.dpz"), tmp_path / "bench.json"
    assert cli.main(["export", str(run), "--out", file]) == 0
    words = ["bench", file, "--vs", "torch", "--batch", "1,4", "--threads", "1", "--rounds", "2"]
    monkeypatch.setenv("COLUMNS", "50")
    capsys.readouterr()
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 50
    for part in ("dirprune f32", "batch 1, 1 thread", "batch 4, 1 thread", "quartiles", "zeros:"):
        assert part in printed
    assert cli.main([*words, "--out", str(out), "--break-even"]) == 0
    figures = json.loads(out.read_text())
    assert [(row["runtime"], row["batch"]) for row in figures["rows"]] == [
        ("dirprune", 1), ("torch", 1), ("dirprune", 4), ("torch", 4)
    ]  # fmt: skip
    assert len(figures["break_even"]["ratios"]) == len(figures["break_even"]["sparsities"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "nowhere", "--out", "m.dpz"], "--checkpoint"),
        (["export", ".", "--out", "m.dpz"], "not a finished run"),
        (["export", "resnet18", "--out", "m.dpz", "--checkpoint", "gone"], "gone"),
        (["export", "resnet18", "--out", "m.dpz", "--values", "int4"], "int8"),
        (
            ["export", "convnet", "--out", "m", "--onnx", "./m", "--checkpoint", "w"],
            "same file m:",
        ),
        (["bench", "."], "is not a run: give a run folder, or a file of export"),
        (["bench", "gone.dpz"], "dirprune: gone.dpz: No such file or directory"),
        (["bench", "gone.dpz", "--out", "."], "dirprune: . is a folder: give a file"),
        (["bench", "gone.dpz", "--batch", "many"], "--batch takes whole numbers"),
        (["bench", "gone.dpz", "--vs", "tvm"], "unknown runtime 'tvm'"),
    ],
)
def test_a_user_error_gives_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    stderr = capsys.readouterr().err
    assert stderr.count("\n") == 1
    assert message in stderr
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_version_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(shutil.copytree(run, tmp_path / "old"))
    record = json.loads((old / "config.json").read_text())
    del record["task"]
    (old / "config.json").write_text(json.dumps(record))
    assert cli.main(["export", str(old), "--out", str(tmp_path / "m.dpz")]) == 2
    assert "of another version of dirprune" in capsys.readouterr().err
    assert not (tmp_path / "m.dpz").exists()
