"""Every example of docs/trainers.md runs, against the real libraries."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dirprune import sparsity_report

PAGE = Path(__file__).parents[1] / "docs" / "trainers.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
BEGINNING, *EXAMPLES = [
    (section.splitlines()[0], "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)))
    for section in SECTIONS
]
LIBRARY = {
    "Lightning": "lightning",
    "Hugging Face Trainer": "transformers",
    "accelerate": "accelerate",
    "timm": "timm",
}
QUICK = {"PyTorch", "Lightning", "Hugging Face Trainer", "timm"}
REACHED = {
    "PyTorch": 0.9,
    "A transformer with AdamGRDA": 0.8,
    "Fine-tuning a trained network to 90 % zeros": 0.9,
    "Lightning": 0.9,
    "Hugging Face Trainer": 0.8,
    "accelerate": 0.9,
    "timm": 0.9,
}


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(
    ("title", "code"),
    [
        pytest.param(
            *example, id=example[0], marks=[] if example[0] in QUICK else pytest.mark.slow
        )
        for example in EXAMPLES
    ],
)
def test_examples_run_and_reach_their_sparsity(
    title: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if title in LIBRARY:
        pytest.importorskip(LIBRARY[title])
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(BEGINNING[1], names)
    exec(code, names)
    if title in REACHED:
        optimizer, model = names.get("optimizer"), names["model"]
        planned = (
            [p for g in optimizer.param_groups if g["plan"] is not None for p in g["params"]]
            if optimizer is not None
            else [p for p in model.parameters() if p.ndim > 1]
        )
        zeros = sum(int((p == 0).sum()) for p in planned) / sum(p.numel() for p in planned)
        assert abs(zeros - REACHED[title]) < 1e-4
        assert sparsity_report(model).sparsity > 0.5
