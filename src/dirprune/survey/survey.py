"""The survey: the loss landscape around finished runs, measured part by part into one folder."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dirprune._support.decode import build
from dirprune._support.processes import broadcast_from_rank0, rank_and_world
from dirprune.landscape.objectives.sweep import digest
from dirprune.survey.config import SurveyConfig, parse_duration, show_duration
from dirprune.survey.connectivity import survey_along, survey_curve, survey_networks, survey_plane
from dirprune.survey.context import SurveyContext
from dirprune.survey.controls import controls
from dirprune.survey.curvature import survey_hessian, survey_training
from dirprune.survey.data import frozen_data
from dirprune.survey.display import SurveyDisplay
from dirprune.survey.estimate import Size, estimate, measure_units, within
from dirprune.survey.networks import Subject, open_subject
from dirprune.survey.process_group import process_group
from dirprune.survey.pruning import survey_directional
from dirprune.survey.record import Record
from dirprune.train.runs import check_contents

_MEASURES: dict[str, Callable[[SurveyContext], None]] = {
    "hessian": survey_hessian,
    "directional": survey_directional,
    "curve": survey_curve,
    "plane": survey_plane,
    "along": survey_along,
    "training": survey_training,
}


def survey(paths: Sequence[Path], config: SurveyConfig, out: Path) -> dict[str, Any]:
    """Measure the landscape around finished runs.

    The same call resumes an interrupted survey; finished parts are not measured again. The
    processes of torchrun share the products and the points; rank 0 shows progress and writes.

    Args:
        paths: Run folders or .safetensors files: first the dense reference (SGD), then the sparse
            network (gRDA), then other networks to compare with.
        config: The options.
        out: Folder of landscape.json, described in docs/landscape.md. It is locked during the
            survey.

    Returns:
        The figures, as in landscape.json.

    Raises:
        ValueError: If the networks have different models or data, the folder holds
            something else, or another survey is writing it.
        FileNotFoundError: If a run or its data does not exist.
    """
    check_contents(out, own="landscape.json")
    with process_group(out) as folder, SurveyDisplay(out) as shown:
        record = Record(folder)
        subject = open_subject(paths, config)
        record.begin(config, _identity(subject), str(subject.layout.device))
        if record.finished:
            shown.print(f"{out} is already finished")
            return record.figures
        chosen = _plan(subject, config, record, shown)
        subject = replace(subject, data=frozen_data(subject.source, chosen, subject.memory_format))
        networks = subject.networks + controls(subject.dense, subject.sparse, config.seed)
        _run(SurveyContext(subject, networks, chosen, record, shown))
        shutil.rmtree(record.work, ignore_errors=True)
        record.finish()
        spent = sum(record.figures["seconds"].values())
        shown.print(f"measured in {show_duration(spent)}: {record.path}")
    return record.figures


def _run(context: SurveyContext) -> None:
    subject, record = context.subject, context.record
    record.get_or_compute("dimension", call=lambda: subject.layout.size)
    sizes = {n: {"samples": d.samples, "batches": d.batches} for n, d in subject.data.items()}
    record.get_or_compute("data", call=lambda: sizes)
    survey_networks(context)
    for part in context.config.parts:
        _MEASURES[part](context)
        spent = record.figures["seconds"].get(part, 0.0)
        context.display.print(f"{part}: {show_duration(spent)}")


def _plan(
    subject: Subject, config: SurveyConfig, record: Record, display: SurveyDisplay
) -> SurveyConfig:
    """Estimate the duration and fit the survey into its budget, unless that is done already."""

    def plan() -> dict[str, Any]:
        display.print("estimating the time: one evaluation, one product, one step of each kind")
        size = _size(subject, config)
        units = broadcast_from_rank0(measure_units(subject, config))
        samples = {name: data.samples for name, data in subject.data.items()}
        # 0 means all images; the estimate for a budget needs their number.
        full = replace(config, samples=samples["train"], test_samples=samples["test"])

        def parts(smaller: SurveyConfig) -> dict[str, float]:
            data = (smaller.samples + smaller.test_samples) / (full.samples + full.test_samples)
            products = smaller.samples / full.samples
            scaled = units._replace(
                evaluation=units.evaluation * data, product=units.product * products
            )
            return estimate(smaller, size, scaled)

        chosen = full
        if config.budget is not None:
            seconds = parse_duration(config.budget)
            chosen = within(full, seconds, lambda smaller: sum(parts(smaller).values()))
        needed = parts(chosen)
        sections = ", ".join(f"{part} {show_duration(s)}" for part, s in needed.items())
        display.print(f"about {show_duration(sum(needed.values()))}: {sections}")
        return {
            "chosen": asdict(chosen),
            "seconds": units._asdict(),
            "sections": needed,
            "total": sum(needed.values()),
        }

    found = record.get_or_compute("plan", call=plan)
    return build(SurveyConfig, found["chosen"], str(record.path))


def _size(subject: Subject, config: SurveyConfig) -> Size:
    made = controls(subject.dense, subject.sparse, config.seed)
    moments = 0
    if "training" in config.parts:
        steps = [{m.step for m in subject.moments(n)} for n in subject.networks[:2]]
        moments = len(steps[0] & steps[1])
    return Size(
        others=len(subject.networks) - 1 + len(made),
        runs=len(subject.networks) - 1,
        batches=len(subject.training),
        moments=moments,
        batchnorm=subject.has_batchnorm,
        processes=rank_and_world()[1],
    )


def _identity(subject: Subject) -> str:
    """Return a digest of networks and data."""
    points = (network.point for network in subject.networks)
    return digest(*points, *(data.digest for data in subject.data.values()))
