"""The example server under load: sparse networks in dirprune and in ONNX Runtime.

Both runtimes are served by ``examples/serve/server.py``, in two forked workers that compute each
call on one thread. ``wrk`` (https://github.com/wg/wrk) sends requests of one image over the
loopback. Answers are compared with torch first. Runtimes are interleaved.

    python benchmarks/server.py [--rounds 3] [--seconds 8] [--json FILE.json]
"""

import argparse
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dirprune.deploy import load as load_network
from dirprune.deploy.onnx import write_onnx
from engine import CASES, saved
from machine import write

SERVERS = {
    ".dpz": [Path(__file__).parents[1] / "examples" / "serve" / "server.py", "--port", "0"],
    ".onnx": [Path(__file__).with_name("serve_onnx.py")],
}
NETWORKS = ("resnet50", "vgg16 97%")
RUNTIMES = ("dirprune", "onnxruntime")
CLIENTS = (1, 16)
WORKERS = 2
SCRIPT = """
wrk.method = "POST"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("figures %f %f %f %d %d\\n", latency:percentile(50) / 1e3,
        latency:percentile(99) / 1e3, summary.duration / 1e6, summary.requests,
        e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@contextmanager
def served(path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a server of a file, and its process."""
    command = [sys.executable, *SERVERS[path.suffix], path, "--workers", str(WORKERS)]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not (found := re.match(r"(http://\S+) serves", line)):
                raise RuntimeError(f"the server of {path} did not start")
            yield found[1], process
        finally:
            process.send_signal(signal.SIGTERM)


def load(url: str, script: Path, clients: int, seconds: float) -> dict[str, float]:
    """Figures of one run of wrk."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s", "-s",
               str(script), f"{url}/predict"]  # fmt: skip
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"figures (\S+) (\S+) (\S+) (\d+) (\d+)", printed)
    if found is None:
        raise RuntimeError(f"wrk printed no figures: {printed}")
    p50, p99, duration, requests, errors = map(float, found.groups())
    if errors:
        raise RuntimeError(f"{errors:g} of {requests:g} requests failed")
    return {"p50": p50, "p99": p99, "images_per_second": requests / duration}


def memory(process: subprocess.Popen[str]) -> dict[str, float]:
    """MiB of the server's processes: in all, shared pages divided, and only in one worker."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    figures = []
    for pid in (str(process.pid), *children):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
        figures.append((sizes["Pss"], sizes["Private_Dirty"] + sizes["Private_Clean"]))
    return {"all": sum(pss for pss, _ in figures), "worker": max(p for _, p in figures[1:])}


def measure(name: str, rounds: int, seconds: float, folder: Path) -> list[dict[str, Any]]:
    """Measure one network in all runtimes."""
    paths = {"dirprune": saved(name, folder), "onnxruntime": folder / "model.onnx"}
    net: Any = load_network(paths["dirprune"])
    write_onnx(net.graph, paths["onnxruntime"])
    example = torch.randn(2, *CASES[name].shape)
    body, script = folder / "body", folder / "load.lua"
    body.write_bytes(example[:1].numpy().tobytes())
    script.write_text(SCRIPT.format(body=body))
    with torch.inference_mode():
        expected = net(example[:1]).numpy()
    figures: dict[tuple[str, int], list[dict[str, float]]] = {}
    used: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for runtime in RUNTIMES:
            with served(paths[runtime]) as (url, process):
                for _ in range(4 * WORKERS):
                    with urllib.request.urlopen(f"{url}/predict", body.read_bytes()) as answer:
                        found = np.frombuffer(answer.read(), np.float32)
                    gap = float(np.abs(found - expected[0]).max() / np.abs(expected).max())
                    if not gap < 1e-4:
                        raise RuntimeError(f"{runtime} differs from torch by {gap:.1e}")
                for clients in CLIENTS:
                    own = figures.setdefault((runtime, clients), [])
                    own.append(load(url, script, clients, seconds))
                used[runtime] = memory(process)
    return [
        {
            "runtime": runtime,
            "clients": clients,
            "mib": used[runtime],
            **{
                key: [f([run[key] for run in runs]) for f in (min, statistics.median, max)]
                for key in runs[0]
            },
        }
        for (runtime, clients), runs in figures.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--folder", type=Path, help="where files are kept for a later run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    about = {name: version(name) for name in ("onnxruntime", "fastapi", "uvicorn", "numpy")}
    run = {"workers": WORKERS, "rounds": options.rounds, "seconds": options.seconds}
    found = {}
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            kept = options.folder or Path(folder)
            found[name] = measure(name, options.rounds, options.seconds, kept)
        for row in found[name]:
            print(name, row, flush=True)
        write(options.json, {"run": run, "runtimes": about, "networks": found})


if __name__ == "__main__":
    main()
