"""The tables of README.md, made from the files beside this script."""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from measure import (  # noqa: E402
    BY_COSTS,
    CHANNELS,
    FINAL_SEEDS,
    RATES,
    TARGETS,
    TWO_FOUR,
    Job,
    Result,
    at_seed,
    chosen,
    read,
    trials,
)


def spread(values: list[float], digits: int = 2) -> str:
    """Mean and standard deviation, with the number of values unless there is one for each seed."""
    if not values:
        return ""
    error = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    count = "" if len(values) == len(FINAL_SEEDS) else f" (n = {len(values)})"
    return f"{mean(values):.{digits}f}{error}{count}"


def at_final_seeds(done: dict[Job, Result], best: Job | None) -> list[Result]:
    """The runs of the final seeds."""
    jobs = [at_seed(best, seed) for seed in FINAL_SEEDS] if best else []
    return [done[job] for job in jobs if job in done]


def test_row(done: dict[Job, Result], method: str, target: float) -> str:
    """Test accuracy, multiply-adds and size at the chosen setting."""
    best = chosen(done, method, target)
    found = at_final_seeds(done, best)
    if best is None or not found:
        return f"| {method} | not measured | | | |"
    schedule = "" if best.schedule == "one" else ", two cosines"
    macs = [100 * r.macs for r in found]
    low, high = f"{min(macs):.1f}", f"{max(macs):.1f}"
    cells = [
        spread([r.test for r in found]),
        low if low == high else f"{mean(macs):.1f} ({low} to {high})",
        f"{mean(r.parameters for r in found):,.0f}",
        f"{best.lr:g}{schedule}",
    ]
    return f"| {method} | {' | '.join(cells)} |"


def channels() -> str:
    """Test accuracy of networks with fewer channels, one table per target."""
    done = read(HERE / "runs.csv")
    parts = []
    for target in TARGETS:
        parts.append(f"**Target: {target:.0%} of the multiply-adds**\n")
        parts.append("| method | test accuracy, % | multiply-adds, % | parameters | setting |")
        parts.append("|---|---|---|---|---|")
        parts.append(test_row(done, "dense", 1.0))
        parts += [test_row(done, method, target) for method in (*CHANNELS, *BY_COSTS)]
        parts.append("")
    return "\n".join(parts).rstrip()


def two_four() -> str:
    """Test accuracy at two of four zeros."""
    done = read(HERE / "runs.csv")
    parts = ["| method | test accuracy, % | zeros, % | setting |\n|---|---|---|---|"]
    for method in ("dense", *TWO_FOUR):
        best = chosen(done, method, 1.0)
        found = at_final_seeds(done, best)
        if best is None or not found:
            parts.append(f"| {method} | not measured | | |")
            continue
        schedule = "" if best.schedule == "one" else ", two cosines"
        zeros = f"{100 * mean(r.zeros for r in found):.1f}"
        accuracy = spread([r.test for r in found])
        parts.append(f"| {method} | {accuracy} | {zeros} | {best.lr:g}{schedule} |")
    return "\n".join(parts)


def settings() -> str:
    """Validation accuracy at seed 0, from which the settings were chosen."""
    done = read(HERE / "runs.csv")
    kinds = [(lr, schedule) for schedule in ("one", "two") for lr in RATES]
    heads = [f"{lr:g}{'' if s == 'one' else ', two cosines'}" for lr, s in kinds]
    parts = ["| method | target, % | " + " | ".join(heads) + " |\n" + "|---" * 6 + "|"]
    places = [("dense", 1.0), *((m, t) for t in TARGETS for m in (*CHANNELS, *BY_COSTS))]
    for method, target in [*places, *((method, 1.0) for method in TWO_FOUR)]:
        cells = []
        for lr, schedule in kinds:
            found = [r for r in trials(done, method, target, lr) if r.schedule == schedule]
            closest = min(found, key=lambda r: abs(r.macs - target + 0.01), default=None)
            cells.append("" if closest is None else f"{closest.validation:.2f}")
            if closest is not None and method.startswith("grda"):
                cells[-1] += f" (sparsity {closest.sparsity:g}, {100 * closest.macs:.1f} %)"
        if any(cells):
            parts.append(f"| {method} | {100 * target:g} | " + " | ".join(cells) + " |")
    return "\n".join(parts)


def latency() -> str:
    """Latency of the networks of seed 1 relative to the dense network."""
    path = HERE / "latency.json"
    if not path.exists():
        return "Not measured."
    report = json.loads(path.read_text())
    names = [
        f"{runtime}, batch {batch}" for runtime in ("ONNX Runtime", "torch") for batch in (1, 64)
    ]
    cpu = report["environment"]["hardware"]["cpu"]
    parts = [
        f"Time of the dense network divided by that of the smaller one, median (quartiles) of "
        f"{report['rounds']} interleaved rounds, one thread, {cpu}:\n",
        "| network | multiply-adds, % | " + " | ".join(names) + " |\n" + "|---" * 6 + "|",
    ]
    for network, figures in report["networks"].items():
        cells = ["{1:.2f} ({0:.2f}-{2:.2f})".format(*figures[name]) for name in names]
        name = network.rsplit("-", 1)[0].replace("-", " ")
        parts.append(f"| {name} | {100 * figures['macs']:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(parts)


TABLES = {
    "structures channels": channels,
    "structures two-four": two_four,
    "structures settings": settings,
    "structures latency": latency,
}
