"""The tables of README.md, made from the files beside this script."""

import csv
import json
from pathlib import Path
from statistics import mean, stdev

HERE = Path(__file__).parent


def rows(name: str) -> list[dict[str, str]]:
    """Read the rows of a CSV file."""
    with (HERE / name).open() as file:
        return list(csv.DictReader(file))


def accuracy() -> str:
    """ResNet-20: validation accuracy by rate at seed 0, test accuracy over the other seeds."""
    found = rows("runs.csv")
    parts = []
    for sparsity in dict.fromkeys(r["sparsity"] for r in found if r["method"] != "dense"):
        of = [r for r in found if r["sparsity"] == sparsity or r["method"] == "dense"]
        rates = sorted({r["lr"] for r in of}, key=float)
        heads = [f"validation, lr {lr}" for lr in rates] + ["test at the best rate", "seeds"]
        parts.append(f"**{float(sparsity):.0%} zeros** ({of[0]['device']}), accuracy in %:\n")
        parts.append("| method | " + " | ".join(heads) + " |\n" + "|---" * (len(heads) + 1) + "|")
        for method in dict.fromkeys(r["method"] for r in of):
            mine = [r for r in of if r["method"] == method]
            tuned = {r["lr"]: float(r["validation"]) for r in mine if r["seed"] == "0"}
            cells = [f"{100 * tuned[lr]:.2f}" if lr in tuned else "" for lr in rates]
            tests = [100 * float(r["test"]) for r in mine if r["seed"] != "0"]
            spread = f" ± {stdev(tests):.2f}" if len(tests) > 1 else ""
            cells += [f"{mean(tests):.2f}{spread}" if tests else "", str(len(tests))]
            parts.append(f"| {method} | " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts).rstrip()


def vgg16() -> str:
    """The ends of the VGG16 runs, and what lies between them, visit by visit."""
    folders = sorted((HERE / "vgg16").iterdir(), reverse=True)
    return "\n\n".join(_vgg16(f"vgg16/{folder.name}") for folder in folders)


def _vgg16(folder: str) -> str:
    found = rows(f"{folder}/vgg16.csv")
    ends = {r["method"]: r for r in found if r["epoch"] == r["epochs"]}
    parts = [f"`{folder}`:\n"]
    parts.append(
        "| | epochs | test accuracy, % | zeros, % | training loss |\n|---|---|---|---|---|"
    )
    for method, r in ends.items():
        parts.append(
            f"| {method} | {r['epochs']} | {100 * float(r['test']):.2f} | "
            f"{100 * float(r['zeros']):.2f} | {float(r['loss']):.4f} |"
        )
    parts.append("\n| path | | training loss | training error, % | test loss | test error, % |")
    parts.append("|---|---|---|---|---|---|")
    points = rows(f"{folder}/landscape.csv")
    for kind in dict.fromkeys(r["path"] for r in points):
        of = [r for r in points if r["path"] == kind]
        worst = max(of, key=lambda r: float(r["train loss"]))
        for words, r in (("SGD's end", of[0]), ("other end", of[-1]),
                         ("middle", of[len(of) // 2]), ("highest", worst)):  # fmt: skip
            parts.append(
                f"| {kind} | {words}, t = {float(r['t']):.2f} | {float(r['train loss']):.4f} | "
                f"{100 * float(r['train error']):.1f} | {float(r['test loss']):.3f} | "
                f"{100 * float(r['test error']):.1f} |"
            )
    if (HERE / folder / "projections.csv").exists():
        parts.append("\n| way from SGD's end | length | share in the top 10 | of a random way |")
        parts.append("|---|---|---|---|")
        parts += [
            f"| {r['way']} | {float(r['length']):.1f} | {float(r['ratio']):.4f} | "
            f"{float(r['random']):.4f} |"
            for r in rows(f"{folder}/projections.csv")
            if r["k"] == "10"
        ]
    return "\n".join(parts)


def benchmark() -> str:
    """All figures of every benchmark file."""
    files = sorted(HERE.glob("benchmark-*.json"))
    parts = []
    for path in files:
        report = json.loads(path.read_text())
        limit = report["copy, TB/s"]
        parts.append(
            f"`{path.name}`: {report['device']}, torch {report['torch']}, Triton "
            f"{report['triton']}, driver {report['driver']}; bandwidth of a copy {limit:.2f} "
            "TB/s.\n"
        )
        parts.append(
            "| one step, ResNet-50's tensors | ms | minimum | host ms |\n|---|---|---|---|"
        )
        for name, t in report["step"].items():
            parts.append(f"| {name} | {t['ms']:.3f} | {t['ms least']:.3f} | {t['host ms']:.3f} |")
        parts.append(
            "\n| the kernel alone, in a CUDA graph | ms | TB/s | bandwidth / copy's |\n"
            "|---|---|---|---|"
        )
        for name, t in report["kernel without host"].items():
            parts.append(f"| {name} | {t['ms']:.3f} | {t['TB/s']:.2f} | {t['of a copy']:.2f} |")
        parts.append(
            "\n| training step, ResNet-50, batch 128, bfloat16 | ms | minimum |\n|---|---|---|"
        )
        for name, t in report["training step"].items():
            parts.append(f"| {name} | {t['ms']:.2f} | {t['ms least']:.2f} |")
        if plan := report.get("plan"):
            parts.append("\n| training step, momentum, p = 2 | ms | minimum |\n|---|---|---|")
            for name, t in plan.items():
                parts.append(f"| {name} | {t['ms']:.2f} | {t['ms least']:.2f} |")
        if curvature := report.get("curvature"):
            parts.append(
                f"\nHessian product of ResNet-18, {curvature['images']} images of "
                f"{curvature['size']} x {curvature['size']}, in true float32: "
                f"{curvature['graph']['ms']:.1f} ms, the time of "
                f"{curvature['graph in gradients']} gradients (captured network); "
                f"{curvature['reverse-over-reverse']['ms']:.1f} ms, the time of "
                f"{curvature['reverse-over-reverse in gradients']} gradients (autograd). The "
                f"products differ by {curvature['difference']:.1e}."
            )
        if waits := report.get("synchronisations"):
            parts.append(
                "\nA training run on the digits synchronises with the device "
                f"{next(iter(waits.values()))} times per step, including evaluation."
            )
        parts.append("")
    return "\n".join(parts).rstrip()


def step_summary() -> str:
    """The newest step times, and the bandwidth of the kernel relative to a copy."""
    report = json.loads(sorted(HERE.glob("benchmark-*.json"))[-1].read_text())
    kernel = report["kernel without host"]
    names = {
        "SGD momentum fused": "`torch.optim.SGD(momentum=0.9, fused=True)`",
        "AdamW fused": "`torch.optim.AdamW(fused=True)`",
        "GRDA": "**`GRDA`**",
        "GRDA momentum": "**`GRDA(momentum=0.9)`**",
        "AdamGRDA": "**`AdamGRDA`**",
    }
    parts = [
        f"One step of ResNet-50's 161 tensors in ms, median (minimum), {report['device']}, torch "
        f"{report['torch']}:\n",
        "| | ms | kernel alone, in a CUDA graph, ms | bandwidth / copy's |\n|---|---|---|---|",
    ]
    for name, words in names.items():
        t, alone = report["step"][name], kernel.get(f"{name} p=1")
        more = f"{alone['ms']:.3f} | {alone['of a copy']:.2f}" if alone else " | "
        parts.append(f"| {words} | {t['ms']:.2f} ({t['ms least']:.2f}) | {more} |")
    return "\n".join(parts)


TABLES = {
    "gpu accuracy": accuracy,
    "gpu vgg16": vgg16,
    "gpu benchmark": benchmark,
    "gpu step": step_summary,
}
