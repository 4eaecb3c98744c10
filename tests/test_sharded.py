"""GRDA under FSDP2 and distributed checkpointing, in two processes."""

import os
import subprocess
import sys
from pathlib import Path


def test_sharded_parameters_step_as_whole_ones() -> None:
    script = Path(__file__).parent / "scripts" / "sharded.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*command, "--nproc_per_node", "2", str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "same" in run.stdout
