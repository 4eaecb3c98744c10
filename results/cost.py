"""What training ResNet-50 on ImageNet costs, from measured steps and published scaling.

    hours = epochs * images / (GPUs * images per second of one GPU * efficiency) / 3600

The step of one GPU is in gpu/benchmark-*.json. Its batch lies in the GPU's memory: loading images,
evaluation and checkpoints are left out. `python results/readme.py` writes the table to
docs/cost.md.
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IMAGES = 1_281_167
"""Training images of ILSVRC 2012."""
BATCH = 128
"""Images of the measured step, on each GPU."""
EPOCHS = 150
"""Of the recipe resnet50_imagenet: 140 at a rate of .1 and 10 at .01."""
GPUS = {
    1: 1.0,
    8: 16_621 / (8 * 2_470),  # published, DGX A100, mixed precision: 8 GPUs and 1 GPU, images/s
    64: 16_621 / (8 * 2_470) * 0.9,  # ... and published for 8 to 256 GPUs
}
"""Number of GPUs, and the share of their images per second that remains."""


def hours(ms: float, gpus: int, efficiency: float, epochs: int = EPOCHS) -> float:
    """Hours of a run in which every GPU takes BATCH images in ``ms`` milliseconds."""
    steps = epochs * IMAGES / (BATCH * gpus)
    return steps * ms / 1000 / efficiency / 3600


def table() -> str:
    """Hours of a run on 1, 8 and 64 GPUs, and the GPU-hours."""
    parts = [
        "| GPU | optimizer | ms a step | images/s of one | "
        + " | ".join(f"{n} GPU{'s' * (n > 1)} ({n * BATCH:,} images a step)" for n in GPUS)
        + " |",
        "|---|---|" + "---:|" * (2 + len(GPUS)),
    ]
    for path in sorted((HERE / "gpu").glob("benchmark-*.json")):
        report: dict[str, Any] = json.loads(path.read_text())
        for name in ("GRDA", "SGD momentum fused"):
            ms = report["training step"][name]["ms"]
            cells = []
            for gpus, efficiency in GPUS.items():
                run = hours(ms, gpus, efficiency)
                shown = f"{run:.1f} h" if run >= 1 else f"{60 * run:.0f} min"
                cells.append(shown + f" ({run * gpus:.0f} GPU-hours)" * (gpus > 1))
            speed = BATCH / ms * 1000
            parts.append(
                f"| {report['device']} | {name} | {ms:.2f} | {speed:,.0f} | {' | '.join(cells)} |"
            )
    return "\n".join(parts)
