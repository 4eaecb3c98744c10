"""Engine: whole networks against torch, and everything a caller can do wrong."""

import copy
import io
import json
import multiprocessing
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deploy.networks import NAMES, captured, inputs
from dirprune._support import native
from dirprune.deploy import Engine, GraphNet, load, save

_cpp = pytest.importorskip("dirprune._cpp", reason="dirprune was installed without its extension")


def small_net() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3, 2),
        nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() > 1:
                parameter *= torch.rand_like(parameter) < 0.3
    return net.eval()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("engine") / "net.dpz"
    save(small_net(), file, torch.ones(2, 3, 9, 9))
    return file


@pytest.mark.parametrize("family", NAMES)
def test_networks_compute_what_torch_does(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dirprune.deploy.file.packing.LEVEL", 1)  # compress fast
    net = GraphNet(captured(family)[1])
    x = inputs(family, 9)
    save(net, tmp_path / "net.dpz", x)
    engine = Engine(tmp_path / "net.dpz", threads=2, tune=False)
    with torch.no_grad():
        expected = net.double()(x.double()).numpy()
    result = engine(x.numpy())
    scale = np.abs(expected).max()
    assert np.abs(result - expected).max() <= 1e-4 * scale
    assert np.abs(engine(x[:1].numpy()) - expected[:1]).max() <= 1e-4 * scale


def test_the_same_bits_for_any_number_of_threads(path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((11, 3, 9, 9), np.float32)
    first = Engine(path, threads=1, tune=False)(x)
    for threads in (2, 3, 7, 40):
        np.testing.assert_array_equal(Engine(path, threads, tune=False)(x), first)
    np.testing.assert_allclose(Engine(path, threads=2)(x), first, rtol=0, atol=1e-5)


def test_many_threads_on_one_engine_and_several_engines(path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((64, 3, 9, 9), np.float32)
    expected = Engine(path, threads=1)(x)
    engines = [Engine(path, threads=2), Engine(path, threads=3)]

    def call(i: int) -> float:
        sample = slice(i % 50, i % 50 + 1 + i % 14)
        return float(np.abs(engines[i % 2](x[sample]) - expected[sample]).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(call, range(400))) <= 1e-5


def test_takes_arrays_of_other_libraries(path: Path) -> None:
    engine = Engine(path, threads=1, tune=False)
    x = torch.randn(3, 3, 9, 9)
    expected = engine(x.numpy())
    np.testing.assert_array_equal(engine(x), expected)

    class Wrapped:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray[Any, Any]:
            return x.numpy()

    np.testing.assert_array_equal(engine(Wrapped()), expected)
    turned = np.ascontiguousarray(x.numpy().transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(engine(turned), expected)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones((2, 3, 9, 9), complex), TypeError, r"computes with real numbers, got complex128"),
        (np.full((2, 3, 9, 9), "a"), TypeError, r"computes with real numbers, got <U1"),
        (np.full((2, 3, 9, 9), None), TypeError, r"computes with real numbers, got object"),
        (np.ones((2, 3, 9, 8), np.float32), ValueError, r"takes shape \(batch, 3, 9, 9\), got"),
        (np.ones((3, 9, 9), np.float32), ValueError, r"takes shape \(batch, 3, 9, 9\), got"),
        (np.float32(1), TypeError, r"must be an array|takes shape"),
        ([1.0, 2.0], TypeError, r"must be an array, got list"),
        (torch.ones(2, 3, 9, 9).to_sparse(), TypeError, r"cannot read .* give a dense array"),
        (torch.ones(2, 3, 9, 9, device="meta"), TypeError, r"cannot read .* on the CPU"),
    ],
)
def test_refuses_other_inputs(path: Path, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises((error, ValueError), match=message) as caught:
        Engine(path, threads=1)(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.requires_grad_(),
        lambda x: nn.Parameter(x),
        lambda x: x.double(),
        lambda x: x.to(torch.uint8),
        lambda x: x.to(torch.int64).numpy(),
        lambda x: x.half(),
        lambda x: x.bfloat16(),
        lambda x: x > 1,
        lambda x: torch.complex(x, -x).conj().imag,  # its negative bit is set
        lambda x: torch.complex(x, -x).conj().imag[:, :, ::2],
        lambda x: x[:1].expand(4, 3, 9, 9),
        lambda x: x.mT,
        lambda x: x[:, :, ::2],
        lambda x: x[:0],
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.numpy()[::-1],
        lambda x: x.double().numpy().astype(">f8"),
    ],
)
def test_converts_real_inputs(make: Callable[[torch.Tensor], Any], tmp_path: Path) -> None:
    x = make(torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 3)
    plain = torch.tensor(x.tolist(), dtype=torch.float32).reshape(x.shape)
    net = nn.Flatten()
    save(net, tmp_path / "net.dpz", torch.ones(2, *x.shape[1:]))
    result = Engine(tmp_path / "net.dpz", threads=1)(x)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, plain.flatten(1).numpy())


def test_denormals_are_zero_inside_and_the_caller_keeps_its_mode(tmp_path: Path) -> None:
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [1e-40, 1.0]]))
    save(net, tmp_path / "net.dpz", torch.ones(2, 2))
    assert load(tmp_path / "net.dpz").state_dict()["weight"][1, 0] == 1e-40
    one = np.array([1e-40], np.float32)
    x = np.array([[1e-40, 0.0], [3.0, 0.0]] * 40, np.float32)
    for threads in (1, 3):
        result = Engine(tmp_path / "net.dpz", threads=threads)(x)
        np.testing.assert_array_equal(result, [[0.0, 0.0], [3.0, 0.0]] * 40)
        assert (one * np.float32(1))[0] == np.float32(1e-40)  # not flushed outside


@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy,
                                    copy.deepcopy])  # fmt: skip
@pytest.mark.parametrize("source", ["path", "bytes", "file"])
def test_engines_are_copied_with_their_tuning(
    source: str, copied: Callable[[Engine], Engine], own: Path
) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 9, 9), dtype=np.float32)
    data = own.read_bytes()
    first = Engine(
        {"path": own, "bytes": data, "file": io.BytesIO(data)}[source], threads=2, check=True
    )
    before = first(x)
    own.unlink()
    again = copied(first)
    assert again._programs.first.program.tuned() == first._programs.first.program.tuned()
    np.testing.assert_array_equal(again(x), before)
    assert (again.threads, again._check, repr(again)) == (2, True, repr(first))
    with pytest.raises(ValueError, match="not finite"):
        again(x * np.nan)


def test_a_copy_leaves_out_choices_of_another_processor(own: Path) -> None:
    engine = Engine(own, threads=1)
    x = np.random.default_rng(0).standard_normal((1, 3, 9, 9), dtype=np.float32)
    before = engine(x)
    state = engine.__getstate__()
    for choice in filter(None, state["tuned"][0]["choices"]):
        choice[7] = 1000  # the block of channels depends on the size of the caches
    again = Engine.__new__(Engine)
    again.__setstate__(state)
    assert not again._programs.first.program.tuned()
    np.testing.assert_allclose(again(x), before, rtol=1e-5, atol=1e-6)


def test_a_copy_keeps_tuning_beside_the_file(own: Path) -> None:
    x = np.ones((1, 3, 9, 9), np.float32)
    engine = pickle.loads(pickle.dumps(Engine(own, threads=1, keep=True)))
    engine(x)
    assert Path(f"{own}.tuned.json").exists()


def test_a_spawned_worker_takes_an_engine(path: Path) -> None:
    engine = Engine(path, threads=1)
    x = np.ones((2, 3, 9, 9), np.float32)
    expected = engine(x)  # tunes, so that the copy computes each layer in the same way
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        np.testing.assert_array_equal(pool.submit(engine, x).result(timeout=300), expected)


def test_properties_of_an_engine() -> None:
    file = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        net = nn.Linear(4, 2)
        with torch.no_grad():
            net.weight[0] = 0
        save(net, f"{folder}/net.dpz", torch.ones(2, 4))
        file.write(Path(folder, "net.dpz").read_bytes())
    file.seek(0)
    text = repr(Engine(file, threads=2))
    assert re.fullmatch(
        r"Engine\('bytes': \(batch, 4\) -> \(batch, 2\), 50\.0% of the weights of its layers are "
        r"zero, \w+, 2 threads\)",
        text,
    ), text


def test_keeping_needs_a_path(path: Path) -> None:
    with pytest.raises(ValueError, match="give its path"):
        Engine(path.read_bytes(), keep=True)


def test_forks_while_other_threads_are_inside_calls(path: Path) -> None:
    script = f"""
import os, sys, threading, time
import numpy as np
from dirprune.deploy import Engine
engine = Engine({str(path)!r}, threads=2)
x = np.ones((40, 3, 9, 9), np.float32)
done = False
def call():
    while not done:
        engine(x[: 1 + np.random.randint(40)])
threads = [threading.Thread(target=call) for _ in range(3)]
[thread.start() for thread in threads]  # they tune at first
children = []
for _ in range(30):
    child = os.fork()
    if child == 0:
        engine(x); engine(x[:1])
        os._exit(0)
    children.append(child)
    time.sleep(0.02)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
done = True
[thread.join() for thread in threads]
"""
    python = [sys.executable, "-W", "ignore:.*multi-threaded.*:DeprecationWarning", "-c", script]
    assert subprocess.run(python, timeout=300).returncode == 0


def test_far_taps_at_any_batch_size(tmp_path: Path) -> None:
    """With the images of a batch side by side, dilated kernels reach over megabytes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(64, 3, 3, padding=36, dilation=36), nn.ReLU())
    x = torch.randn(9, 64, 65, 65)
    save(net, tmp_path / "net.dpz", x[:2])
    engine = Engine(tmp_path / "net.dpz", threads=2, tune=False)
    with torch.no_grad():
        expected = net(x).numpy()
    np.testing.assert_allclose(engine(x), expected, atol=1e-5)
    np.testing.assert_allclose(engine(x[:1]), expected[:1], atol=1e-5)


@pytest.mark.parametrize("isa", _cpp.available())
def test_masked_logits_have_no_probability(
    isa: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRPRUNE_ISA", isa)
    least = torch.finfo(torch.float32).min
    masked = torch.tensor([[0.0, least, -200.0, -torch.inf, *[least] * 20], [*[-1e4] * 23, 0.0]])

    class Entropy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            p = x.softmax(1)
            return torch.cat([p, -(p * x.clamp_min(least)).sum(1, keepdim=True)], 1)

    save(Entropy(), tmp_path / "net.dpz", torch.randn(2, 24))
    found = Engine(tmp_path / "net.dpz", threads=1, tune=False)(masked.numpy())
    expected = np.zeros((2, 25), np.float32)
    expected[0, 0] = expected[1, 23] = 1.0
    np.testing.assert_array_equal(found, expected)


class Rows(nn.Module):
    """A linear layer over rows with a residual and an activation, then LayerNorm and softmax."""

    def __init__(self, width: int, outputs: int, activation: nn.Module) -> None:
        super().__init__()
        self.linear, self.activation = nn.Linear(width, outputs), activation
        self.skip = nn.Linear(width, outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.activation(self.linear(x) + self.skip(x))
        return torch.softmax(self.norm(hidden), -1)


@pytest.mark.parametrize("isa", _cpp.available())
@pytest.mark.parametrize("size", [(5, 7, 3), (50, 401, 49), (23, 12, 100)])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU()])
@pytest.mark.parametrize("density", [1.0, 0.05])
def test_linear_layers_over_rows(
    isa: str, size: tuple[int, int, int], activation: nn.Module, density: float, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("DIRPRUNE_ISA", isa)
    torch.manual_seed(0)
    rows, width, outputs = size
    net = Rows(width, outputs, activation).eval()
    with torch.no_grad():
        for layer in (net.linear, net.skip):
            layer.weight *= torch.rand_like(layer.weight) < density
    x = torch.randn(17, rows, width)
    save(net, tmp_path / "net.dpz", x[:2])
    with torch.no_grad():
        expected = net.double()(x.double()).numpy()
    first = None
    for threads in (1, 3):
        engine = Engine(tmp_path / "net.dpz", threads=threads, tune=False)
        for batch in (17, 1):
            np.testing.assert_allclose(engine(x[:batch]), expected[:batch], atol=2e-6)
        first = engine(x) if first is None else first
        np.testing.assert_array_equal(engine(x), first)
    kernels = [row.kernel for row in engine.profile(x[:1], 1).layers if row.op == "linear"]
    assert all(("dense rows by" in kernel) == (density == 1) for kernel in kernels)


def test_rows_that_are_nearly_constant_are_normalized_exactly(tmp_path: Path) -> None:
    net = nn.LayerNorm(64, eps=1e-12)
    rng = np.random.default_rng(0)
    x = (1000 + rng.integers(-4, 5, (9, 64)) * 2.0**-13).astype(np.float32)
    save(net, tmp_path / "net.dpz", torch.from_numpy(x))
    exact = x.astype(np.float64)
    exact -= exact.mean(1, keepdims=True)
    exact /= np.sqrt((exact**2).mean(1, keepdims=True) + 1e-12)
    engine = Engine(tmp_path / "net.dpz", threads=1, tune=False)
    np.testing.assert_allclose(engine(x), exact, atol=1e-5)  # torch in float32: off by 0.23
    np.testing.assert_allclose(engine(x[:1]), exact[:1], atol=1e-5)


def test_less_memory_gives_the_same_result(path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((19, 3, 9, 9), dtype=np.float32)
    expected = Engine(path, threads=3, tune=False)(x)
    with pytest.raises(ValueError, match=r"needs up to \d+ bytes of memory.* max_bytes"):
        Engine(path, max_bytes=10_000)
    tried = 0
    for bound in range(120_000, 400_000, 20_000):
        try:
            engine = Engine(path, threads=3, tune=False, max_bytes=bound)
        except ValueError:
            continue
        np.testing.assert_allclose(engine(x), expected, atol=1e-5)
        engine.profile(x, repeats=1)
        tried += 1
    assert tried >= 3


def test_check_refuses_what_is_not_finite(path: Path) -> None:
    x = np.zeros((1, 3, 9, 9), np.float32)
    checked = Engine(path, threads=1, check=True)
    checked(x)
    for value in (np.nan, np.inf):
        x[0, 1, 2, 3] = value
        Engine(path, threads=1)(x)
        with pytest.raises(ValueError, match="not finite"):
            checked(x)


def test_a_huge_batch_raises_memory_error_and_the_engine_still_works(path: Path) -> None:
    engine = Engine(path, threads=1)
    huge = np.broadcast_to(np.zeros((1, 3, 9, 9), np.float32), (1 << 42, 3, 9, 9))
    with pytest.raises(MemoryError):
        engine(huge)
    assert engine(np.zeros((2, 3, 9, 9), np.float32)).shape == (2, 5)


def test_an_empty_batch(path: Path) -> None:
    assert Engine(path)(np.zeros((0, 3, 9, 9), np.float32)).shape == (0, 5)


@pytest.mark.parametrize("threads", [0, -1, 257])
def test_refuses_numbers_of_threads(path: Path, threads: int) -> None:
    with pytest.raises(ValueError, match="threads must be 1 to 256"):
        Engine(path, threads)


def test_a_file_of_only_weights_cannot_run(tmp_path: Path) -> None:
    save(small_net(), tmp_path / "weights.dpz")
    with pytest.raises(ValueError, match="save the model with example_inputs"):
        Engine(tmp_path / "weights.dpz")


@pytest.mark.parametrize("batch", [1, 16])
def test_profile_accounts_for_the_layers(path: Path, batch: int) -> None:
    engine = Engine(path, threads=2)
    profile = engine.profile(np.ones((batch, 3, 9, 9), np.float32), repeats=2)
    assert sum(layer.share for layer in profile.layers) == pytest.approx(1)
    first = next(layer for layer in profile.layers if layer.op == "conv2d")
    weight = small_net()[0].weight
    assert first.path == "0"
    assert first.sparsity == pytest.approx(float((weight == 0).float().mean()))
    table = str(profile)
    assert "GFLOP/s" in table
    assert f"batch of {batch} on 2 threads" in table


def test_profile_needs_a_sample(path: Path) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Engine(path).profile(np.ones((0, 3, 9, 9), np.float32))


def test_says_what_is_missing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "extension", lambda: None)
    with pytest.raises(RuntimeError, match=r"C\+\+ extension, which this installation lacks"):
        Engine(path)


def test_runs_without_torch(path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np; from dirprune.deploy import Engine\n"
        f"print(Engine({str(path)!r})(np.ones((2, 3, 9, 9), np.float32)).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "(2, 5)\n", done.stderr


def test_runs_in_the_child_of_a_fork(path: Path) -> None:
    script = (
        "import os, sys, numpy as np; from dirprune.deploy import Engine\n"
        f"engine = Engine({str(path)!r}, threads=2)\n"
        "x = np.ones((16, 3, 9, 9), np.float32); before = engine(x); child = os.fork()\n"
        "if child == 0: os._exit(int(not np.allclose(engine(x), before)))\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=300).returncode == 0


def test_a_server_needs_no_torch(path: Path) -> None:
    script = f"""
import sys
sys.modules |= dict.fromkeys(("torch", "torchvision", "safetensors", "scipy", "sklearn"))
import numpy as np
from dirprune.deploy import Engine
print(*Engine({str(path)!r}, threads=1)(np.ones((3, 3, 9, 9), np.float32)).shape)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert run.stdout.split() == ["3", "5"], run.stderr


@pytest.fixture
def own(path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(path, tmp_path))


def test_what_was_tuned_is_kept(own: Path) -> None:
    x = np.random.default_rng(0).standard_normal((9, 3, 9, 9), dtype=np.float32)
    first = Engine(own, threads=2, keep=True)
    before = first(x[:1]), first(x)
    file = Path(f"{own}.tuned.json")
    kept = file.read_text()
    assert {(m["batch"], m["threads"]) for m in json.loads(kept)["modes"]} >= {(1, 2)}

    second = Engine(own, threads=2, keep=True)
    assert (
        second._programs.first.program.tuned() == first._programs.first.program.tuned()
    )  # before the first call
    np.testing.assert_array_equal(second(x[:1]), before[0])
    np.testing.assert_array_equal(second(x), before[1])
    assert file.read_text() == kept

    Engine(own, threads=1, keep=True)(x[:1])
    modes = {(m["batch"], m["threads"]) for m in json.loads(file.read_text())["modes"]}
    assert modes >= {(1, 1), (1, 2)}  # one file for any number of threads


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: "[]",
        lambda text: text.replace('"network": "', '"network": "0'),
        lambda text: text.replace('"batch": 1,', '"batch": 3,'),
        lambda text: text.replace('"seconds": [', '"seconds": [NaN,'),
        lambda text: re.sub(r"\d+(?=\s*\])", "77777", text),
        lambda text: "[" * 200_000,
        lambda text: text.replace('"batch": 1,', '"batch": [[]],'),
    ],
)
def test_what_was_kept_is_checked(own: Path, damage: Callable[[str], str]) -> None:
    x = np.ones((1, 3, 9, 9), np.float32)
    before = Engine(own, threads=1, keep=True)(x)
    file = Path(f"{own}.tuned.json")
    text = file.read_text()
    file.write_text(damage(text))
    assert file.read_text() != text
    engine = Engine(own, threads=1, keep=True)
    assert engine._programs.first.program.tuned() == []
    np.testing.assert_allclose(engine(x), before, rtol=1e-4, atol=1e-6)
    modes = json.loads(file.read_text())["modes"]  # written anew
    assert [(m["batch"], m["threads"]) for m in modes] == [(1, 1)]


def test_engines_of_more_threads_keep_their_part(own: Path) -> None:
    x = np.ones((1, 3, 9, 9), np.float32)
    file = Path(f"{own}.tuned.json")
    Engine(own, threads=2, keep=True)(x)
    record = json.loads(file.read_text())
    record["modes"] = [{}, *50 * record["modes"]]  # what is no mode, and the same repeated
    file.write_text(json.dumps(record))
    one = Engine(own, threads=1, keep=True)
    assert one._programs.first.program.tuned() == []
    one.profile(x)  # tunes as well as a call
    modes = json.loads(file.read_text())["modes"]
    assert {m["threads"] for m in modes} == {1, 2}
    assert (
        len(Engine(own, threads=2, keep=True)._programs.first.program.tuned()) == 2
    )  # it may need either


def test_many_engines_keep_at_a_time(own: Path) -> None:
    x = np.ones((1, 3, 9, 9), np.float32)
    for _ in range(5):
        engines = [Engine(own, threads=1, keep=True) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda engine: engine(x), engines))  # a warning would be an error
        file = Path(f"{own}.tuned.json")
        assert [m["threads"] for m in json.loads(file.read_text())["modes"]] == [1]
        file.unlink()


def test_keeping_needs_tuning_and_a_place(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="needs tune=True"):
        Engine(own, keep=True, tune=False)

    def refuse(*_: object) -> None:
        raise OSError("cannot write model.dpz.tuned.json")

    monkeypatch.setattr("dirprune.deploy.tuned.write_json", refuse)
    engine = Engine(own, threads=1, keep=True)
    with pytest.warns(UserWarning, match="cannot write .* the next start will tune again"):
        engine(np.ones((1, 3, 9, 9), np.float32))


def test_tiles_of_nothing_but_padding_store_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRPRUNE_ISA", "portable")
    torch.manual_seed(0)
    net = nn.Conv2d(2, 3, (2, 3), stride=(3, 1), padding=(2, 0), dilation=2)
    x = torch.randn(1, 2, 13, 7)
    save(net, tmp_path / "net.dpz", torch.randn(2, 2, 13, 7))
    engine = Engine(tmp_path / "net.dpz", threads=1)
    # Tiles of 4 pixels continue over the ends of rows of 7 pixels, of which 3 are stored.
    spanning = [0, 1, 0, 1, 1, 5, 1, 2, 0, 0]
    engine._programs.first.program.choose(1, 1, [spanning], [0.0])
    with torch.no_grad():
        np.testing.assert_allclose(engine(x), net(x), atol=1e-5)


@pytest.mark.parametrize("isa", _cpp.available())
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_depthwise_layers_in_place(
    isa: str, size: int, stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRPRUNE_ISA", isa)
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 6, size, stride, padding=size // 2, groups=3)
    net = nn.Sequential(layer, nn.SiLU()).double()
    x = torch.randn(2, 3, 14, 45, dtype=torch.float64)
    save(net.float(), tmp_path / "net.dpz", x.float())
    engine = Engine(tmp_path / "net.dpz", threads=2)
    depthwise = [0, 0, 0, 1, 1, 1, 1, 1, 0, 1]
    for threads in (1, 2):
        engine._programs.first.program.choose(1, threads, [depthwise], [0.0])
    with torch.no_grad():
        expected = net.double()(x)
    for batch in (1, 2):
        found = engine(x[:batch].float())
        np.testing.assert_allclose(found, expected[:batch], atol=3e-6)
    assert engine.profile(x[:1].float()).layers[0].kernel == "depthwise, in place"
