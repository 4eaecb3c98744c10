import subprocess
import sys

CHILD = """
import torch
from dirprune._support.memory import peak_memory_mib
print(peak_memory_mib(torch.device("cpu")))
"""


def test_the_peak_of_a_parent_is_not_counted() -> None:
    ballast = bytearray(b"1" * (800 << 20))  # a child's ru_maxrss starts here on Linux
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, check=True)
    assert 20 < float(done.stdout) < 600
    assert len(ballast) == 800 << 20
