"""How exactly a plan reaches its target: ten networks, three seeds, 95 % zeros.

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
    "mlp": {}, "convnet": {}, "resnet20": {"width": 0.5}, "shufflenet_v2_x1_0": {},
    "vgg16_bn": {"width": 0.125}, "wrn28x10": {"width": 0.1}, "resnet18": {}, "mobilenet_v2": {},
    "shufflenet_v2_x0_5": {}, "regnet_y_400mf": {},
}  # fmt: skip
TARGET = 0.95
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
            done = {tuple(row[:2]) for row in csv.reader(file)}
    for seed in SEEDS:
        for name, options in NETWORKS.items():
            if (name, str(seed)) in done:
                continue
            config = TrainConfig(
                model=name, target_sparsity=TARGET, seed=seed, epochs=2, batch_size=20, lr=0.01,
                warmup_epochs=0.5, data=f"imagefolder:{images}", **options,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                reached = train(config, Path(folder) / "run")["sparsity"]
            print(name, seed, f"{100 * (reached - TARGET):+.4f} points", flush=True)
            with FILE.open("a", newline="") as file:
                csv.writer(file).writerow([name, seed, reached])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as images:
        main(Path(images))
