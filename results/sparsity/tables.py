"""Tables and figure of README.md, from runs.csv and law.csv.

python results/sparsity/tables.py
"""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import mean, stdev

import law
from measure import FINAL_SEEDS, MAIN, RATES, SPARSITIES, Job, Result, best_rate, cells, read
from problems import PROBLEMS

HERE = Path(__file__).parent


def figures(done: dict[Job, Result], problem: str, method: str, sparsity: float) -> list[float]:
    """The test figures of the measured seeds at the chosen rate."""
    lr = best_rate(done, problem, method, sparsity)
    if lr is None:
        return []
    jobs = [Job(problem, method, sparsity, lr, seed) for seed in FINAL_SEEDS]
    return [done[job].test for job in jobs if job in done]


def cell(values: list[float], lr: float | None, digits: int) -> str:
    """Mean and standard deviation, with the number of seeds unless it is three."""
    if not values or lr is None:
        return ""
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    count = "" if len(values) == len(FINAL_SEEDS) else f" (n = {len(values)})"
    return f"{mean(values):.{digits}f}{spread}{count} @ {lr:g}"


def final_table(done: dict[Job, Result], problem: str) -> Iterator[str]:
    """Methods by sparsity: the reported figures."""
    digits = 3 if PROBLEMS[problem]().lower_is_better else 2
    columns = sorted(SPARSITIES[problem])
    yield "| method | " + " | ".join(f"{100 * s:g} % zeros" for s in columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    dense = cell(
        figures(done, problem, "dense", 0.0), best_rate(done, problem, "dense", 0.0), digits
    )
    yield f"| dense (0 % zeros): {dense} |" + " |" * len(columns)
    methods = dict.fromkeys(m for m, _ in cells(problem) if m not in ("dense", "narrow"))
    main = MAIN[problem]
    for method in (*main, "narrow", *(m for m in methods if m not in main)):
        row = [
            cell(figures(done, problem, method, s), best_rate(done, problem, method, s), digits)
            for s in columns
        ]
        if any(row):
            yield f"| {method} | " + " | ".join(row) + " |"


def rate_table(done: dict[Job, Result], problem: str, sparsity: float) -> Iterator[str]:
    """Methods by learning rate: the validation figures at seed 0, from which rates were chosen."""
    digits = 3 if PROBLEMS[problem]().lower_is_better else 2
    rates = RATES[problem]
    yield f"| {100 * sparsity:g} % zeros | " + " | ".join(f"{lr:g}" for lr in rates) + " |"
    yield "|---" * (len(rates) + 1) + "|"
    for method in dict.fromkeys(m for m, s in cells(problem) if s == sparsity):
        found = [done.get(Job(problem, method, sparsity, lr, 0)) for lr in rates]
        row = [
            ""
            if r is None
            else "diverged"
            if math.isnan(r.validation)
            else f"{r.validation:.{digits}f}"
            for r in found
        ]
        if any(row):
            yield f"| {method} | " + " | ".join(row) + " |"


def law_table(done: dict[Job, Result]) -> Iterator[str]:
    """The paper's law beside a plan with p = 1 at the same sparsity."""
    yield "| problem | paper's law | its zeros, % | plan, p = 1 | its zeros, % |"
    yield "|---|---|---|---|---|"
    for problem, sparsity in law.TARGETS.items():
        digits = 3 if PROBLEMS[problem]().lower_is_better else 2
        runs = [r for r in law.rows.read(law.OUT, law.Run) if r.problem == problem and r.seed]
        if not runs:
            continue
        lr = best_rate(done, problem, "grda p=1", sparsity)
        by_law = cell([r.test for r in runs], runs[0].lr, digits)
        by_plan = cell(figures(done, problem, "grda p=1", sparsity), lr, digits)
        zeros = ", ".join(f"{100 * r.zeros:.1f}" for r in runs)
        yield f"| {problem} | {by_law} | {zeros} | {by_plan} | {100 * sparsity:g} |"


def draw(done: dict[Job, Result], problem: str, path: Path) -> None:
    """Test figure against sparsity, with error bars of one standard deviation."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = problem
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4))
    columns = sorted(SPARSITIES[problem])
    for method in (*MAIN[problem], "narrow"):
        measured = [(s, v) for s in columns if len(v := figures(done, problem, method, s)) > 1]
        if measured:
            axes.errorbar(
                [100 * s for s, _ in measured],
                [mean(v) for _, v in measured],
                [stdev(v) for _, v in measured],
                marker="o", markersize=4, capsize=3, label=method,
                linestyle="-" if method.startswith("grda") else "--",
            )  # fmt: skip
    dense = figures(done, problem, "dense", 0.0)
    if dense:
        axes.axhline(mean(dense), color="grey", linewidth=1, label="dense")
    axes.set_xlabel("zeros among the weight tensors (%)")
    unit = "cross-entropy (nats)" if PROBLEMS[problem]().lower_is_better else "accuracy (%)"
    axes.set_ylabel(f"test {unit}")
    axes.set_title(problem)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def filled(text: str, name: str, lines: Iterable[str]) -> str:
    """Replace what is between the markers of a table."""
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    block = "\n".join(lines).strip()
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    return re.sub(pattern, lambda _: f"{begin}\n{block}\n{end}", text, flags=re.DOTALL)


def main() -> None:
    """Rewrite the parts of README.md between the markers, and the figures beside it."""
    done = read(HERE / "runs.csv")
    page = HERE / "README.md"
    text = page.read_text()
    for problem in PROBLEMS:
        if f"<!-- {problem} -->" not in text:  # too few runs for a table
            continue
        lines = [*final_table(done, problem), "", "Rates (validation, seed 0):", ""]
        measured = {job.sparsity for job in done if job.problem == problem}
        for sparsity in (s for s in SPARSITIES[problem] if s in measured):
            lines += [*rate_table(done, problem, sparsity), ""]
        text = filled(text, problem, lines)
        if len(measured - {0.0}) > 1:
            draw(done, problem, HERE / f"{problem}.svg")
    text = filled(text, "law", law_table(done))
    page.write_text(text)


if __name__ == "__main__":
    main()
