"""How exactly a plan reaches its target: ten networks, three seeds, 95 % zeros.

    python results/sparsity/targets.py

Each network takes 40 steps on scikit-learn's digits, as colour images of 32x32 pixels. What counts
is the share of zeros among the planned weights at the end. The figures go to targets.csv.
"""

import csv
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

from dirprune import GRDA, SparsityPlan, param_groups
from dirprune.models import build

NETWORKS = {
    "mlp": 1.0, "convnet": 1.0, "resnet20": 1.0, "vgg16": 0.25, "vgg16_bn": 0.25,
    "wrn28x10": 0.1, "resnet18": 1.0, "mobilenet_v2": 1.0, "shufflenet_v2_x0_5": 1.0,
    "regnet_y_400mf": 1.0,
}  # fmt: skip
TARGET, STEPS, BATCH = 0.95, 40, 16


def reached(name: str, width: float, seed: int) -> float:
    """Train one network; return its share of zeros."""
    torch.manual_seed(seed)
    digits = load_digits()
    grey = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(grey, (32, 32)).expand(-1, 3, -1, -1)
    labels = torch.tensor(digits.target)
    model = build(name, num_classes=10, channels=3, size=(32, 32), width=width)
    plan = SparsityPlan(TARGET, STEPS)
    optimizer = GRDA(param_groups(model, "weights"), 0.01, momentum=0.9, plan=plan)
    for _ in range(STEPS):
        chosen = torch.randint(len(labels), (BATCH,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    planned = optimizer.param_groups[0]["params"]
    return sum(int((p == 0).sum()) for p in planned) / sum(p.numel() for p in planned)


def main() -> None:
    with (Path(__file__).parent / "targets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["network", "seed", "zeros"])
        for name, width in NETWORKS.items():
            for seed in (1, 2, 3):
                zeros = reached(name, width, seed)
                print(name, seed, f"{100 * (zeros - TARGET):+.4f} points", flush=True)
                writer.writerow([name, seed, zeros])


if __name__ == "__main__":
    main()
