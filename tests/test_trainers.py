"""Every example of docs/trainers.md runs, against the real libraries."""

import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dirprune import GRDA, SparsityPlan, sparsity_report

PAGE = Path(__file__).parents[1] / "docs" / "trainers.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
BEGINNING, *EXAMPLES = [
    (section.splitlines()[0], "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)))
    for section in SECTIONS
    if "```python" in section
]
LIBRARY = {
    "Lightning": "lightning",
    "Hugging Face Trainer": "transformers",
    "accelerate": "accelerate",
    "timm": "timm",
    "Averaged weights": "lightning",
    "DeepSpeed ZeRO": "deepspeed",
    "skorch": "skorch",
    "ignite": "ignite",
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
    "torchvision's reference recipe": 0.9,
    "skorch": 0.9,
    "ignite": 0.9,
}


@pytest.mark.filterwarnings("ignore")  # the libraries' own
@pytest.mark.parametrize(
    ("title", "code"),
    [
        pytest.param(
            *example, id=example[0], marks=[] if example[0] in QUICK else pytest.mark.slow
        )
        for example in EXAMPLES
        if example[0] != "DeepSpeed ZeRO"
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_callback_leaves_sparse_averages() -> None:
    pytest.importorskip("lightning")
    code = dict(EXAMPLES)
    names: dict[str, Any] = {}
    exec(BEGINNING[1], names)
    exec(code["Averaged weights"], names)
    assert sparsity_report(names["model"]).sparsity > 0.8
    callbacks = "callbacks=[SparsityMonitor()"
    assert callbacks in code["Lightning"]
    exec(code["Lightning"].replace(callbacks, f"{callbacks}, SparseAverage()"), names)
    assert sparsity_report(names["model"]).sparsity > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_deepspeed(stage: int, tmp_path: Path) -> None:
    """In a process of its own, whose process group does not stay."""
    pytest.importorskip("deepspeed")
    code = dict(EXAMPLES)["DeepSpeed ZeRO"].replace('"stage": 2', f'"stage": {stage}')
    script = tmp_path / "script.py"
    check = """
weights = [p for p in model.parameters() if p.dim() > 1]
zeros = sum(int((p == 0).sum()) for p in weights) / sum(p.numel() for p in weights)
assert abs(zeros - 0.9) < 1e-3, zeros
print("passed", flush=True)
import math
import os

os._exit(0)
"""
    start = "import deepspeed\n\ndeepspeed.init_distributed('gloo')\n"
    script.write_text(f"{BEGINNING[1]}\n{start}{code}\n{check}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    environment = os.environ | alone | address | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert "passed" in run.stdout, run.stderr


@pytest.mark.filterwarnings("ignore")
def test_lightnings_weight_averaging_is_kept_as_under_sgd() -> None:
    lightning = pytest.importorskip("lightning")
    names: dict[str, Any] = {}
    exec(BEGINNING[1], names)
    loader = names["loader"]

    class Classifier(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self, make: Callable[..., torch.optim.Optimizer]) -> None:
            super().__init__()
            self.make = make
            self.model = nn.Sequential(
                nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
            )

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.make(self.parameters())

    def distance(make: Callable[..., torch.optim.Optimizer]) -> float:
        """From the final weights to the callback's average, as a share of the average's norm."""
        torch.manual_seed(0)
        model = Classifier(make)
        swa = lightning.pytorch.callbacks.StochasticWeightAveraging(
            swa_lrs=0.05, swa_epoch_start=1, annealing_epochs=1
        )
        quiet = dict.fromkeys(
            ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"],
            False,
        )
        trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", callbacks=[swa], **quiet)
        trainer.fit(model, loader)
        average, final = (
            nn.utils.parameters_to_vector(m.parameters()) for m in (swa._average_model, model)
        )
        return float((average - final).norm() / average.norm())

    dense = distance(lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    sparse = distance(lambda parameters: GRDA(parameters, lr=0.1, c=0.02))
    assert sparse < 1.5 * dense < 0.05


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("diverges", [False, True])
def test_lightnings_manual_optimization_is_monitored(diverges: bool) -> None:
    lightning = pytest.importorskip("lightning")
    from dirprune.integrations.lightning import SparsityMonitor

    class Manual(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.model = nn.Linear(4, 2)

        def training_step(self, batch: Tensor, index: int) -> dict[str, Tensor] | None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            loss = self.model(batch).square().sum() * (math.nan if diverges else 1)
            self.manual_backward(loss)
            optimizer.step()
            return {"loss": loss} if diverges else None

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return GRDA(self.parameters(), lr=0.01)

    monitor = SparsityMonitor(check_every=1)
    quiet = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", callbacks=[monitor], **quiet)
    trainer.fit(Manual(), torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=4))
    assert monitor.diverged == diverges
    assert trainer.global_step == (1 if diverges else 4)
    assert "sparsity" in trainer.callback_metrics


@pytest.mark.filterwarnings("ignore")
def test_the_trainers_filter_of_losses_does_not_hide_a_divergence(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from dirprune.integrations.transformers import SparsityCallback

    class Diverging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"loss": self.layer(x).sum() * math.nan}

    callback, model = SparsityCallback(), Diverging()
    quiet = {"report_to": "none", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    args = transformers.TrainingArguments(tmp_path, max_steps=9, logging_steps=2, **quiet)
    assert args.logging_nan_inf_filter
    optimizer = GRDA(model.parameters(), lr=0.01)
    trainer = transformers.Trainer(
        model, args, train_dataset=[{"x": torch.ones(4)}] * 8, optimizers=(optimizer, None),
        callbacks=[callback],
    )  # fmt: skip
    trainer.train()
    assert callback.diverged
    assert trainer.state.global_step == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_timms_plan_prunes_with_and_without_weight_decay(weight_decay: float) -> None:
    timm = pytest.importorskip("timm")
    from dirprune.integrations.timm import register

    register()
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=12, depth=1, num_heads=2
    )
    plan = SparsityPlan(0.8, steps=2)
    optimizer = timm.optim.create_optimizer_v2(
        model, "adamgrda", lr=0.01, weight_decay=weight_decay, plan=plan
    )
    planned = {id(p) for g in optimizer.param_groups if g["plan"] for p in g["params"]}
    expected = {
        name
        for name, p in model.named_parameters()
        if p.dim() > 1 and name not in ("pos_embed", "cls_token")
    }
    assert {name for name, p in model.named_parameters() if id(p) in planned} == expected
