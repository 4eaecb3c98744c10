"""Measure the server: p50, p99 and inputs per second on the loopback.

python load.py http://127.0.0.1:8000 --clients 8 --seconds 10
"""

import argparse
import http.client
import json
import threading
import time
from urllib.parse import urlparse

import numpy as np


def main() -> None:
    """Send requests of one input from some clients, each on a connection of its own."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    address = urlparse(options.url).netloc

    connection = http.client.HTTPConnection(address)
    connection.request("GET", "/")
    shape = json.loads(connection.getresponse().read())["input_shape"]
    body = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).tobytes()
    times: list[float] = []
    end = time.perf_counter() + options.seconds

    def client() -> None:
        own = http.client.HTTPConnection(address)
        while (start := time.perf_counter()) < end:
            own.request("POST", "/predict", body)
            answer = own.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the server answered {answer.status}")
            times.append(time.perf_counter() - start)

    threads = [threading.Thread(target=client) for _ in range(options.clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    print(
        f"{len(times)} requests, {options.clients} clients: p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
        f"{len(times) / options.seconds:.1f} inputs/s"
    )


if __name__ == "__main__":
    main()
