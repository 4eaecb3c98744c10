"""The start of a network and the memory of its calls, in dirprune and in ONNX Runtime.

Every figure comes from a process of its own, without torch: seconds to load the file, of the first
call, which tunes, and of the fastest later call; MiB above what the process needed before
loading: the peak of loading, the peak of all, and what is held after the calls. ``stored`` is a
file with the result of tuning.

    python benchmarks/start.py [--only resnet50] [--batches 1 16] [--rounds 5] [--json FILE.json]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CHILD = """
import json, re, sys, time
import numpy as np
runtime, path, threads, shape = sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4])
status = lambda key: int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
peak, held = lambda: status("VmHWM") / 1024, lambda: status("VmRSS") / 1024
x = np.random.default_rng(0).standard_normal(shape, np.float32)
if runtime == "onnxruntime":
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
else:
    from dirprune.deploy.engine import Engine
before, at_rest, start = peak(), held(), time.perf_counter()
if runtime == "onnxruntime":
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    call = lambda: session.run(None, {"input": x})
else:
    call_engine = Engine(path, threads=threads)
    call = lambda: call_engine(x)
loaded, times = time.perf_counter(), []
after_loading = peak() - before
for _ in range(6):
    begin = time.perf_counter()
    call()
    times.append(time.perf_counter() - begin)
print(json.dumps({"load": loaded - start, "first": times[0], "later": min(times[1:]),
                  "mib_loading": after_loading, "mib_peak": peak() - before,
                  "mib_after": held() - at_rest}))
"""


def measured(runtime: str, path: Path, threads: int, shape: list[int]) -> dict[str, float]:
    """Figures of one process."""
    command = [sys.executable, "-c", CHILD, runtime, str(path), str(threads), json.dumps(shape)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(printed)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["resnet50"], help="names of networks")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where files are kept for a later run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options, options.folder or Path(folder))


def run(options: argparse.Namespace, folder: Path) -> None:
    """Measure the networks and write the figures."""
    import numpy as np

    from dirprune.bench.latency import graph_of
    from dirprune.deploy import Engine
    from dirprune.deploy.onnx import write_onnx
    from engine import CASES, saved
    from machine import quartiles, write

    found: dict[str, Any] = {}
    for name in options.only:
        path = saved(name, folder)
        paths = {"dirprune": path, "stored": path.with_suffix(".tuned.dpz"),
                 "onnxruntime": path.with_suffix(".onnx")}  # fmt: skip
        write_onnx(graph_of(path, None), paths["onnxruntime"])
        engine = Engine(path, threads=options.threads)
        for batch in options.batches:
            engine(np.zeros((batch, *CASES[name].shape), np.float32))
        engine.save_tuned(paths["stored"])
        rows = []
        for batch in options.batches:
            shape = [batch, *CASES[name].shape]
            runs: dict[str, list[dict[str, float]]] = {runtime: [] for runtime in paths}
            for _ in range(options.rounds):
                for runtime, own in runs.items():
                    own.append(measured(runtime, paths[runtime], options.threads, shape))
            for runtime, own in runs.items():
                figures = {key: quartiles([r[key] for r in own]) for key in own[0]}
                rows.append({"runtime": runtime, "batch": batch, **figures})
                medians = {key: round(q[1], 3) for key, q in figures.items()}
                print(name, runtime, batch, medians, flush=True)
        found[name] = rows
        write(options.json, {"threads": options.threads, "networks": found})


if __name__ == "__main__":
    main()
