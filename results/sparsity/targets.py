"""How exactly a plan reaches its target: ten networks, three seeds, two targets.

    python results/sparsity/targets.py

Each network trains briefly on real data with a target for all of its trainable parameters; what
counts is the share of zeros at the end. A line for each run in targets.csv; runs that are there
are not repeated.
"""

import csv
import tempfile
from pathlib import Path

from dirprune.train.config import TrainConfig
from dirprune.train.loop import train

FILE = Path(__file__).parent / "targets.csv"
NETWORKS: dict[str, dict[str, float]] = {
    "mlp": {}, "convnet": {}, "resnet20": {"width": 0.5}, "wrn28x10": {"width": 0.1},
    "resnet18": {}, "mobilenet_v2": {}, "mobilenet_v3_small": {}, "shufflenet_v2_x0_5": {},
    "regnet_y_400mf": {}, "mnasnet0_5": {},
}  # fmt: skip
METHODS = {"grda": {"lr": 0.05}, "adam_grda": {"lr": 3e-3}}
TARGETS = (0.8, 0.95)
SEEDS = (1, 2, 3)


def main() -> None:
    done = set()
    if FILE.exists():
        with FILE.open() as file:
            done = {tuple(row[:4]) for row in csv.reader(file)}
    for seed in SEEDS:
        for name, options in NETWORKS.items():
            for method, own in METHODS.items():
                for target in TARGETS:
                    row = (name, method, str(target), str(seed))
                    if row in done:
                        continue
                    config = TrainConfig(
                        model=name, method=method, target_sparsity=target, seed=seed, epochs=2,
                        batch_size=64, **options, **own,
                    )  # fmt: skip
                    with tempfile.TemporaryDirectory() as folder:
                        summary = train(config, Path(folder) / "run")
                    off = 100 * (summary["sparsity"] - target)
                    print(*row, f"{off:+.4f} points", flush=True)
                    with FILE.open("a", newline="") as file:
                        csv.writer(file).writerow([*row, summary["sparsity"]])


if __name__ == "__main__":
    main()
