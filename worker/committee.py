"""Train what a spec asks for: `fit` is the way in, for one network and for a committee.

A committee's members are runs of `training.fit`, each of a spec of its own, advanced in lockstep: after every step
each of them stands at the same one, so that they can be stopped, stored and resumed as one, and each ends with the
very weights that it would have alone.
"""

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from statistics import fmean

import torch

from service.checkpoints import Snapshot, of_members, of_network
from service.data.datasets import Dataset
from service.network import Committee, Network, load_arrays
from service.spec import TrainingSpec
from worker import training
from worker.device import Resident, deterministic, place
from worker.training import Diverged, Report


def fit(
    spec: TrainingSpec,
    dataset: Dataset | Resident,
    *,
    device: torch.device,
    resume: Snapshot | None = None,
    teacher: Network | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generator[Report, None, None]:
    """Train the spec's network or its committee, and report each step as `training.fit` does.

    A committee's loss and gradient norm are the means of its members', its metrics those of their common answer,
    and its snapshots hold each member's arrays under `members.{i}.`. Raises what `training.fit` does; a member that
    diverges ends them all."""
    if spec.committee is None:
        return training.fit(spec, dataset, device=device, resume=resume, teacher=teacher, clock=clock)
    return _in_lockstep(spec, dataset, device=device, resume=resume, teacher=teacher, clock=clock)


def _in_lockstep(
    spec: TrainingSpec,
    dataset: Dataset | Resident,
    *,
    device: torch.device,
    resume: Snapshot | None,
    teacher: Network | None,
    clock: Callable[[], float],
) -> Generator[Report, None, None]:
    data = dataset if isinstance(dataset, Resident) else place(dataset, device)
    committee, unwatched = Committee(spec).to(device), _unwatched(data)
    # each run sets determinism and puts back what was there before: they end while it still holds
    with deterministic(enabled=spec.deterministic), ExitStack() as runs:
        members = [
            runs.enter_context(
                closing(
                    training.fit(
                        _unwatched_spec(member),
                        unwatched,
                        device=device,
                        resume=None if resume is None else _part(resume, spec, index),
                        teacher=teacher,
                        clock=clock,
                    )
                )
            )
            for index, member in enumerate(spec.networks)
        ]
        for reports in zip(*members, strict=True):
            yield _report(committee, data, reports)


def _unwatched(data: Resident) -> Resident:
    """The training set, and next to nothing to take figures of: those of single members nobody asks for. That a
    member takes some says that the committee's are due."""
    return Resident(data.dataset, data.device, data.train, data.validation.first(1), data.test.first(1))


def _unwatched_spec(spec: TrainingSpec) -> TrainingSpec:
    evaluation = spec.evaluation.model_copy(update={"train_examples": 1})
    return spec.model_copy(update={"evaluation": evaluation})


def _report(committee: Committee, data: Resident, reports: Sequence[Report]) -> Report:
    first = reports[0]
    metrics = _figures(committee, data, reports) if first.metrics else {}
    return replace(
        first,
        loss=fmean(report.loss for report in reports) if first.step else metrics["train_loss"],
        gradient_norm=fmean(report.gradient_norm for report in reports),
        metrics=metrics,
        snapshot=partial(_snapshot, reports),
    )


def _figures(committee: Committee, data: Resident, reports: Sequence[Report]) -> dict[str, float]:
    """The metrics of the members' common answer. Raises Diverged when one is not finite."""
    for network, report in zip(committee.networks, reports, strict=True):
        load_arrays(network, report.snapshot().weights)
    metrics = training.figures_of(committee, data)
    if not all(map(math.isfinite, metrics.values())):
        raise Diverged(reports[0].step, reports[0].loss, reports[0].learning_rate)
    return metrics


def _snapshot(reports: Sequence[Report]) -> Snapshot:
    """All members as they stand."""
    parts = [report.snapshot() for report in reports]
    return Snapshot(
        parts[0].step,
        parts[0].epoch,
        of_members(part.weights for part in parts),
        of_members(part.state for part in parts),
        {"members": [dict(part.progress) for part in parts]},
    )


def _part(snapshot: Snapshot, spec: TrainingSpec, index: int) -> Snapshot:
    """What `_snapshot` took of one member."""
    return Snapshot(
        snapshot.step,
        snapshot.epoch,
        of_network(snapshot.weights, spec, index),
        of_network(snapshot.state, spec, index),
        snapshot.progress["members"][index],
    )
