"""Draw the picture of the README from the files here: loss against zeros, file size, latency.

python results/picture.py [--out docs/measured.svg]
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean, stdev

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "sparsity"))

from measure import read  # noqa: E402
from tables import figures  # noqa: E402

OURS, OTHERS, MUTED = "#1f6fb2", "#9a9a9a", "#c25b1e"
METHODS = {
    "grda p=2": ("AdamGRDA", OURS, "o"),
    "hard": ("hard threshold", OTHERS, "s"),
    "gmp": ("gradual magnitude pruning", MUTED, "^"),
}
FILES = {
    "dense": "dense float32",
    "zstd -19": "dense file, zstd -19",
    "float32": "dirprune float32",
    "float16": "dirprune float16",
    "int8": "dirprune int8",
}
RUNTIMES = {
    "onnxruntime f32": "ONNX Runtime",
    "openvino f32": "OpenVINO",
    "onnxruntime i8": "ONNX Runtime int8",
    "openvino i8": "OpenVINO int8",
    "dirprune f32": "dirprune",
}


def draw_loss(axes: Axes) -> None:
    """Cross-entropy of the character transformer, mean and deviation over three seeds."""
    done = read(HERE / "sparsity" / "runs.csv")
    problem = "characters-clipped"
    dense = mean(figures(done, problem, "dense", 0.0))
    axes.axhline(dense, color="black", linewidth=1, linestyle=":")
    axes.text(89.2, dense, "dense", va="bottom", fontsize=8)
    for method, (label, colour, marker) in METHODS.items():
        values = [figures(done, problem, method, sparsity) for sparsity in (0.9, 0.95)]
        axes.errorbar(
            [90, 95], list(map(mean, values)), list(map(stdev, values)), color=colour,
            marker=marker, markersize=5, capsize=3, linewidth=1.5, label=label,
        )  # fmt: skip
    axes.set(xlim=(89, 96), xticks=[90, 95], xlabel="zeros, %", ylabel="cross-entropy, nats")
    axes.set_title("Character transformer: test loss")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_ylim(dense - 0.05, 2.3)


def draw_bars(axes: Axes, bars: dict[str, float], unit: str, title: str) -> None:
    """Horizontal bars with their values; the smaller, the better."""
    names = list(bars)[::-1]
    colours = [OURS if name.startswith("dirprune") else OTHERS for name in names]
    axes.barh(names, [bars[name] for name in names], color=colours, height=0.6)
    largest = max(bars.values())
    for i, name in enumerate(names):
        axes.text(bars[name] + 0.02 * largest, i, f"{bars[name]:.3g}", va="center", fontsize=8)
    axes.set(xlim=(0, 1.15 * largest), xlabel=unit)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_title(title)


def file_sizes() -> dict[str, float]:
    """Megabytes of the paper's ResNet-50."""
    report = json.loads((HERE / "size" / "resnet50.json").read_text())
    return {label: report["bytes"][name] / 1e6 for name, label in FILES.items()}


def latencies() -> dict[str, float]:
    """Milliseconds for one image on two threads, medians."""
    report = json.loads((HERE / "engine" / "zen3-resnet50.json").read_text())
    rows = report["networks"]["resnet50"]["rows"]
    found = {
        f"{row['runtime'].removesuffix('-int8')} {row['precision']}": row["quartiles"][1]
        for row in rows
        if row["batch"] == 1 and row["threads"] == 2
    }
    return {label: found[name] for name, label in RUNTIMES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "measured.svg")
    args = parser.parse_args()
    plt.rcParams |= {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "dirprune",
        "svg.fonttype": "none",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    draw_loss(axes[0])
    draw_bars(axes[1], file_sizes(), "MB", "ResNet-50, 91.7 % zeros: file")
    draw_bars(axes[2], latencies(), "ms", "ResNet-50, one image, two threads")
    figure.savefig(args.out, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    main()
