"""The example server with ONNX Runtime in the place of the engine, on any free port.

python benchmarks/serve_onnx.py model.onnx [--workers 2]
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "serve"))
from server import serve


class OnnxSession:
    """A network in ONNX Runtime, one thread for each call, with what the server needs."""

    def __init__(self, path: str) -> None:
        options = onnxruntime.SessionOptions()
        # Without threads of its own a session also works in forked workers.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        [x], [y] = self._session.get_inputs(), self._session.get_outputs()
        self.input_shape, self.output_shape = tuple(x.shape[1:]), tuple(y.shape[1:])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Run the network."""
        found: np.ndarray = self._session.run(["output"], {"input": x})[0]
        return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    raise SystemExit(serve(OnnxSession(options.model), port=0, workers=options.workers))
