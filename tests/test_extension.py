"""The C++ extension's step, compared with the definition and the PyTorch step; errors."""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dirprune import GRDA

_cpp = pytest.importorskip("dirprune._cpp", reason="the C++ extension is not built here")

FUSED_MULTIPLY_ADD = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
KINDS = [(), ("momentum",), ("momentum", "nesterov"), ("decay",), ("momentum", "decay")]
# several chunks of 65,536, which threads share; between them empty, odd and short columns; the
# last one is long enough for streaming stores
LENGTHS = [70_001, 0, 3, 200_000, 1, 65_536, 0, 131_071]
LONG = 2_000_003


@pytest.fixture(params=_cpp.available())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DIRPRUNE_ISA", request.param)
    return request.param


def call(
    rows: list[tuple[np.ndarray, ...]], *, lr: float = 0.1, g: float = 0.02, threads: int = 1,
    momentum: float = 0.0, decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
) -> None:  # fmt: skip
    """Step rows of w, v, d and, with momentum, m."""
    columns = [[a.ctypes.data for a in column] for column in zip(*rows)]
    _cpp.grda_step(
        *columns, *([[]] if len(columns) == 3 else []), [len(row[0]) for row in rows], lr=lr, g=g,
        momentum=momentum, decay=decay, nesterov=nesterov, maximize=maximize, threads=threads,
    )  # fmt: skip


def noise(length: int, seed: int, columns: int = 3) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    scales = 0.05, 0.05, 0.3, 0.3
    return tuple(
        rng.normal(size=length).astype(np.float32) * np.float32(scale)
        for scale in scales[:columns]
    )


def bits(a: np.ndarray | Tensor) -> np.ndarray:
    """The bit patterns, with one pattern for all NaN: their payload is unspecified."""
    a = np.array(a.detach().float().numpy() if isinstance(a, Tensor) else a, dtype=np.float32)
    a[np.isnan(a)] = np.nan
    return a.view(np.int32)


def sparse(v: np.ndarray, g: float) -> np.ndarray:
    """S_g(v) case by case, in float32."""
    g32 = np.float32(g)
    with np.errstate(invalid="ignore"):
        w = np.where(v > g32, v - g32, np.where(v < -g32, v + g32, np.float32(0)))
    return np.where(np.isnan(v), v, w).astype(np.float32)


FLOATS = st.one_of(
    st.floats(width=32),
    st.floats(-0.125, 0.125, width=32),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-38, np.inf, -np.inf, np.nan, 0.5, -0.5]),
)


@settings(max_examples=80)
@given(
    data=st.data(),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    offset=st.integers(0, 17),
    lr=st.sampled_from([0.0, 0.1, 1.0, 1e-30]),
    g=st.sampled_from([0.0, 1e-45, 1e-3, 0.5, 1e30]),
    threads=st.integers(1, 3),
    isa=st.sampled_from(_cpp.available()),
)
def test_any_values_lengths_and_alignments(
    data: st.DataObject, lengths: list[int], offset: int, lr: float, g: float, threads: int,
    isa: str,
) -> None:  # fmt: skip
    buffers, rows = [], []
    for length in lengths:
        values = data.draw(st.lists(FLOATS, min_size=2 * length, max_size=2 * length))
        row = [np.full(length + 40, 7.0, np.float32) for _ in range(3)]
        row[1][offset : offset + length] = values[:length]
        row[2][offset : offset + length] = values[length:]
        buffers.append(row)
        rows.append(tuple(a[offset : offset + length] for a in row))
    before = [[a.copy() for a in row] for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRPRUNE_ISA", isa)
        call(rows, lr=lr, g=g, threads=threads)
    for (w, v, d), (_, v_before, d_before) in zip(rows, before):
        if isa != "portable" and FUSED_MULTIPLY_ADD:
            moved = torch.from_numpy(v_before).add(torch.from_numpy(d_before), alpha=-lr)
            assert (bits(v) == bits(moved)).all()
        assert (bits(w) == bits(sparse(v, g))).all()
        assert not np.signbit(w[w == 0]).any()
        assert (bits(d) == bits(d_before)).all()
    for a in itertools.chain.from_iterable(buffers):
        assert (a[:offset] == 7).all()
        assert (a[offset + len(a) - 40 :] == 7).all()


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("maximize", [False, True])
def test_steps_follow_the_equations(kind: tuple[str, ...], maximize: bool, isa: str) -> None:
    lr, g, beta, decay = 0.1, 0.02, 0.9 * ("momentum" in kind), 0.3 * ("decay" in kind)
    w, v, d, *m = noise(1003, 0, 4 if beta else 3)
    exact_w, exact_v, exact_d = (a.astype(np.float64) for a in (w, v, d))
    exact_m = m[0].astype(np.float64) if m else np.zeros(1003)
    direction = (-exact_d if maximize else exact_d) + decay * exact_w
    exact_m = beta * exact_m + direction
    if "nesterov" in kind:
        direction = direction + beta * exact_m
    elif beta:
        direction = exact_m
    exact_v -= lr * direction
    call([(w, v, d, *m)], lr=lr, g=g, momentum=beta, decay=decay, nesterov="nesterov" in kind,
         maximize=maximize)  # fmt: skip
    np.testing.assert_allclose(v, exact_v, atol=3e-8, rtol=3e-7)
    assert (bits(w) == bits(sparse(v, g))).all()
    assert 0.1 < (w == 0).mean() < 0.9
    if m:
        np.testing.assert_allclose(m[0], exact_m, atol=3e-8, rtol=3e-7)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("columns", [3, 4])
def test_results_do_not_depend_on_threads(threads: int, columns: int, isa: str) -> None:
    options = {"momentum": 0.9, "nesterov": True} if columns == 4 else {}
    alone, shared = ([noise(n, i, columns) for i, n in enumerate(LENGTHS)] for _ in range(2))
    for _ in range(3):
        call(alone, threads=1, **options)
        call(shared, threads=threads, **options)
    for a, b in zip(itertools.chain(*alone), itertools.chain(*shared)):
        assert (bits(a) == bits(b)).all()


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_streaming_stores_give_the_same_weights(offset: int, isa: str) -> None:
    streamed, cached = ([noise(n, i) for i, n in enumerate([*LENGTHS, LONG])] for _ in range(2))
    call([tuple(a[offset:] for a in row) for row in streamed], threads=2)
    for row in cached:
        call([tuple(a[offset:] for a in row)])
    for a, b in zip(itertools.chain(*streamed), itertools.chain(*cached)):
        assert (bits(a) == bits(b)).all()


def test_python_threads_can_step_at_the_same_time() -> None:
    def train(seed: int) -> np.ndarray:
        rows = [noise(200_000, seed)]
        for _ in range(20):
            call(rows, threads=2)
        return rows[0][1]

    with ThreadPoolExecutor(4) as executor:
        together = list(executor.map(train, range(8)))
    for seed, v in enumerate(together):
        assert (bits(v) == bits(train(seed))).all()


def test_denormals_are_flushed_by_all_threads_or_by_none() -> None:
    for flush in (True, False):
        w = np.zeros(1 << 20, np.float32)
        v, d = np.full_like(w, 1e-40), np.zeros_like(w)
        try:
            if not torch.set_flush_denormal(flush):
                pytest.skip("this CPU cannot flush denormals")
            call([(w, v, d)], g=0.0, threads=4)
        finally:
            torch.set_flush_denormal(False)
        assert len(np.unique(bits(w))) == 1
        assert (w[0] == 0) == flush


FORK = """
import os
import sys
if "torch" in sys.argv:  # or the extension's own threads are used
    import torch
    torch.set_num_threads(3)
    torch.ones(1 << 22).sum()
import numpy as np
from dirprune import _cpp

def step(threads):
    w, v, d = (np.full(1 << 20, x, np.float32) for x in (0, 1, 1))
    _cpp.grda_step([w.ctypes.data], [v.ctypes.data], [d.ctypes.data], [], [1 << 20], lr=0.5,
                   g=0.25, momentum=0, decay=0, nesterov=False, maximize=False, threads=threads)
    return bool((w == 0.25).all())

assert step(3)
child = os.fork()
if child == 0:
    os._exit(0 if step(3) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert step(3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("companion", ["numpy", "torch"])
def test_a_forked_child_can_step(companion: str) -> None:
    python = [sys.executable, "-W", "ignore:.*multi-threaded.*:DeprecationWarning", "-c", FORK]
    subprocess.run([*python, companion], check=True, timeout=300)


def test_an_unavailable_instruction_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _cpp.chosen() == _cpp.available()[-1]
    monkeypatch.setenv("DIRPRUNE_ISA", "sse9")
    with pytest.raises(ValueError, match="DIRPRUNE_ISA is 'sse9', this CPU has: portable"):
        _cpp.chosen()
    with pytest.raises(ValueError, match="unset it"):
        call([noise(8, 0)])


def test_columns_of_unequal_length_are_refused() -> None:
    w, _, d = noise(8, 0)
    with pytest.raises(ValueError, match="as many addresses as lengths"):
        _cpp.grda_step(
            [w.ctypes.data], [], [d.ctypes.data], [], [8], lr=0.1, g=0.1, momentum=0.0,
            decay=0.0, nesterov=False, maximize=False, threads=1,
        )  # fmt: skip


# --- through GRDA ---

OPTIONS = [
    {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay, "maximize": maximize}
    for momentum, nesterov, decay, maximize in itertools.product(
        [0.0, 0.9], [False, True], [0.0, 0.01], [False, True]
    )
    if momentum or not nesterov
]


def train(weights: list[nn.Parameter], steps: int = 12, **options: object) -> GRDA:
    optimizer = GRDA(weights, lr=0.1, c=0.02, mu=0.6, **options)
    generator = torch.Generator().manual_seed(1)
    for n in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + n // 6)
        for w in weights:
            layout = torch.empty_like(w)
            w.grad = layout.copy_(torch.randn(w.shape, generator=generator) * 0.1)
        optimizer.step()
    return optimizer


def twins(*tensors: Tensor) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    a, b = ([nn.Parameter(t.clone()) for t in tensors] for _ in range(2))
    return a, b


def assert_equal(a: list[nn.Parameter], x: GRDA, b: list[nn.Parameter], y: GRDA) -> None:
    for p, q in zip(a, b):
        assert (bits(p) == bits(q)).all()
        assert x.state[p].keys() == y.state[q].keys()
        for key in ("v", "momentum_buffer"):
            if key in x.state[p]:
                assert (bits(x.state[p][key]) == bits(y.state[q][key])).all()


@pytest.mark.skipif(not FUSED_MULTIPLY_ADD, reason="torch rounds like the portable step here")
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_runs_are_bit_identical_to_torch(options: dict) -> None:
    a, b = twins(*(torch.randn(s) * 0.05 for s in [(33, 7), (5,), (1,), (0,), (16, 3, 3, 3)]))
    x, y = train(a, fused=True, **options), train(b, fused=False, **options)
    assert_equal(a, x, b, y)
    assert any((w == 0).any() for w in a)


def test_the_extension_is_the_default_for_supported_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dirprune._support import native

    seen: list[int] = []
    step = native.grda_step()
    monkeypatch.setattr(
        native, "grda_step", lambda: lambda *a, **o: (seen.append(len(a[0])), step(*a, **o))[-1]
    )
    image = torch.randn(8, 4, 3, 3)
    cases = {
        "plain": (image, 1),
        "channels last": (image.to(memory_format=torch.channels_last), 1),
        "transposed": (torch.randn(5, 4).T, 0),
        "float64": (image.double(), 0),
        "bfloat16": (image.bfloat16(), 0),
    }
    for name, (start, expected) in cases.items():
        seen.clear()
        a, b = twins(start)
        x, y = train(a, steps=3), train(b, steps=3, fused=False)
        assert seen == [1] * 3 * expected, name
        if FUSED_MULTIPLY_ADD:
            assert_equal(a, x, b, y)
    for off in ({"fused": False}, {"foreach": True}):
        seen.clear()
        train(twins(image)[0], steps=1, **off)
        assert seen == []


def test_a_group_of_many_layouts_is_split() -> None:
    image = torch.randn(8, 4, 3, 3) * 0.05
    starts = (image, image.to(memory_format=torch.channels_last), torch.randn(6, 4).T * 0.05)
    a, b = twins(*starts)
    assert_equal(a, train(a), b, train(b, fused=False))
    assert [w.stride() for w in a] == [w.stride() for w in starts]


def test_lazily_negated_gradients_are_negated() -> None:
    a, b = twins(torch.zeros(3))
    for w, options in ((a[0], {}), (b[0], {"fused": False})):
        w.grad = torch.tensor([1j, 2j, 3j]).conj().imag
        assert w.grad.is_neg()
        GRDA([w], lr=1.0, c=0.5, mu=0.5, **options).step()
    assert a[0].tolist() == b[0].tolist() == [0.5, 1.5, 2.5]


def test_autograd_sees_that_weights_changed() -> None:
    w = nn.Parameter(torch.ones(3))
    loss = w.square().sum()
    w.grad = torch.ones(3)
    GRDA([w], fused=True).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_states_are_exchangeable_between_implementations() -> None:
    a, b = twins(torch.randn(40, 3) * 0.05, torch.randn(7) * 0.05)
    x, y = (train(w, fused=f, momentum=0.9) for w, f in ((a, True), (b, False)))
    y.load_state_dict(x.state_dict())
    assert y.param_groups[0]["fused"] is True
    assert_equal(a, x, b, y)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_rows_that_differ_are_not_stepped(isa: str, threads: int) -> None:
    lengths = [3, 0, 70_000, 4096, LONG, 1, 300_000]
    changed = [0, 2, 4, 6]
    rows = [noise(length, i) for i, length in enumerate(lengths)]
    for i, (w, v, _) in enumerate(rows):
        w[:] = sparse(v, 0.01)
        if i in changed:
            w += 1.0
    before = [[a.copy() for a in row] for row in rows]
    expected = [[a.copy() for a in row] for row in rows]
    call([tuple(row) for i, row in enumerate(expected) if i not in changed])
    columns = [[a.ctypes.data for a in column] for column in zip(*rows)]
    found = _cpp.grda_step(
        *columns, [], lengths, lr=0.1, g=0.02, momentum=0.0, decay=0.0, nesterov=False,
        maximize=False, threads=threads, g_before=0.01, sample=_cpp.Sample(7),
    )  # fmt: skip
    assert found == changed
    for i, row in enumerate(rows):
        right = before[i] if i in changed else expected[i]
        assert all(np.array_equal(a, b) for a, b in zip(row, right))
