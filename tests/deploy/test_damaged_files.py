"""Files that were damaged, by chance or on purpose, are refused: no crash, no huge allocation."""

import hashlib
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.deploy import GraphNet, save
from dirprune.deploy.file.container import HEAD, MAGIC, VERSION, Contents, Tensor
from dirprune.deploy.file.packing import compress, decompress
from dirprune.deploy.file.read import read_contents
from dirprune.deploy.file.write import write_contents
from dirprune.deploy.graph.capture import capture
from dirprune.deploy.graph.fold import fold
from dirprune.deploy.graph.graph import Graph, Node

TRIALS = 10_000
MEMORY = 256 << 20


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(), nn.MaxPool2d(2), nn.Dropout(),
        nn.Flatten(), nn.Linear(64, 3), nn.Softmax(1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """A network whose zeros are of both signs, the same with 8 bits, and weights only."""
    path = tmp_path_factory.mktemp("files") / "model.dpz"
    torch.manual_seed(0)
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(4, 2, 3, 3) > 0.8)
    x = torch.ones(2, 2, 16, 16)
    found = []
    for inputs, values in ((x, "float32"), (x, "int8"), (None, "float16")):
        save(model, path, inputs, values=values)
        found.append(path.read_bytes())
    return found


def signed(index: bytes, rest: bytes) -> bytes:
    """A file whose sizes and checksum are right, whatever is in it."""
    stored = compress(index)
    head = HEAD.pack(MAGIC, VERSION, len(stored), len(index), len(rest), bytes(16))[:-16]
    return head + hashlib.blake2b(head + stored + rest, digest_size=16).digest() + stored + rest


def opened(data: bytes) -> tuple[bytes, bytes]:
    """The plain index of a file, and what follows it."""
    _, _, stored, size, rest, _ = HEAD.unpack_from(data)
    return decompress(data[HEAD.size : HEAD.size + stored], size), data[len(data) - rest :]


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Change, drop, repeat or insert a few bytes, with a taste for extreme numbers."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(changed) or 1)
        kind = draw.randrange(6)
        if kind == 0:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            changed[at : at + 1] = bytes([(data[at % len(data)] ^ 1 << draw.randrange(8)) & 255])
        elif kind == 2:
            width = draw.choice((1, 2, 4, 8))
            number = draw.choice((0, 1, -1, 1 << 31, 1 << 40, (1 << 63) - 1, 255, 65535))
            size = 1 << (8 * width)
            changed[at : at + width] = (number % size).to_bytes(width, "little")
        elif kind == 3:
            del changed[at : at + draw.choice((1, 4, 8, 100))]
        elif kind == 4:
            start = draw.randrange(len(data))
            changed[at:at] = data[start : start + draw.randrange(1, 40)]
        else:
            del changed[at:]
    return bytes(changed)


def tried(data: bytes) -> bool:
    """Read a file all the way to a module; True if it was accepted."""
    try:
        contents = read_contents(data)
        if contents.graph is not None:
            GraphNet(contents.graph)
            fold(contents.graph)
    except ValueError:
        return False
    return True


@pytest.fixture
def _limited() -> object:
    """Memory for what is there now and a little more: a huge allocation fails the test."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.usefixtures("_limited")
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("where", ["file", "index", "streams"])
def test_damaged_files(where: str, files: list[bytes]) -> None:
    draw, accepted = random.Random(f"damage {where}"), 0
    trials = {"file": TRIALS // 5, "index": TRIALS * 3 // 5, "streams": TRIALS // 5}[where]
    for trial in range(trials):
        data = files[trial % len(files)]
        index, rest = opened(data)
        if where == "file":
            changed = mutate(data, draw)
        elif where == "index":
            changed = signed(mutate(index, draw), rest)
        else:
            changed = signed(index, mutate(rest, draw))
        accepted += tried(changed) and changed != data
    # A checksum lets nothing through; without one, most changes still contradict something else.
    assert accepted == 0 if where == "file" else 0 < accepted < trials // 2


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_every_truncation_is_refused(kept: int, files: list[bytes]) -> None:
    assert tried(files[kept])
    assert not any(tried(files[kept][:end]) for end in range(len(files[kept])))


def with_index(files: list[bytes], change: Callable[[bytes], bytes]) -> bytes:
    index, rest = opened(files[2])
    return signed(change(index), rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index.replace(b"0.bias", b"1.bias"), "two tensors have one name"),
        (lambda index: index.replace(b"0.bias", b"0..ias"), "cannot be the name"),
        (lambda index: index.replace(b"0.bias", b"0.\xffias"), "not UTF-8"),
        (lambda index: index + b"\0", "1 bytes follow"),
        (lambda index: index[:-8] + struct.pack("<Q", 1 << 60), "ends in the middle"),
        (lambda index: index.replace(b"0.bias\0", b"0.bias\x63"), "unknown type"),
        (
            lambda index: index.replace(b"0.bias\0\1\4\0\0\0", b"0.bias\0\1\xff\xff\xff\x7f"),
            "of memory",
        ),
    ],
)
def test_what_is_wrong_is_said(
    change: Callable[[bytes], bytes], message: str, files: list[bytes]
) -> None:
    with pytest.raises(ValueError, match=message):
        read_contents(with_index(files, change))


@pytest.mark.usefixtures("_limited")
def test_no_bomb_goes_off(files: list[bytes]) -> None:
    """A stream that claims more than its bytes can hold is refused before memory is taken."""
    index, _ = opened(files[2])
    at = index.index(b"6.weight\0\2") + 10
    large = index[:at] + struct.pack("<II", 1 << 15, 1 << 15) + index[at + 8 :]
    with pytest.raises(ValueError, match="stream"):
        read_contents(signed(large, opened(files[2])[1]), 1 << 40)


def weights_only(**arrays: np.ndarray) -> bytes:
    return write_contents(
        Contents(None, {name: Tensor("float32", array) for name, array in arrays.items()})
    )


def network_of(nodes: list[Node], shape: tuple[int, ...], **arrays: np.ndarray) -> bytes:
    graph = Graph((-1, *shape), tuple(nodes), len(nodes), arrays)
    tensors = {name: Tensor("float32", array) for name, array in arrays.items()}
    return write_contents(Contents(graph, tensors))


def hostile() -> dict[str, bytes]:
    """Small files that ask for much memory, and some that are within the limit."""
    weight, vector = np.ones((512, 512), np.float32), np.ones(512, np.float32)
    linear = [Node("linear", (i,), (-1, 512), {}, {"weight": "w"}) for i in range(2000)]
    folded: list[Node] = []
    for i in range(0, 400, 2):
        folded.append(Node("linear", (i,), (-1, 512), {}, {"weight": "w"}))
        folded.append(Node("batch_norm", (i + 1,), (-1, 512), {"eps": 1.0},
                           {"running_mean": "b", "running_var": "b"}))  # fmt: skip
    side = 1 << 15
    resize = Node("upsample_nearest", (0,), (-1, 1, side, side), {"output": (side, side)})
    pad = Node(
        "pad", (0,), (-1, 1, 1, 1 << 28), {"padding": (0, 0, 0, (1 << 28) - 1), "value": 0.0}
    )
    far = Node("conv2d", (0,), (-1, 1, 1, 1),
               {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (9000, 9000), "groups": 1},
               {"weight": "k"})  # fmt: skip
    many = network_of([Node("relu", (0,), (-1, 1))] * 65_535, (1,))
    index, rest = opened(many)
    share = np.zeros(1 << 16, np.float32)
    return {
        "many nodes": many,
        "many nodes, compressed": signed(index, rest),
        "zeros": weights_only(w=np.zeros(1 << 24, np.float32)),
        "zeros within the limit": weights_only(w=np.zeros(1 << 23, np.float32)),
        "one tensor under many names": weights_only(**{f"w{i}": share for i in range(2000)}),
        "large result": network_of([resize], (1, 1, 1)),
        "large attribute": network_of([pad], (1, 1, 1)),
        "far taps": network_of([far], (1, 9001, 9001), k=np.ones((1, 1, 2, 2), np.float32)),
        "many layers": network_of(linear, (512,), w=weight),
        "many layers within the limit": network_of(linear[:15], (512,), w=weight),
        "many folded layers": network_of(folded, (512,), w=weight, b=vector),
    }


@pytest.mark.parametrize("use", ["load", "Engine"])
def test_small_files_stay_within_the_memory_that_is_allowed(use: str, tmp_path: Path) -> None:
    files = hostile()
    for name, data in files.items():
        assert len(data) < 2_000_000
        (tmp_path / name).write_bytes(data)
    script = f"""
import resource, sys, time
from pathlib import Path
import numpy as np
if {use!r} == "load":
    from dirprune.deploy.file.io import load as run
else:
    from dirprune.deploy.engine import Engine
    def run(path, max_bytes):
        made = Engine(path, threads=2, max_bytes=max_bytes)
        if np.prod(made.input_shape) < 1 << 16:
            made(np.ones((17, *made.input_shape), np.float32))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
before = peak()
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    start = time.process_time()
    try:
        result = run(path, max_bytes={MEMORY})
    except ValueError as error:
        result = error
    print(path.name, "|", peak() - before, "|", time.process_time() - start, "|", repr(result))
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=300
    )
    assert not run.stderr
    rows = [line.split(" | ") for line in run.stdout.splitlines()]
    assert {row[0] for row in rows} == files.keys()
    for name, used, seconds, result in rows:
        assert float(used) < MEMORY, name
        assert float(seconds) < 10, name
        if name.endswith("within the limit"):
            assert "memory" not in result, name


def test_a_graph_cannot_take_tensors_of_another_type() -> None:
    graph = capture(nn.Linear(2, 2), torch.ones(2, 2))
    tensors = {name: Tensor("int32", array.astype("i4")) for name, array in graph.tensors.items()}
    with pytest.raises(ValueError, match="not float32"):
        read_contents(write_contents(Contents(graph, tensors)))
