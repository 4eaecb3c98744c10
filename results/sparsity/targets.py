"""How exactly a plan reaches its target: ten networks, three seeds, two targets.

    python results/sparsity/targets.py

Each network trains briefly on scikit-learn's digits, as colour images of 32x32 pixels, with a
target for all of its trainable parameters. What counts is the share of zeros at the end. There is
a line for each run in targets.csv; runs that are there are not repeated.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from dirprune.train.config import TrainConfig
from dirprune.train.loop import train

FILE = Path(__file__).parent / "targets.csv"
NETWORKS: dict[str, dict[str, float]] = {
    "mlp": {}, "convnet": {}, "resnet20": {"width": 0.5}, "mnasnet0_5": {},
    "vgg16_bn": {"width": 0.125}, "wrn28x10": {"width": 0.1}, "resnet18": {}, "mobilenet_v2": {},
    "shufflenet_v2_x0_5": {}, "regnet_y_400mf": {},
}  # fmt: skip
METHODS = {"grda": {"lr": 0.01, "warmup_epochs": 0.5}, "adam_grda": {"lr": 1e-3}}
TARGETS = (0.8, 0.95)
SEEDS = (1, 2, 3)
IMAGES = 400


def write_digits(folder: Path) -> None:
    """Write digits as an image folder: as many for testing as for training."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target)):
        if i == 2 * IMAGES:
            break
        parent = folder / ("train" if i < IMAGES else "val") / str(label)
        parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((image * 255 / 16).astype(np.uint8))
        grey.resize((32, 32)).convert("RGB").save(parent / f"{i}.png")


def main(images: Path) -> None:
    write_digits(images)
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
                        batch_size=20, data=f"imagefolder:{images}", **options, **own,
                    )  # fmt: skip
                    with tempfile.TemporaryDirectory() as folder:
                        summary = train(config, Path(folder) / "run")
                    off = 100 * (summary["sparsity"] - target)
                    print(*row, f"{off:+.4f} points", flush=True)
                    with FILE.open("a", newline="") as file:
                        csv.writer(file).writerow([*row, summary["sparsity"]])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as images:
        main(Path(images))
