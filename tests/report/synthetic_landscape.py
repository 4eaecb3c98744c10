"""A landscape.json computed in closed form: a quadratic loss with a known, diagonal Hessian.

.. math:: L(w) = 10^{-3} + (w - m)^T H (w - m) / 2, \\qquad H = diag(h)
"""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SIZE, K, POINTS, GRID = 1500, 10, 61, 15
NAMES = ("sgd", "grda", "sgd-2", "sgd-seed-7", "magnitude", "soft_threshold", "random")
SECTIONS = ("hessian", "training", "directional", "curve", "plane", "along")


class Quadratic:
    """The networks and the exact figures of a landscape."""

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        order = np.arange(1, SIZE + 1)
        self.h = 20.0 * order**-1.8 - 1e-4
        self.minimum = draw.normal(size=SIZE) * 0.3
        dense = self.minimum + draw.normal(size=SIZE) * 0.002
        flat = np.clip(order / 40, 0, 1)  # gRDA moves in flat directions
        cut = np.sort(abs(dense))[int(0.9 * SIZE)]
        pruned = np.where(abs(dense) < cut, 0.0, dense)
        soft = np.sign(dense) * np.maximum(abs(dense) - cut, 0)
        sparse = np.where(pruned == 0, dense * (1 - flat), pruned)
        sparse[order > 40] = pruned[order > 40]
        away = draw.normal(size=SIZE)
        length = float(np.linalg.norm(sparse - dense))
        self.points = {
            "sgd": dense,
            "grda": sparse,
            "sgd-2": dense + draw.normal(size=SIZE) * 0.05 * flat,
            "sgd-seed-7": dense + draw.normal(size=SIZE) * 0.25,
            "magnitude": pruned,
            "soft_threshold": soft,
            "random": dense + away * length / np.linalg.norm(away),
        }
        self.bend = (dense + sparse) / 2 - 0.6 * length * _unit(np.exp(-order / 30))
        self.dense, self.sparse = dense, sparse

    def loss(self, w: Array, data: str = "train") -> float:
        shift = {"train": 0.0, "test": 0.02, "augmented": 0.005}[data]
        off = w - self.minimum
        return float(1e-3 + shift + 0.5 * off @ (np.maximum(self.h, 0) * off))

    def figures(self, w: Array) -> dict[str, dict[str, float]]:
        return {
            data: {"loss": self.loss(w, data), "error": error(self.loss(w, data))}
            for data in ("train", "test", "augmented")
        }


def error(loss: float) -> float:
    return 0.9 * (1 - math.exp(-loss))


def landscape(
    sections: tuple[str, ...] = SECTIONS, status: str = "finished", seed: int = 0
) -> dict[str, Any]:
    """Return landscape.json with the given sections, as docs/landscape.md describes it."""
    made = Quadratic(seed)
    parts = {
        "hessian": _hessian,
        "training": _training,
        "directional": _directional,
        "curve": _curves,
        "plane": _plane,
        "along": _along,
    }
    return {
        "format": "dirprune-landscape",
        "version": 1,
        "status": status,
        "config": {"what": ",".join(SECTIONS), "grid": 21, "eigenvectors": K, "budget": None},
        "subject": "0123abcd",
        "plan": {
            "chosen": {"grid": GRID, "eigenvectors": K},
            "seconds": {"evaluation": 0.1},
            "sections": {"curve": 20.0},
            "total": 60.0,
        },
        "seconds": dict.fromkeys(sections, 12.5),
        "command": ["dirprune", "landscape", "sgd", "grda"],
        "versions": {"python": "3.11.2", "dirprune": "0.2.0"},
        "commit": None,
        "hardware": {"cpu": "Example 4-core"},
        "started": "2026-01-02T03:04:05+00:00",
        "dimension": SIZE,
        "data": {"train": {"samples": 4000, "batches": 8}},
        "networks": [_network(made, name) for name in NAMES],
        **{name: parts[name](made) for name in sections},
    }


def write_landscape(folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(landscape(**options))
    (folder / "landscape.json").write_text(text, encoding="utf-8")
    return folder


def _network(made: Quadratic, name: str) -> dict[str, Any]:
    w = made.points[name]
    role = {"sgd": "dense", "grda": "sparse"}.get(name, "run" if "-" in name else "control")
    return {
        "name": name,
        "role": role,
        "path": None if role == "control" else f"runs/{name}",
        "method": None if role == "control" else name.partition("-")[0],
        "seed": None if role == "control" else 1,
        "batch_seed": 2 if name == "sgd-2" else None,
        "zeros": float(np.mean(w == 0)),
        "norm": float(np.linalg.norm(w)),
        "distance": float(np.linalg.norm(w - made.dense)),
        "stored": made.figures(w),
        "measured": made.figures(w),
        "shift": None,
    }


def _hessian(made: Quadratic) -> dict[str, Any]:
    top = float(made.h[0])
    draw = np.random.default_rng(5)
    picked = np.sort(np.concatenate([made.h[:30], draw.choice(made.h[30:], 20)]))
    weights = np.where(picked > made.h[30], 1.0, (SIZE - 30) / 20) / SIZE
    decades = [top * 10 ** (power / 4) for power in range(-24, 1)]
    t = [*(-x for x in reversed(decades[8::4])), 0.0, *decades]
    return {
        "top": {
            "samples": 4000,
            "k": K,
            "values": made.h[:K].tolist(),
            "residuals": [1e-4] * K,
            "noise": 1e-6,
            "products": 120,
            "converged": True,
        },
        "density": {
            "trace": [float(made.h.sum()), 0.3],
            "nodes": [picked.tolist()],
            "weights": [(weights / weights.sum()).tolist()],
            "t": [0.0],
            "phi": [1.0],
        },
        "chance": [math.sqrt(i / SIZE) for i in range(1, K + 1)],
        "of": {name: _seen(made, made.points[name] - made.dense, t) for name in NAMES[1:]},
        "weights_ratios": {name: _ratios(made.points[name]) for name in NAMES},
        "top_of": {name: (made.h[:5] * 1.2).tolist() for name in NAMES[1:4]},
    }


def _seen(made: Quadratic, d: Array, t: list[float]) -> dict[str, Any]:
    share = d**2 / (d @ d)
    below = [float(share[made.h <= x].sum()) for x in t]
    return {
        "ratios": _ratios(d),
        "rayleigh": float(share @ made.h),
        "nodes": made.h[:50].tolist(),
        "weights": share[:50].tolist(),
        "t": t,
        "below": [[1 - 1.2 * (1 - x) if x > 0.5 else x, 1 - 0.8 * (1 - x)] for x in below],
    }


def _ratios(d: Array) -> list[float]:
    found: list[float] = (np.sqrt(np.cumsum(d[:K] ** 2)) / np.linalg.norm(d)).tolist()
    return found


def _training(made: Quadratic) -> dict[str, Any]:
    epochs = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0]
    final = {name: _ratios(made.points[name] - made.dense)[-1] for name in NAMES[1:]}
    return {
        str(round(45 * e)): {
            "epoch": e,
            "values": made.h[:K].tolist(),
            "ratios": {name: r * (1 + 4 * math.exp(-e / 6)) for name, r in final.items()},
        }
        for e in epochs
    }


def _directional(made: Quadratic) -> dict[str, Any]:
    w = made.dense
    s = 1 + 0.02 * np.sin(np.arange(SIZE)) - np.where(np.arange(SIZE) % 97 == 0, 1.3, 0.0)
    table: dict[str, list[dict[str, Any]]] = {}
    for sparsity in (0.5, 0.7, 0.9, 0.95):
        for method, k in (("directional", 1), ("directional", K), ("magnitude", None),
                          ("soft_threshold", None), ("obd", None)):  # fmt: skip
            cut = np.sort(abs(w))[int(sparsity * SIZE)]
            kept = np.where(abs(w) < cut, 0.0, w)
            worse = {"magnitude": 1.0, "obd": 0.6, "soft_threshold": 1.8}.get(method, 1.6)
            loss = worse * made.loss(kept)
            figures = {"loss": loss, "error": error(loss)}
            table.setdefault(f"{sparsity:.4f}", []).append(
                {
                    "method": method,
                    "k": k,
                    "sparsity": sparsity,
                    "lam": float(cut) if method == "directional" else None,
                    "overlap": 1.0 if method == "magnitude" else 0.97,
                    "clipped": 0.4 if method == "directional" else None,
                    "off_flat": 0.01 if method == "directional" else None,
                    "train": figures,
                    "test": figures,
                    "refreshed": {d: {"loss": loss / 2, "error": error(loss / 2)}
                                  for d in ("train", "test")},
                }
            )  # fmt: skip
    return {
        "sharp": {
            "scores": {"negative": float(np.mean(s <= 0)), "mean": 0.9, "quantiles": [[0.5, 1.0]]},
            "sample": {"w": abs(w).tolist(), "s": s.tolist()},
            "largest_sparsity": float(np.mean(s > 0)),
        },
        "diagonal": {"probes": 50},
        "table": table,
    }


def _curves(made: Quadratic) -> dict[str, Any]:
    found = {}
    for name in NAMES[1:]:
        start = made.points[name]
        bend = made.bend if name == "grda" else (start + made.dense) / 2 + 0.1 * made.minimum
        found[name] = {
            "line": _path(made, start, (start + made.dense) / 2),
            "bezier": _path(made, start, bend),
            "fit": {"epochs": 3, "losses": [0.3, 0.2, 0.1]},
        }
    return found


def _path(made: Quadratic, start: Array, bend: Array) -> dict[str, Any]:
    t = [i / (POINTS - 1) for i in range(POINTS)]
    ws = [_bezier(start, bend, made.dense, x) for x in t]
    losses = {d: [made.loss(w, d) for w in ws] for d in ("train", "test", "augmented")}
    face = start == 0
    norms = [float(np.linalg.norm(w)) for w in ws]
    steps = [float(np.linalg.norm(b - a)) for a, b in pairwise(ws)]
    return {
        "t": t,
        "length": sum(steps),
        "distance": float(np.linalg.norm(start - made.dense)),
        "policy": "refresh",
        "loss": {d: profile(v) for d, v in losses.items()},
        "error": {d: profile([error(x) for x in v]) for d, v in losses.items()},
        "zeros": [float(np.mean(w == 0)) for w in ws],
        "off_face": [
            float(np.linalg.norm(w[face])) / norm for w, norm in zip(ws, norms, strict=True)
        ]
        if face.any()
        else None,
        "stored": [made.figures(start), made.figures(made.dense)],
        "shifts": [None, None],
    }


def profile(values: list[float]) -> dict[str, Any]:
    last = len(values) - 1
    line = [values[0] + (values[-1] - values[0]) * i / last for i in range(last + 1)]
    at = values.index(max(values))
    return {
        "values": values,
        "largest": {"t": at / last, "value": values[at]},
        "mean": float(np.mean(values)),
        "barrier": max(0.0, *(v - x for v, x in zip(values, line, strict=True))),
        "rise": max(values) - max(values[0], values[-1]),
    }


def _plane(made: Quadratic) -> dict[str, Any]:
    u = _unit(made.sparse - made.dense)
    off = made.bend - made.dense
    v = _unit(off - (off @ u) * u)

    def place(w: Array) -> list[float]:
        x, y = float((w - made.dense) @ u), float((w - made.dense) @ v)
        return [x, y, float(np.linalg.norm(w - made.dense - x * u - y * v))]

    known = [place(w) for w in (made.dense, made.sparse, made.bend)]
    found = _grid(made, u, v, *(_axis([p[i] for p in known]) for i in (0, 1)))
    ts = np.linspace(0, 1, POINTS)
    steps = np.linspace(3, 0, 8)
    tracks = {
        name: [place(made.points[name] + s * (0.4 * (made.sparse - made.dense) + 0.2 * off))
               for s in steps]
        for name in NAMES[:2]
    }  # fmt: skip
    lams = np.linspace(0, np.abs(made.dense).max() / 2, 12)
    shrunk = [np.sign(made.dense) * np.maximum(abs(made.dense) - lam, 0) for lam in lams]
    return {
        "measured": {
            "third": "bend",
            "figures": {
                **found,
                "known": known,
                "measured": [made.figures(w) for w in (made.dense, made.sparse, made.bend)],
                "stored": [made.figures(w) for w in (made.dense, made.sparse, made.bend)],
                "shifts": [None] * 3,
                "policy": "refresh",
            },
        },
        "networks": {name: place(made.points[name]) for name in NAMES},
        "curve": {
            "t": ts.tolist(),
            "at": [place(_bezier(made.sparse, made.bend, made.dense, t)) for t in ts],
        },
        "line": {"t": [0.0, 1.0], "at": known[1::-1]},
        "trajectories": {
            name: {"step": list(range(8)), "epoch": [4.0 * i for i in range(8)], "at": at}
            for name, at in tracks.items()
        },
        "directional": {
            "lam": lams.tolist(),
            "sparsity": [float(np.mean(w == 0)) for w in shrunk],
            "at": [place(w) for w in shrunk],
        },
    }


def _along(made: Quadratic) -> dict[str, Any]:
    draw = np.random.default_rng(9)
    u, v = (_unit(draw.normal(size=SIZE)) * np.linalg.norm(made.dense) for _ in range(2))
    found = _grid(made, u, v, _axis([-1.0, 1.0]), _axis([-1.0, 1.0]))
    return {"measured": {**found, "measured": [made.figures(made.dense)], "known": []}}


def _grid(made: Quadratic, u: Array, v: Array, x: list[float], y: list[float]) -> dict[str, Any]:
    values = {
        d: [[made.loss(made.dense + a * u + b * v, d) for a in x] for b in y]
        for d in ("train", "test")
    }
    errors = {d: [[error(z) for z in row] for row in grid] for d, grid in values.items()}
    return {"x": x, "y": y, "loss": values, "error": errors}


def _bezier(a: Array, bend: Array, b: Array, t: float) -> Array:
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * bend + t**2 * b


def _axis(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    room = 0.2 * (high - low)
    found: list[float] = np.linspace(low - room, high + room, GRID).tolist()
    return found


def _unit(w: Array) -> Array:
    found: Array = w / np.linalg.norm(w)
    return found
