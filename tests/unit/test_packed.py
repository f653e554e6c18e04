"""Members of a pack: each has the curve that it has alone, and leaves alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.data.datasets import Dataset
from service.spec import TrainingSpec
from tests.unit.test_training import CPU, EXAMPLES, VALIDATION, curve, images, spec_of, stored
from worker import packed, stack
from worker.packed import Pack
from worker.training import Diverged, Report, fit

pytestmark = pytest.mark.usefixtures("one_thread")


def regression_of(**fields: Any) -> TrainingSpec:
    return TrainingSpec.model_validate(
        {
            "dataset": {"name": "simulated", "examples": 400},
            "network": {"hidden_widths": [5, 4], "activation": "tanh"},
            "batch_size": "full",
            "steps": 20,
            "evaluation": {"every_steps": 5},
            **fields,
        }
    )


def data_of(spec: TrainingSpec) -> Dataset:
    return curve() if spec.task_name == "regression" else images(spec.dataset.validation)


def trained(specs: Sequence[TrainingSpec]) -> list[list[Report | Diverged]]:
    """What the pack tells of each."""
    told: list[list[Report | Diverged]] = [[] for _ in specs]
    for number, report in Pack(specs, data_of(specs[0]), device=CPU):
        told[number].append(report)
    return told


def assert_as_alone(own: Sequence[Report | Diverged], spec: TrainingSpec, rel: float = 2e-4) -> None:
    alone = list(fit(spec, data_of(spec), device=CPU))
    assert len(own) == len(alone)
    for mine, other in zip(own, alone, strict=True):
        assert isinstance(mine, Report)
        for name in ("step", "epoch", "learning_rate", "checkpoint_due", "outcome", "restored_step"):
            assert getattr(mine, name) == getattr(other, name)
        assert mine.loss == pytest.approx(other.loss, rel=rel)
        assert mine.gradient_norm == pytest.approx(other.gradient_norm, rel=10 * rel)
        assert mine.metrics == pytest.approx(other.metrics, rel=rel, abs=1e-6)
        assert (mine.curve is None) == (other.curve is None)
        if mine.curve is not None and other.curve is not None:
            np.testing.assert_allclose(mine.curve, other.curve, rtol=1e-3, atol=1e-4)


DIFFERENT: list[dict[str, Any]] = [
    {},
    {"seed": 1, "optimizer": {"name": "adam", "learning_rate": 0.01, "beta1": 0.8}},
    {"seed": 2, "schedule": {"name": "cosine", "warmup_steps": 4}},
    {"seed": 3, "regularization": {"l1": 1e-3}},
    {"seed": 4, "regularization": {"l2": 1e-2, "label_smoothing": 0.1}},
]


@pytest.mark.parametrize("batch_size", [20, "full"])
@pytest.mark.parametrize("hidden", [[], [16], [12, 8]])
def test_each_member_has_the_curve_that_it_has_alone(batch_size: Any, hidden: list[int]) -> None:
    fields = {"batch_size": batch_size, "network": {"hidden_widths": hidden}, "epochs": None, "steps": 20}
    specs = [spec_of(**fields, **own) for own in DIFFERENT]
    for own, spec in zip(trained(specs), specs, strict=True):
        assert_as_alone(own, spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": {"name": "sgd", "learning_rate": 0.05}},
        {"optimizer": {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True}},
        {"optimizer": {"name": "amsgrad", "bias_correction": False}},
        {"optimizer": {"name": "adamw", "weight_decay": 0.5}},
        {"regularization": {"max_gradient_norm": 0.3}},
        {"loss": "mse"},
        {"averaging": {"decay": 0.8}},
        {"averaging": {"decay": 0.8, "evaluate": "newest"}},
        {"network": {"hidden_widths": [12, 8], "activation": "gelu", "input_normalization": "standardize"}},
        {"network": {"hidden_widths": [12], "activation": "scaled_tanh"}, "passes_per_epoch": 2},
        {"evaluation": {"every_steps": 3, "first_step": True}, "checkpoints": {"every_steps": 4}},
    ],
)
def test_whatever_the_members_have_in_common(fields: dict[str, Any]) -> None:
    specs = [spec_of(seed=seed, **fields) for seed in range(3)]
    for own, spec in zip(trained(specs), specs, strict=True):
        assert_as_alone(own, spec)


@pytest.mark.parametrize("batch_size", [100, "full"])
def test_a_regression(batch_size: Any) -> None:
    specs = [regression_of(seed=seed, batch_size=batch_size) for seed in range(3)]
    for own, spec in zip(trained(specs), specs, strict=True):
        assert_as_alone(own, spec)


def test_members_with_other_momentum() -> None:
    specs = [spec_of(optimizer={"name": "sgd", "momentum": momentum}) for momentum in (0.0, 0.5, 0.9)]
    for own, spec in zip(trained(specs), specs, strict=True):
        assert_as_alone(own, spec)


@pytest.mark.parametrize("batch_size", [60, "full"])
def test_blocks_add_up_to_the_batch(monkeypatch: pytest.MonkeyPatch, batch_size: Any) -> None:
    monkeypatch.setattr(stack, "BLOCK", {"cpu": 1})
    assert stack.TILE < 60
    specs = [spec_of(batch_size=batch_size, seed=seed) for seed in range(3)]
    for own, spec in zip(trained(specs), specs, strict=True):
        assert_as_alone(own, spec)


@pytest.mark.parametrize("batch_size", [20, "full"])
def test_bfloat16_is_near(batch_size: Any) -> None:
    specs = [spec_of(batch_size=batch_size, seed=seed, precision="bfloat16") for seed in range(3)]
    for own, spec in zip(trained(specs), specs, strict=True):
        assert_as_alone(own, spec, rel=0.03)


def test_a_member_that_diverges_does_so_alone() -> None:
    network = {"hidden_widths": [16], "activation": "identity"}
    specs = [
        spec_of(loss="mse", network=network, optimizer={"name": "sgd", "learning_rate": rate})
        for rate in (0.01, 1000.0, 0.02)
    ]
    first, second, third = trained(specs)
    assert_as_alone(first, specs[0])
    assert_as_alone(third, specs[2])
    *seen, error = second
    assert isinstance(error, Diverged)
    with pytest.raises(Diverged) as caught:
        list(fit(specs[1], images(), device=CPU))
    assert error.step == caught.value.step > 1
    assert error.last_finite_loss == pytest.approx(caught.value.last_finite_loss, rel=1e-3)
    assert [report.step for report in seen if isinstance(report, Report)] == list(range(error.step))


def test_a_network_that_is_not_finite_from_the_start() -> None:
    hidden = {"hidden_widths": [64] * 20, "activation": "identity", "initializer": "normal"}
    specs = [spec_of(network=hidden | {"initializer_scale": 100.0}, seed=seed) for seed in range(2)]
    for (error,) in trained(specs):
        assert isinstance(error, Diverged)
        assert "initializer" in error.detail


def test_members_that_stop_early_end_with_their_best_weights() -> None:
    stopping = {"patience": 2, "monitor": "validation_accuracy", "min_delta": 0.02}
    specs = [
        spec_of(VALIDATION, early_stopping=stopping, seed=seed, epochs=12, optimizer={"name": "adam", **rate})
        for seed in range(2)
        for rate in ({"learning_rate": 0.003}, {"learning_rate": 0.03})
    ]
    told = trained(specs)
    for own, spec in zip(told, specs, strict=True):
        assert_as_alone(own, spec)
    assert len({len(own) for own in told}) > 1, "they stop at different steps"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"batch_size": "full", "epochs": 20},
        {"optimizer": {"name": "amsgrad"}},
        {"optimizer": {"name": "sgd", "momentum": 0.9}},
        {"averaging": {"decay": 0.9}},
    ],
)
@pytest.mark.parametrize("at", [0, 7])
def test_a_snapshot_goes_on_alone(fields: dict[str, Any], at: int) -> None:
    specs = [spec_of(seed=seed, **fields) for seed in range(3)]
    snapshots = []
    for _, report in Pack(specs, images(), device=CPU):
        assert isinstance(report, Report)
        if report.step == at:
            snapshots.append(stored(report.snapshot(), specs[0]))
    for snapshot, spec in zip(snapshots, specs, strict=True):
        alone = list(fit(spec, images(), device=CPU))
        rest = list(fit(spec, images(), device=CPU, resume=snapshot))
        assert [report.step for report in rest] == list(range(at + 1, 21))
        assert [r.loss for r in rest] == pytest.approx([r.loss for r in alone[at + 1 :]], rel=2e-4)
        assert rest[-1].metrics == pytest.approx(alone[-1].metrics, rel=2e-4)


def test_one_that_leaves_leaves_the_others_alone() -> None:
    specs = [spec_of(seed=seed, epochs=2) for seed in range(4)]
    together = Pack(specs, images(), device=CPU)
    told: list[list[Report | Diverged]] = [[] for _ in specs]
    kept = None
    for number, report in together:
        told[number].append(report)
        assert isinstance(report, Report)
        if (number, report.step) in ((1, 3), (2, 0)):
            together.leave(number)
        if (number, report.step) == (1, 3):
            kept = report.snapshot()
    assert [len(one) for one in told] == [11, 4, 1, 11]
    assert_as_alone(told[0], specs[0])
    assert_as_alone(told[3], specs[3])
    assert kept is not None
    rest = list(fit(specs[1], images(), device=CPU, resume=kept))
    alone = list(fit(specs[1], images(), device=CPU))
    assert [r.loss for r in rest] == pytest.approx([r.loss for r in alone[4:]], rel=2e-4)


def test_a_pack_that_all_have_left_is_over() -> None:
    specs = [spec_of(seed=seed) for seed in range(2)]
    together = Pack(specs, images(), device=CPU)
    steps = []
    for number, report in together:
        assert isinstance(report, Report)
        steps.append(report.step)
        together.leave(number)
    assert steps == [0, 0]


def test_who_has_left_before_the_first_report_is_not_told_of() -> None:
    specs = [spec_of(seed=seed, evaluation={"every_steps": 5, "initial": True}) for seed in range(3)]
    pack = Pack(specs, images(), device=CPU)
    pack.leave(1)
    told = [(number, report.step) for number, report in pack if isinstance(report, Report)]
    assert {number for number, _ in told} == {0, 2}
    assert told[:2] == [(0, 0), (2, 0)]


def test_a_snapshot_is_only_of_the_present_step() -> None:
    together = iter(Pack([spec_of(seed=seed) for seed in range(2)], images(), device=CPU))
    _, first = next(together)
    next(together)
    assert isinstance(first, Report)
    first.snapshot()
    next(together)
    with pytest.raises(RuntimeError, match="step 0 is over"):
        first.snapshot()


@pytest.mark.parametrize(
    "own",
    [
        {"seed": 7},
        {"optimizer": {"name": "adam", "learning_rate": 0.1, "beta2": 0.9}},
        {"schedule": {"name": "one_cycle"}},
        {"regularization": {"l1": 0.1, "l2": 0.1, "label_smoothing": 0.1}},
        {"max_runtime_seconds": 9.0},
    ],
)
def test_what_members_may_have_of_their_own(own: dict[str, Any]) -> None:
    assert packed.kind(spec_of(**own), CPU) == packed.kind(spec_of(), CPU) is not None


@pytest.mark.parametrize(
    "other",
    [
        {"optimizer": {"name": "sgd"}},
        {"network": {"hidden_widths": [17]}},
        {"batch_size": 30},
        {"epochs": 5},
        {"dataset": {"examples": EXAMPLES + 1, "validation": 1}},
        {"evaluation": {"every_steps": 3}},
        {"checkpoints": {"every_steps": 3}},
        {"precision": "bfloat16"},
        {"regularization": {"max_gradient_norm": 1.0}},
    ],
)
def test_what_they_have_in_common(other: dict[str, Any]) -> None:
    assert None is not packed.kind(spec_of(**other), CPU) != packed.kind(spec_of(), CPU)


@pytest.mark.parametrize(
    "alone",
    [
        {"regularization": {"dropout": 0.1}},
        {"augmentation": {"rotation": 15}},
        {"network": {"hidden_widths": [12], "normalization": "batch"}},
        {"optimizer": {"name": "muon"}},
        {"epochs": None, "budget_seconds": 9.0},
        {"committee": {"members": 2}},
        {"distillation": {}},
    ],
)
def test_what_trains_alone(alone: dict[str, Any]) -> None:
    assert packed.kind(spec_of(**alone), CPU) is None


@pytest.mark.parametrize(
    ("hidden", "batch_size", "precision", "pays"),
    [
        ([32], 100, "bfloat16", True),
        ([32], 100, "float32", True),
        ([32], "full", "bfloat16", True),
        ([32], "full", "float32", True),
        ([512, 512], 100, "bfloat16", False),
        ([128], 100, "float32", False),
        ([512], "full", "bfloat16", False),
        ([128], "full", "float32", False),
    ],
)
def test_only_what_is_faster_together_is_packed(
    hidden: list[int], batch_size: Any, precision: str, pays: bool
) -> None:
    fields = {"network": {"hidden_widths": hidden}, "batch_size": batch_size, "precision": precision}
    spec = TrainingSpec.model_validate(fields)
    assert (packed.kind(spec, CPU) is not None) == pays
