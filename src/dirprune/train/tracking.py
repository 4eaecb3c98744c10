"""Experiment trackers such as Weights & Biases and MLflow, through accelerate."""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import tracking
from accelerate.utils.dataclasses import LoggerType

from dirprune._support.suggestions import did_you_mean
from dirprune.train.config import TECHNICAL, TrainConfig
from dirprune.train.display import Display

FOLDER = "tracking"
"""Folder inside a run's folder for the files of a tracker."""

_log = logging.getLogger(__name__)


def check_tracker(name: str | None) -> None:
    """Refuse a tracker that accelerate does not know, or whose package is not installed.

    Args:
        name: A name in accelerate's registry, such as wandb or mlflow; None is no tracker.

    Raises:
        ValueError: If accelerate does not know it.
        ImportError: If its package is missing.
    """
    if name is None:
        return
    known = tracking.LOGGER_TYPE_TO_CLASS
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(f"unknown tracker {name!r}: {hint}use one of {', '.join(known)}")
    available: list[LoggerType] = tracking.get_available_trackers()  # type: ignore[no-untyped-call]
    if name in map(str, LoggerType) and name not in map(str, available):
        raise ImportError(f"tracker {name} needs its package: pip install {name}")


class Tracking(Display):
    """Sends the config and the figures of each epoch to an accelerator's tracker.

    A resumed run continues its run in the tracker. If the tracker fails later, for example because
    its server is down, training continues without it.

    Args:
        accelerator: Made with ``log_with``.
        run: The run's folder, with its config.json.
        images: Number of training images in an epoch.
    """

    def __init__(self, accelerator: Any, run: Path, images: int) -> None:
        self._accelerator, self._run, self._images = accelerator, run, images

    def start(self, config: TrainConfig, total: int, steps_per_epoch: int, step: int) -> None:
        """Start a run in the tracker, or continue it.

        Raises:
            ValueError: If the tracker does not start.
        """
        values = {k: v for k, v in asdict(config).items() if v is not None and k not in TECHNICAL}
        values = {k: str(v) if isinstance(v, tuple) else v for k, v in values.items()}
        # config.json records when and where the run was started, and stays when it is resumed.
        identity = hashlib.sha256((self._run / "config.json").read_bytes()).hexdigest()[:16]
        folder, name = self._run / FOLDER, str(self._run)[-100:]
        options: dict[str, Any] = {}
        if "wandb" in map(str, self._accelerator.log_with):
            folder.mkdir(exist_ok=True)
            options["wandb"] = {"id": identity, "name": name, "resume": "allow", "dir": folder}
        project = os.environ.get("WANDB_PROJECT", "dirprune")
        try:
            if "mlflow" in map(str, self._accelerator.log_with):
                options["mlflow"] = {"run_name": name, **_mlflow_run(identity)}
            self._accelerator.init_trackers(project, values, options)
        except Exception as error:
            self._accelerator.trackers.clear()
            raise ValueError(f"the tracker does not start: {error or type(error)}") from error

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Log every number of the epoch, the test error, and the images per second."""
        values = {k: v for k, v in record.items() if isinstance(v, (int, float)) and k != "step"}
        values["test_error"] = 1 - record["test_accuracy"]
        values["images_per_second"] = self._images / record["seconds"]
        self._or_without(lambda tracker: tracker.log(values, step=record["step"]))

    def stop(self) -> None:
        """End the tracker's run. accelerate's end_training would also end the process group."""
        self._or_without(lambda tracker: tracker.finish())
        self._accelerator.trackers.clear()

    def _or_without(self, call: Callable[[Any], None]) -> None:
        try:
            for tracker in self._accelerator.trackers:
                call(tracker)
        except Exception as error:
            _log.warning("the tracker failed; training continues without it: %s", error)
            self._accelerator.trackers.clear()


def _mlflow_run(identity: str) -> dict[str, Any]:
    """Return the id of a resumed run; MLflow chooses the ids, so the run is found by its tag."""
    import mlflow

    found = mlflow.search_runs(
        filter_string=f"tags.dirprune = '{identity}'",
        search_all_experiments=True,
        output_format="list",
    )
    return {"tags": {"dirprune": identity}, "run_id": found[0].info.run_id if found else None}
