"""A committee's members are the networks that they would be alone, and it is stopped and resumed as one."""

from typing import Any

import numpy as np
import pytest
import torch

from service import checkpoints, network
from service.checkpoints import Snapshot, of_network
from service.evaluation import evaluate
from service.spec import TrainingSpec
from tests.unit.test_training import CPU, NORMALIZED, REGULARIZED, images, spec_of, stored
from worker import device as devices
from worker import training
from worker.budget import Trial, steps_within
from worker.committee import fit
from worker.training import Diverged, Report

MEMBERS = 3


pytestmark = pytest.mark.usefixtures("one_thread")


def committee_of(**fields: Any) -> TrainingSpec:
    return spec_of(committee={"members": MEMBERS}, **fields)


def taken(spec: TrainingSpec, **fields: Any) -> list[tuple[Report, Snapshot]]:
    """Every report, and the run as it stood."""
    return [(report, report.snapshot()) for report in fit(spec, images(), device=CPU, **fields)]


def encoded(snapshot: Snapshot) -> tuple[bytes, bytes]:
    return checkpoints.encode(snapshot.weights, {}), checkpoints.encode(snapshot.state, {})


AUGMENTED = {"augmentation": {"rotation": 15, "elastic": 1.2}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"regularization": REGULARIZED, "averaging": {"decay": 0.9}, **AUGMENTED},
        {"network": NORMALIZED, "optimizer": {"name": "muon"}, "precision": "bfloat16"},
        {"batch_size": "full", "epochs": 20, "evaluation": {"every_steps": 7}},
    ],
)
def test_each_member_is_the_network_that_it_would_be_alone(fields: dict[str, Any]) -> None:
    spec = committee_of(**fields)
    reports = taken(spec)
    alone = [
        [(report, report.snapshot()) for report in training.fit(one, images(), device=CPU)]
        for one in spec.networks
    ]
    assert len({len(reports), *map(len, alone)}) == 1
    for (report, snapshot), *runs in zip(reports, *alone, strict=True):
        assert report.loss == pytest.approx(np.mean([one.loss for one, _ in runs]), abs=report.step == 0)
        assert report.gradient_norm == pytest.approx(np.mean([one.gradient_norm for one, _ in runs]))
        for index, (one, own) in enumerate(runs):
            same = ("step", "epoch", "learning_rate", "checkpoint_due", "outcome", "curve", "restored_step")
            assert all(getattr(report, name) == getattr(one, name) for name in same)
            assert (report.metrics == {}) == (one.metrics == {})
            part = Snapshot(
                own.step,
                own.epoch,
                of_network(snapshot.weights, spec, index),
                of_network(snapshot.state, spec, index),
                {},
            )
            assert encoded(part) == encoded(own)


def test_figures_are_those_of_the_committee_as_it_is_stored() -> None:
    spec, data = committee_of(averaging={"decay": 0.9}), images()
    reports = taken(spec)
    assert [report.step for report, _ in reports if report.metrics] == [0, 5, 10, 15, 20]
    for report, snapshot in reports:
        if not report.metrics:
            continue
        served = network.rebuild(checkpoints.encode_weights(snapshot, spec, preprocessing="1"))
        for part in ("train", "test"):
            inputs = torch.from_numpy(getattr(data, f"{part}_inputs").copy())
            targets = torch.from_numpy(getattr(data, f"{part}_targets").copy())
            found = evaluate(served, served.normalize(inputs), targets, "cross_entropy")
            assert found == {name: report.metrics[f"{part}_{name}"] for name in ("loss", "accuracy")}
    first, last = reports[0][0], reports[-1][0]
    assert (first.loss, first.gradient_norm) == (first.metrics["train_loss"], 0)
    assert last.metrics["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    "fields",
    [
        {"regularization": REGULARIZED, "averaging": {"decay": 0.9}, **AUGMENTED},
        {"network": NORMALIZED, "optimizer": {"name": "adamw"}, "schedule": {"name": "one_cycle"}},
    ],
)
def test_a_resumed_committee_ends_with_the_same_bytes(fields: dict[str, Any]) -> None:
    spec = committee_of(**fields)
    reports = taken(spec)
    final, wanted = reports[-1]
    for step in (0, 1, 7, 19):
        again = taken(spec, resume=stored(reports[step][1], spec))
        assert [report.step for report, _ in again] == list(range(step + 1, final.step + 1))
        assert encoded(again[-1][1]) == encoded(wanted)
        assert again[-1][0].metrics == final.metrics
        assert [report.loss for report, _ in again] == [report.loss for report, _ in reports[step + 1 :]]
    ((ended, snapshot),) = taken(spec, resume=stored(wanted, spec))
    assert (ended.step, ended.outcome, ended.metrics) == (20, "completed", final.metrics)
    assert encoded(snapshot) == encoded(wanted)


def test_a_snapshot_is_of_the_step_at_which_the_members_stand() -> None:
    reports = fit(committee_of(), images(), device=CPU)
    first = next(reports)
    next(reports)
    with pytest.raises(RuntimeError, match="step 0 is over"):
        first.snapshot()


@pytest.mark.parametrize("taken_steps", [1, 3, 100])
def test_determinism_is_put_back_however_it_ends(taken_steps: int) -> None:
    reports = fit(committee_of(), images(), device=CPU)
    for _, _ in zip(range(taken_steps), reports, strict=False):
        assert torch.are_deterministic_algorithms_enabled()
    reports.close()
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_member_that_diverges_ends_them_all() -> None:
    deep = {"hidden_widths": [64] * 20, "activation": "identity"}
    spec = committee_of(optimizer={"name": "sgd", "learning_rate": 1000.0}, network=deep)
    with pytest.raises(Diverged, match="learning_rate"):
        taken(spec)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_budget_is_for_all_members() -> None:
    spec = committee_of(epochs=None, budget_seconds=10.0)
    trial = Trial(spec, devices.place(images(), CPU), device=CPU)
    *_, last = trial
    assert set(last.snapshot().weights) == set(checkpoints.shapes(spec))
    speed = trial.speed(report=0.0, checkpoint=0.0)
    planned = spec.with_steps(steps_within(spec, speed, 10.0))
    assert planned.committee == spec.committee
    assert {one.plan.steps for one in planned.networks} == {planned.plan.steps}


def test_one_network_is_trained_as_ever() -> None:
    spec = spec_of()
    *_, mine = fit(spec, images(), device=CPU)
    *_, wanted = training.fit(spec, images(), device=CPU)
    assert encoded(mine.snapshot()) == encoded(wanted.snapshot())


def test_threads_are_those_of_a_member() -> None:
    spec = spec_of(network={"hidden_widths": [1000]}, committee={"members": 64})
    assert devices.threads_for(spec, 2) == devices.threads_for(spec.networks[0], 2) == 1
