"""Latency of the saved networks of measure.py relative to the dense one; writes latency.json.

    OMP_NUM_THREADS=1 python results/structures/latency.py FOLDER

FOLDER is the one that was given to measure.py as --networks. Every network is treated in the same
way: ``shrink`` turns it into a graph, which torch runs, and ``export_onnx`` writes it for ONNX
Runtime.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import onnxruntime
import torch
from network import EXAMPLE, multiply_adds
from torch import nn

from dirprune.deploy import export_onnx, shrink

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "benchmarks"))
from machine import interleaved, ratios, write  # noqa: E402


def session(model: nn.Module) -> onnxruntime.InferenceSession:
    """Export a network and open it with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        export_onnx(model, path, torch.zeros(EXAMPLE))
        return onnxruntime.InferenceSession(path.read_bytes(), options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {
        path.stem: torch.load(path, weights_only=False).eval()  # files of measure.py
        for path in sorted(args.folder.glob("*.pt"))
        if not path.stem.startswith("24-")
    }
    graphs = {name: shrink(model, torch.zeros(EXAMPLE)) for name, model in models.items()}
    sessions = {name: session(model) for name, model in models.items()}
    dense = "dense-1"
    figures = {
        name: {"macs": multiply_adds(model) / multiply_adds(models[dense])}
        for name, model in models.items()
    }
    for batch in (1, 64):
        x = torch.randn(batch, *EXAMPLE[1:], generator=torch.Generator().manual_seed(0))
        for name, model in models.items():
            with torch.no_grad():
                expected = model(x)
                torch.testing.assert_close(graphs[name](x), expected, rtol=1e-3, atol=1e-4)
            output = torch.from_numpy(sessions[name].run(None, {"input": x.numpy()})[0])
            torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)
        feed = {"input": x.numpy()}
        calls = {
            "ONNX Runtime": {
                name: lambda s=s, f=feed: s.run(None, f) for name, s in sessions.items()
            },
            "torch": {name: lambda g=g, x=x: g(x) for name, g in graphs.items()},
        }
        for runtime, candidates in calls.items():
            with torch.inference_mode():
                times = interleaved(candidates, args.rounds, warmup=20)
            for name in models:
                figures[name][f"{runtime}, batch {batch}"] = ratios(times[dense], times[name])
    write(HERE / "latency.json", {"rounds": args.rounds, "networks": figures})


if __name__ == "__main__":
    main()
