"""The example server: forked workers answer like the engine and refuse wrong bodies."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dirprune.deploy import Engine, save

pytest.importorskip("dirprune._cpp", reason="dirprune was installed without its extension")
for needed in ("fastapi", "uvicorn"):
    pytest.importorskip(needed)

pytestmark = pytest.mark.slow

SERVER = Path(__file__).parents[2] / "examples" / "serve" / "server.py"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Engine]]:
    path = tmp_path_factory.mktemp("serve") / "net.dpz"
    torch.manual_seed(0)
    save(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), path, torch.ones(2, 3, 4))
    code = f"import sys; sys.modules['torch'] = None; sys.argv[0] = {str(SERVER)!r}; " \
           f"import runpy; runpy.run_path({str(SERVER)!r}, run_name='__main__')"  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), "--port", "0", "--workers", "2"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.match(r"(http://127\.0\.0\.1:\d+) serves Engine\(", line)
    assert found, line
    yield found[1], Engine(path, threads=1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 0
    process.stdout.close()


def post(url: str, body: bytes) -> bytes:
    with urllib.request.urlopen(f"{url}/predict", body, timeout=120) as answer:
        return bytes(answer.read())


def test_workers_answer_like_the_engine(served: tuple[str, Engine]) -> None:
    url, engine = served
    with urllib.request.urlopen(url, timeout=120) as answer:
        told = json.load(answer)
    assert (told["input_shape"], told["output_shape"]) == ([3, 4], [5])
    for batch in (1, 3, 64):
        x = np.random.default_rng(batch).standard_normal((batch, 3, 4), dtype=np.float32)
        result = np.frombuffer(post(url, x.tobytes()), np.float32).reshape(batch, 5)
        np.testing.assert_allclose(result, engine(x), atol=1e-6)


@pytest.mark.parametrize(("size", "status"), [(0, 400), (47, 400), (48 * 65, 413)])
def test_wrong_bodies_are_refused(size: int, status: int, served: tuple[str, Engine]) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        post(served[0], bytes(size))
    assert error.value.code == status
    error.value.close()
