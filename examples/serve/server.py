"""Serve a network over HTTP with FastAPI and uvicorn, without torch.

    pip install dirprune fastapi uvicorn
    python server.py model.dpz --workers 2 --port 8000

    POST /predict    body: float32 little-endian, one input after the other; the answer likewise
    GET  /           what is served, and the shapes as JSON

The file is loaded and tuned once. The workers are forked from that process, so that they share the
memory of the weights.
"""

import argparse
import os
import signal
import socket
from typing import Any

import numpy as np
import uvicorn
from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, HTTPException, Request, Response

from dirprune.deploy import Engine


def create_app(engine: Any, most_inputs: int = 64) -> FastAPI:
    """Make the application.

    Args:
        engine: The network, with one input and one output of fixed sizes. A thread computes one
            call at a time without Python's global lock, so that requests are read meanwhile.
        most_inputs: Largest batch of one request.
    """
    app = FastAPI()
    # More calls at a time would share the same cores, and each needs memory for activations.
    limiter = CapacityLimiter(1)
    input_bytes = 4 * int(np.prod(engine.input_shape))

    @app.get("/")
    async def describe() -> dict[str, object]:
        return {
            "engine": repr(engine),
            "input_shape": engine.input_shape,
            "output_shape": engine.output_shape,
        }

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > most_inputs * input_bytes:
                raise HTTPException(413, f"send at most {most_inputs} inputs")
        if not body or len(body) % input_bytes:
            raise HTTPException(
                400, f"an input has {input_bytes} bytes (float32 {engine.input_shape})"
            )
        x = np.frombuffer(body, "<f4").reshape(-1, *engine.input_shape)
        result = await to_thread.run_sync(engine, x, limiter=limiter)
        return Response(result.tobytes(), media_type="application/octet-stream")

    return app


def serve(engine: Any, host: str = "127.0.0.1", port: int = 8000, workers: int = 1) -> int:
    """Tune a network, fork the workers, and wait for them.

    Args:
        engine: As for :func:`create_app`.
        host: The address to listen on.
        port: The port, 0 for any free one.
        workers: Number of processes.

    Returns:
        The exit status: 1 if a worker failed.
    """
    if -1 in engine.input_shape:
        raise SystemExit(f"{engine!r} has no fixed sizes: save the network without dynamic")
    engine(np.zeros((1, *engine.input_shape), np.float32))  # tunes before the fork
    listeners = _listeners(host, port, workers)
    print(f"http://{host}:{listeners[0].getsockname()[1]} serves {engine!r}", flush=True)
    pids = [_fork(engine, listeners, worker) for worker in range(workers)]
    for listener in listeners:
        listener.close()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: [os.kill(pid, number) for pid in pids])
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    return int(any(statuses))


def _listeners(host: str, port: int, workers: int) -> list[socket.socket]:
    """A socket for each worker, on one port: the kernel spreads the connections over them.

    Of a single socket that all workers share, one worker may take all connections.
    """
    listeners: list[socket.socket] = []
    for _ in range(workers):
        own = socket.create_server((host, port), backlog=1024, reuse_port=True)
        # Connections inherit this. Without it, answers wait up to 40 ms for an acknowledgement:
        # asyncio sets it only for sockets that were opened with the protocol's number.
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listeners.append(own)
        port = own.getsockname()[1]
    return listeners


def _fork(engine: Any, listeners: list[socket.socket], worker: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    for number, listener in enumerate(listeners):
        if number != worker:
            listener.close()
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again after its shutdown
        signal.signal(number, lambda *_: os._exit(0))
    config = uvicorn.Config(create_app(engine), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listeners[worker]])
    os._exit(0)


def main() -> None:
    """Load the network and serve it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="file that dirprune.deploy.save wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free port")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="threads of one call")
    options = parser.parse_args()
    engine = Engine(options.model, threads=options.threads)
    raise SystemExit(serve(engine, options.host, options.port, options.workers))


if __name__ == "__main__":
    main()
