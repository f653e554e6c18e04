from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from service import checkpoints, network
from service.catalog import DatasetName
from service.data import datasets
from service.data.datasets import Dataset
from service.errors import Conflict
from service.evaluation import evaluate
from service.normalization import NormalizedLinear, normalize_hidden
from service.spec import TrainingSpec
from worker import device as devices
from worker.batches import Batches
from worker.crew import ALONE
from worker.process import out_of_memory
from worker.training import Diverged, Report, Snapshot, fit

CPU = torch.device("cpu")
EXAMPLES, VALIDATION, TEST = 90, 30, 40
PASS = 5  # steps of a pass over 90 examples in batches of 20


pytestmark = pytest.mark.usefixtures("one_thread")


def dataset_of(name: DatasetName, inputs: NDArray[Any], targets: NDArray[Any], validation: int) -> Dataset:
    for array in (inputs, targets):
        array.flags.writeable = False  # as those of service.data are
    train = len(inputs) - TEST - validation
    cuts = [train, train + validation]
    (x, x_validation, x_test), (y, y_validation, y_test) = np.split(inputs, cuts), np.split(targets, cuts)
    return Dataset(name, x, y, x_validation, y_validation, x_test, y_test, sha256="")


def images(validation: int = 0) -> Dataset:
    """Ten prototypes and noise over them, so that there is something to learn."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 10, EXAMPLES + validation + TEST)
    prototypes = generator.integers(0, 2, (10, 784)) * 120
    noise = generator.integers(0, 120, (len(targets), 784))
    return dataset_of("mnist", (prototypes[targets] + noise).astype(np.uint8), targets, validation)


def curve(examples: int = 400) -> Dataset:
    generator = np.random.default_rng(0)
    x = generator.uniform(0, np.pi, (examples + TEST, 1))
    y = np.sin(2 * x) + generator.normal(0, 0.1, x.shape)
    return dataset_of("simulated", x.astype(np.float32), y.astype(np.float32), 0)


def spec_of(validation: int = 0, **fields: Any) -> TrainingSpec:
    """A small spec on `images`: 5 steps an epoch, the last batch of 10; figures from step 0 on."""
    evaluation = {"initial": True} | fields.pop("evaluation", {})
    return TrainingSpec.model_validate(
        {
            "dataset": {"examples": EXAMPLES + validation, "validation": validation},
            "network": {"hidden_widths": [16], "activation": "tanh"},
            "optimizer": {"name": "adam", "learning_rate": 0.003},
            "batch_size": 20,
            "precision": "float32",
            "epochs": 4,
            "evaluation": evaluation,
            **fields,
        }
    )


def run(spec: TrainingSpec, **fields: Any) -> list[Report]:
    return list(fit(spec, images(spec.dataset.validation), device=CPU, **fields))


def last_of(reports: Iterator[Report]) -> tuple[Report, bytes]:
    """The last report and the weights then, as a checkpoint's bytes without the spec."""
    for report in reports:
        if report.outcome is not None:
            return report, checkpoints.encode(report.snapshot().weights, {})
    raise AssertionError("the run did not end")


def stored(snapshot: Snapshot, spec: TrainingSpec) -> Snapshot:
    """The snapshot after a way through bytes."""
    weights = checkpoints.encode_weights(snapshot, spec, preprocessing="1")
    state = checkpoints.encode_state(snapshot, spec, weights_sha256=checkpoints.sha256(weights))
    return checkpoints.decode_snapshot(weights, state)


# The loss of each step. A change that moves these changes what every job computes.
GOLDEN = [
    2.2525144,
    2.1505828,
    1.8644629,
    1.7660086,
    1.6627735,
    1.4710479,
    1.0354463,
    1.1762991,
    1.0103327,
    1.0102727,
    0.7146504,
    0.7386322,
    0.6353854,
    0.7828842,
    0.7010837,
    0.7531786,
    0.5107427,
    0.4594510,
    0.5801660,
    0.5252156,
    0.4924285,
]


def test_golden_loss_curve() -> None:
    losses = [report.loss for report in run(spec_of())]
    assert losses == pytest.approx(GOLDEN, rel=1e-5)


def test_a_report_for_each_step() -> None:
    reports = run(spec_of())
    assert [report.step for report in reports] == list(range(21))
    assert [report.epoch for report in reports[::5]] == [0, 1, 2, 3, 4]
    assert [report.outcome for report in reports] == [None] * 20 + ["completed"]
    assert {report.learning_rate for report in reports[1:]} == {0.003}
    first, last = reports[0], reports[-1]
    assert set(last.metrics) == {"train_loss", "train_accuracy", "test_loss", "test_accuracy"}
    assert (first.loss, first.gradient_norm) == (first.metrics["train_loss"], 0)
    assert last.metrics["test_accuracy"] > 0.9 > first.metrics["test_accuracy"]


def test_the_first_step_is_that_of_torch() -> None:
    spec = spec_of(batch_size="full", regularization={"label_smoothing": 0.2}, steps=1, epochs=None)
    data = images()
    built = network.build(spec)
    inputs, labels = torch.from_numpy(data.train_inputs.copy()), torch.from_numpy(data.train_targets.copy())
    loss = functional.cross_entropy(built(inputs), labels, label_smoothing=0.2)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = torch.cat([p.grad.flatten() for p in built.parameters() if p.grad is not None])
    report = run(spec)[1]
    assert report.loss == pytest.approx(loss.item(), rel=1e-6)
    assert report.gradient_norm == pytest.approx(gradients.norm().item(), rel=1e-5)


NORMALIZED = {"hidden_widths": [12, 8], "normalization": "batch"}
REGULARIZED = {"dropout": 0.3, "l1": 1e-4, "l2": 1e-3, "label_smoothing": 0.1}


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": {"name": "sgd", "learning_rate": 0.1}},
        {"optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}, "regularization": REGULARIZED},
        {"optimizer": {"name": "adam"}, "schedule": {"name": "cosine", "warmup_steps": 4}},
        {"optimizer": {"name": "amsgrad"}, "regularization": {"dropout": 0.5}},
        {"optimizer": {"name": "adamw"}, "precision": "bfloat16", "schedule": {"name": "one_cycle"}},
        {"network": {"hidden_widths": [8, 8], "input_normalization": "standardize"}, "passes_per_epoch": 2},
        {"batch_size": "full", "epochs": 20, "regularization": {"dropout": 0.2}},
        {"augmentation": {"rotation": 15, "scale": 0.1, "elastic": 1.2, "amplitude": [[0, 0.2], [1, 1]]}},
        {"augmentation": {"rotation": 20, "resampling": "forward_nearest", "copies": 2}},
        {"batch_size": "full", "epochs": 20, "augmentation": {"shift": 2}, "precision": "bfloat16"},
        {"averaging": {"decay": 0.9}, "regularization": REGULARIZED},
        {"optimizer": {"name": "muon"}, "schedule": {"name": "one_cycle"}},
        {"averaging": {"decay": 0.9, "evaluate": "newest"}},
        {"network": NORMALIZED, "regularization": REGULARIZED},
        {"network": NORMALIZED, "averaging": {"decay": 0.9}, "optimizer": {"name": "adamw"}},
        {"network": NORMALIZED, "averaging": {"evaluate": "newest"}, "precision": "bfloat16"},
    ],
)
def test_a_resumed_run_ends_with_the_same_bytes(fields: dict[str, Any]) -> None:
    spec = spec_of(**fields)
    reports = [(report, report.snapshot()) for report in fit(spec, images(), device=CPU)]
    final, wanted = reports[-1]
    for step in (0, 1, 7, PASS, len(reports) - 2):
        resumed = fit(spec, images(), device=CPU, resume=stored(reports[step][1], spec))
        again = [(report, report.snapshot()) for report in resumed]
        assert [report.step for report, _ in again] == list(range(step + 1, final.step + 1))
        assert checkpoints.encode(again[-1][1].weights, {}) == checkpoints.encode(wanted.weights, {})
        assert checkpoints.encode(again[-1][1].state, {}) == checkpoints.encode(wanted.state, {})
        assert [report.loss for report, _ in again] == [report.loss for report, _ in reports[step + 1 :]]
        assert again[-1][0].metrics == final.metrics


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"averaging": {"decay": 0.7}},
        {"averaging": {"decay": 0.7, "evaluate": "newest"}},
        {"network": NORMALIZED},
        {"network": NORMALIZED, "averaging": {"decay": 0.7}},
    ],
)
def test_early_stopping_ends_with_the_best_weights(fields: dict[str, Any]) -> None:
    spec = spec_of(
        VALIDATION,
        early_stopping={"patience": 3, "min_delta": 0.001},
        optimizer={"name": "adam", "learning_rate": 0.1},
        evaluation={"every_steps": 2},
        epochs=100,
        regularization={"dropout": 0.2},
        **fields,
    )
    data = images(VALIDATION)
    reports = [(report, report.snapshot()) for report in fit(spec, data, device=CPU)]
    final, end = reports[-1]
    best = final.restored_step
    assert best is not None
    assert (final.outcome, final.step, final.checkpoint_due) == ("early_stopping", best + 3 * 2, True)
    losses = [report.metrics["validation_loss"] for report, _ in reports[1:-1] if report.metrics]
    assert final.metrics == reports[best][0].metrics
    assert final.metrics["validation_loss"] <= min(losses) + 0.001
    wanted = checkpoints.encode(reports[best][1].weights, {})
    assert checkpoints.encode(end.weights, {}) == wanted

    for step in (1, best, best + 1, best + 3, final.step):
        resumed = fit(spec, data, device=CPU, resume=stored(reports[step][1], spec))
        again, weights = last_of(resumed)
        assert (again.step, again.restored_step, again.metrics) == (final.step, best, final.metrics)
        assert weights == wanted


def test_a_run_that_never_stops_early_ends_with_the_best_weights_too() -> None:
    stopping = {"patience": 1000, "monitor": "validation_accuracy", "min_delta": 0.9}
    report = run(spec_of(VALIDATION, early_stopping=stopping))[-1]
    assert (report.outcome, report.step, report.restored_step) == ("completed", 20, 5)
    kept = {**stopping, "restore_best": False}
    assert run(spec_of(VALIDATION, early_stopping=kept))[-1].restored_step is None


def test_a_run_that_resumes_after_its_end_reports_its_last_step_again() -> None:
    spec = spec_of()
    *_, last = fit(spec, images(), device=CPU)
    end = last.snapshot()
    (again,) = fit(spec, images(), device=CPU, resume=stored(end, spec))
    assert (again.step, again.outcome, again.loss) == (20, "completed", last.loss)
    assert again.metrics == last.metrics
    assert again.checkpoint_due
    assert checkpoints.encode(again.snapshot().weights, {}) == checkpoints.encode(end.weights, {})


def test_the_same_spec_gives_the_same_weights_and_another_seed_others() -> None:
    spec = spec_of(regularization={"dropout": 0.3})
    first, again = (last_of(fit(spec, images(), device=CPU))[1] for _ in range(2))
    other = last_of(fit(spec_of(seed=1, regularization={"dropout": 0.3}), images(), device=CPU))[1]
    assert first == again != other
    assert first != last_of(fit(spec_of(), images(), device=CPU))[1]


def figures_of(snapshot: Snapshot, spec: TrainingSpec, data: Dataset) -> dict[str, float]:
    """Of the weights as they would be served, on the test set."""
    served = network.rebuild(checkpoints.encode_weights(snapshot, spec, preprocessing="1"))
    inputs = served.normalize(torch.from_numpy(data.test_inputs.copy()))
    return evaluate(served, inputs, torch.from_numpy(data.test_targets.copy()), spec.loss_name)


def test_the_average_is_evaluated_and_stored_and_training_does_not_notice() -> None:
    averaged = [(r, r.snapshot()) for r in fit(spec_of(averaging={"decay": 0.8}), images(), device=CPU)]
    newest_spec = spec_of(averaging={"decay": 0.8, "evaluate": "newest"})
    newest = [(r, r.snapshot()) for r in fit(newest_spec, images(), device=CPU)]
    plain = [(r, r.snapshot()) for r in fit(spec_of(), images(), device=CPU)]
    assert [r.loss for r, _ in averaged] == [r.loss for r, _ in newest] == [r.loss for r, _ in plain]
    for (mean, mine), (new, other), (_, wanted) in zip(averaged, newest, plain, strict=True):
        for name, array in wanted.weights.items():
            assert np.array_equal(other.weights[name], array)
            assert np.array_equal(mine.state[f"trained.{name}"], array)
            assert np.array_equal(other.state[f"average.{name}"], mine.weights[name])
        if new.metrics:
            assert figures_of(mine, newest_spec, images())["loss"] == mean.metrics["test_loss"]
            assert figures_of(other, newest_spec, images())["loss"] == new.metrics["test_loss"]
    expected = plain[0][1].weights["layers.0.weight"].astype(np.float64)
    for step, (_, snapshot) in enumerate(plain[1:], start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * snapshot.weights["layers.0.weight"]
    np.testing.assert_allclose(averaged[-1][1].weights["layers.0.weight"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "fields", [{}, {"averaging": {"decay": 0.9}}, {"averaging": {"decay": 0.9, "evaluate": "newest"}}]
)
def test_a_normalised_run_evaluates_and_stores_a_plain_network(fields: dict[str, Any]) -> None:
    spec = spec_of(network=NORMALIZED, epochs=20, optimizer={"name": "adam", "learning_rate": 0.01}, **fields)
    for report in fit(spec, images(), device=CPU):
        if report.metrics:
            snapshot = report.snapshot()
            assert {name: array.shape for name, array in snapshot.weights.items()} == checkpoints.shapes(spec)
            figures = figures_of(snapshot, spec, images())
            assert figures["loss"] == report.metrics["test_loss"]
    assert report.metrics["test_accuracy"] > 0.9
    state = snapshot.state
    assert state["trained.layers.0.variance"].shape == state["trained.layers.0.scale"].shape == (12,)
    assert not np.array_equal(state["trained.layers.1.scale"], np.ones(8, np.float32))


def test_averaged_statistics_are_those_of_the_averaged_weights() -> None:
    """Near to what the averaged weights themselves would measure over the training set, and nearer than what
    the newest weights have measured."""
    spec = spec_of(
        network=NORMALIZED,
        averaging={"decay": 0.95},
        optimizer={"name": "sgd", "learning_rate": 0.3, "momentum": 0.9},
        epochs=30,
    )
    *_, last = fit(spec, images(), device=CPU)
    state = last.snapshot().state
    inputs = torch.from_numpy(images().train_inputs.copy()) / 255
    weights = last.snapshot().weights
    averaged = normalize_hidden(network.build(spec))
    newest = normalize_hidden(network.build(spec))
    found = {}
    for name, net in (("average", averaged), ("trained", newest)):
        arrays = {k.removeprefix(f"{name}."): a for k, a in state.items() if k.startswith(f"{name}.")}
        network.load_arrays(net, arrays)
        found[name] = arrays
    assert np.array_equal(weights["layers.2.weight"], found["average"]["layers.2.weight"])
    layer = averaged.layers[0]
    assert isinstance(layer, NormalizedLinear)
    measured = functional.linear(inputs, layer.weight).detach()
    wanted = measured.mean(0).numpy()
    own = np.abs(found["average"]["layers.0.mean"] - wanted).max()
    other = np.abs(found["trained"]["layers.0.mean"] - wanted).max()
    assert own < 0.1 * float(measured.std(0).mean())
    assert own < other


@pytest.mark.parametrize("fields", [{"averaging": {"decay": 0.8}}, {"network": NORMALIZED}])
def test_a_run_that_ended_with_its_best_weights_reports_its_last_step_again(fields: dict[str, Any]) -> None:
    spec = spec_of(VALIDATION, early_stopping={"patience": 2}, **fields)
    *_, last = fit(spec, images(VALIDATION), device=CPU)
    end = last.snapshot()
    (again,) = fit(spec, images(VALIDATION), device=CPU, resume=stored(end, spec))
    assert again.metrics == last.metrics
    assert checkpoints.encode(again.snapshot().weights, {}) == checkpoints.encode(end.weights, {})


def test_a_pass_takes_each_example_once_in_an_order_of_its_own() -> None:
    spec, data = spec_of(), devices.place(images(), CPU)
    numbered = devices.Examples(data.train.inputs, torch.arange(EXAMPLES))
    batches = Batches(spec, numbered, network.build(spec), ALONE)
    passes = []
    for number in range(3):
        parts = [batches.at(step)[1] for step in range(number * PASS + 1, (number + 1) * PASS + 1)]
        assert [len(part) for part in parts] == [20, 20, 20, 20, 10]
        passes.append(torch.cat(parts).tolist())
    assert all(sorted(order) == list(range(EXAMPLES)) for order in passes)
    assert passes[0] != passes[1] != passes[2]
    inputs, numbers = batches.at(7)
    torch.testing.assert_close(inputs, data.train.inputs[numbers].float() / 255)


def watch(spec: TrainingSpec, seen: list[Report]) -> None:
    """Run and keep the reports, with an eye on every snapshot."""
    for report in fit(spec, images(), device=CPU):
        seen.append(report)
        assert all(np.isfinite(array).all() for array in report.snapshot().weights.values())


def test_divergence_stops_the_run_before_the_weights_are_spoilt() -> None:
    spec = spec_of(
        loss="mse",
        optimizer={"name": "sgd", "learning_rate": 1000.0},
        network={"hidden_widths": [16], "activation": "identity"},
    )
    seen: list[Report] = []
    with pytest.raises(Diverged, match=r"lower optimizer\.learning_rate") as caught:
        watch(spec, seen)
    assert caught.value.code == "diverged"
    assert caught.value.step == seen[-1].step + 1
    assert caught.value.last_finite_loss == seen[-1].loss
    assert f"step {caught.value.step}" in caught.value.detail


OVERFLOW: dict[str, Any] = {
    "network": {"hidden_widths": []},
    "optimizer": {"name": "adamw", "learning_rate": 1000.0, "weight_decay": 100.0},
    "evaluation": {"every_steps": 1000},
    "epochs": None,
}


def test_weights_that_overflow_in_the_step_itself_are_in_no_snapshot() -> None:
    """Here each step multiplies the weights by -1e5, and the loss is finite until they overflow."""
    seen: list[Report] = []
    with pytest.raises(Diverged):
        watch(spec_of(**OVERFLOW, steps=50), seen)
    assert seen[-1].step > 3
    with pytest.raises(Diverged):
        run(spec_of(**OVERFLOW, steps=seen[-1].step))


def test_a_network_that_is_not_finite_from_the_start() -> None:
    spec = spec_of(
        network={
            "hidden_widths": [64] * 20,
            "activation": "identity",
            "initializer": "normal",
            "initializer_scale": 100.0,
        }
    )
    with pytest.raises(Diverged, match="initializer"):
        run(spec)


def test_a_snapshot_is_only_of_the_present_step() -> None:
    reports = fit(spec_of(), images(), device=CPU)
    first = next(reports)
    copied = first.snapshot()
    before = checkpoints.encode(copied.weights, {})
    next(reports)
    with pytest.raises(RuntimeError, match="step 0 is over"):
        first.snapshot()
    assert checkpoints.encode(copied.weights, {}) == before


def test_l1_leaves_exact_zeros_and_spares_biases() -> None:
    spec = spec_of(regularization={"l1": 0.02}, optimizer={"name": "sgd", "learning_rate": 0.1}, epochs=20)
    *_, last = fit(spec, images(), device=CPU)
    weights = last.snapshot().weights
    assert (weights["layers.0.weight"] == 0).mean() > 0.3
    assert (weights["layers.1.bias"] != 0).all()


def test_a_clipped_gradient_is_reported_as_it_was() -> None:
    sgd: dict[str, Any] = {
        "optimizer": {"name": "sgd", "learning_rate": 0.5},
        "batch_size": "full",
        "epochs": 1,
    }
    free, clipped = (
        [(r, r.snapshot().weights) for r in fit(spec_of(**sgd, regularization=cut), images(), device=CPU)]
        for cut in ({}, {"max_gradient_norm": 0.1})
    )
    assert clipped[1][0].gradient_norm == free[1][0].gradient_norm > 0.1
    moved = {name: clipped[1][1][name] - array for name, array in clipped[0][1].items()}
    length = float(np.sqrt(sum(np.square(array).sum() for array in moved.values())))
    assert length == pytest.approx(0.5 * 0.1, rel=1e-4)
    wide = run(spec_of(**sgd, regularization={"max_gradient_norm": 1e6}))
    assert wide[-1].metrics == free[-1][0].metrics


def test_l2_shrinks_weights() -> None:
    def size(l2: float) -> float:
        *_, last = fit(spec_of(regularization={"l2": l2}, epochs=20), images(), device=CPU)
        return float(np.square(last.snapshot().weights["layers.0.weight"]).sum())

    assert size(0.1) < 0.5 * size(0)


def few_points(**fields: Any) -> Report:
    """The end of a run on thirty noisy points of the lecture's curve, which 4,353 weights learn by heart."""
    spec = TrainingSpec.model_validate(
        {
            "dataset": {"name": "simulated", "examples": 50, "validation": 20, "noise": 0.5},
            "network": {"hidden_widths": [64, 64], "activation": "tanh"},
            "optimizer": {"name": "adam", "learning_rate": 0.01},
            "batch_size": "full",
            "steps": 1500,
            "evaluation": {"every_steps": 20},
            **fields,
        }
    )
    data = datasets.load(spec.dataset, cache_dir=Path("not-needed"), data_dir=None)
    *_, last = fit(spec, data, device=CPU)
    return last


def mean_losses(**fields: Any) -> tuple[float, float]:
    """On what is trained on, and on what is not: of three seeds, as one's figure hangs on a processor's last bits."""
    found = [few_points(seed=seed, **fields).metrics for seed in (0, 2, 4)]
    return fmean(one["train_loss"] for one in found), fmean(one["test_loss"] for one in found)


@pytest.fixture(scope="module")
def over_fitted() -> tuple[float, float]:
    return mean_losses()


@pytest.mark.parametrize(
    "cure",
    [
        {"regularization": {"l1": 0.02}},
        {"regularization": {"l2": 0.02}},
        {"regularization": {"dropout": 0.3}},
        {"early_stopping": {"patience": 5}},
        {"network": {"hidden_widths": [3], "activation": "tanh"}},
    ],
    ids=["l1", "l2", "dropout", "early stopping", "a smaller net"],
)
def test_each_regularisation_cures_over_fitting(
    cure: dict[str, Any], over_fitted: tuple[float, float]
) -> None:
    train_loss, test_loss = over_fitted
    assert train_loss < 0.1  # of noise whose variance is 0.25
    cured_train_loss, cured_test_loss = mean_losses(**cure)
    assert cured_train_loss > train_loss
    assert cured_test_loss < 0.75 * test_loss  # the squared distance from the truth


def test_augmentation_leaves_the_figures_images_alone() -> None:
    plain, deformed = run(spec_of()), run(spec_of(augmentation={"rotation": 90.0}))
    assert deformed[0].metrics == plain[0].metrics
    assert deformed[1].loss != plain[1].loss


def test_an_amplitude_of_zero_is_no_augmentation() -> None:
    still = run(spec_of(augmentation={"rotation": 90.0, "amplitude": [[0, 0]]}))
    assert [report.loss for report in still] == pytest.approx(
        [report.loss for report in run(spec_of())], rel=1e-4
    )


def test_a_regressions_curve_comes_with_its_figures() -> None:
    spec = TrainingSpec.model_validate(
        {
            "dataset": {"name": "simulated", "examples": 400},
            "batch_size": "full",
            "steps": 6,
            "evaluation": {"every_steps": 3, "first_step": True},
        }
    )
    data = curve()
    reports = list(fit(spec, data, device=CPU))
    assert [report.step for report in reports if report.curve is not None] == [1, 3, 6]
    for report in reports:
        if report.curve is not None:
            assert report.curve.dtype == np.float32
            assert report.curve.shape == (TEST,)
            error = float(np.square(report.curve - data.test_targets[:, 0]).mean())
            assert error == pytest.approx(report.metrics["test_loss"], rel=1e-5)
    assert all(report.curve is None for report in run(spec_of()))


def test_a_regression_learns() -> None:
    spec = TrainingSpec.model_validate(
        {
            "dataset": {"name": "simulated", "examples": 400},
            "network": {"hidden_widths": [15], "activation": "leaky_relu"},
            "optimizer": {"name": "amsgrad", "learning_rate": 0.02},
            "batch_size": "full",
            "steps": 500,
            "evaluation": {"every_steps": 100, "initial": True},
        }
    )
    reports = list(fit(spec, curve(), device=CPU))
    assert set(reports[-1].metrics) == {"train_loss", "test_loss"}
    assert reports[0].metrics["test_loss"] > 0.3
    assert reports[-1].metrics["test_loss"] < 0.03
    mean, std = (reports[-1].snapshot().weights[f"input.{name}"] for name in ("mean", "std"))
    assert mean == pytest.approx(curve().train_inputs.mean(), rel=1e-5)
    assert std == pytest.approx(curve().train_inputs.std() + 1e-5, rel=1e-5)


def evaluated(spec: TrainingSpec, **fields: Any) -> list[int]:
    return [report.step for report in run(spec, **fields) if report.metrics]


def test_evaluation_cadence() -> None:
    assert evaluated(spec_of()) == [0, 5, 10, 15, 20]
    assert evaluated(spec_of(evaluation={"initial": False})) == [5, 10, 15, 20]
    assert evaluated(spec_of(evaluation={"every_steps": 8})) == [0, 8, 16, 20]
    assert evaluated(spec_of(evaluation={"every_steps": 8, "first_step": True})) == [0, 1, 8, 16, 20]
    assert evaluated(spec_of(evaluation={"every_epochs": 3})) == [0, 15, 20]
    assert evaluated(spec_of(batch_size="full", epochs=250)) == [0, *range(3, 250, 3), 250]
    ticks = count()
    assert evaluated(spec_of(evaluation={"every_seconds": 6.0}), clock=lambda: float(next(ticks))) == [
        0,
        6,
        12,
        18,
        20,
    ]


def test_figures_are_taken_on_the_first_training_images_and_the_validation_set() -> None:
    report = run(spec_of(VALIDATION, evaluation={"train_examples": 7}))[0]
    assert report.metrics["train_accuracy"] * 7 == pytest.approx(round(report.metrics["train_accuracy"] * 7))
    assert {"validation_loss", "validation_accuracy"} < set(report.metrics)


def test_checkpoints_are_due_by_epochs_by_steps_and_at_the_end() -> None:
    def due(**cadence: Any) -> list[int]:
        spec = spec_of(checkpoints=cadence, steps=18, epochs=None)
        return [report.step for report in run(spec) if report.checkpoint_due]

    assert due() == [5, 10, 15, 18]
    assert due(every_epochs=2) == [10, 18]
    assert due(every_epochs=None, every_steps=7) == [7, 14, 18]
    assert due(every_epochs=2, every_steps=7) == [7, 10, 14, 18]
    assert due(every_epochs=None) == [18]


def test_bfloat16_keeps_float32_weights() -> None:
    *_, last = fit(spec_of(precision="bfloat16"), images(), device=CPU)
    assert {array.dtype for array in last.snapshot().weights.values()} == {np.dtype(np.float32)}
    exact = run(spec_of())[-1]
    assert last.loss == pytest.approx(exact.loss, rel=0.05)
    assert last.loss != exact.loss


def test_mse_of_a_classification_learns() -> None:
    first, *_, last = run(spec_of(loss="mse", epochs=20))
    assert last.metrics["test_loss"] < 0.2 * first.metrics["test_loss"]
    assert last.metrics["test_accuracy"] > 0.8


def test_a_resident_dataset_shares_memory_and_serves_again() -> None:
    data = images()
    resident = devices.place(data, CPU)
    assert resident.train.inputs.data_ptr() == data.train_inputs.ctypes.data
    first, again = (last_of(fit(spec_of(), resident, device=CPU))[1] for _ in range(2))
    assert first == again == last_of(fit(spec_of(), data, device=CPU))[1]


def test_data_or_a_snapshot_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="90"):
        next(fit(spec_of(VALIDATION).model_copy(update={"dataset": spec_of(7).dataset}), curve(), device=CPU))
    *_, last = fit(spec_of(), images(), device=CPU)
    with pytest.raises(ValueError, match="past the run's 5"):
        next(fit(spec_of(epochs=1), images(), device=CPU, resume=last.snapshot()))


def test_determinism_is_asked_for_during_the_run_only() -> None:
    reports = fit(spec_of(), images(), device=CPU)
    next(reports)
    assert torch.are_deterministic_algorithms_enabled()
    reports.close()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(Conflict) as caught:
        devices.resolve("cuda")
    assert caught.value.code == "device_unavailable"
    assert devices.resolve("auto") == devices.resolve("cpu") == CPU


def test_a_crew_learns_as_one_does_and_resumes_to_the_byte() -> None:
    """Two threads share the steps, and the consumer between two reports has torch's threads as they were."""
    spec = spec_of(
        averaging={"decay": 0.9},
        augmentation={"rotation": 10.0, "elastic": 1.0},
        regularization={"l1": 1e-3, "l2": 1e-3, "max_gradient_norm": 1.0},
    )
    alone = [report.loss for report in fit(spec, images(), device=CPU)]
    devices.set_threads(2)
    whole, half = [], None
    for report in fit(spec, images(), device=CPU):
        assert torch.get_num_threads() == 2
        whole.append(report.loss)
        end = report.snapshot()
        half = end if report.step == PASS + 2 else half
    assert whole == pytest.approx(alone, rel=1e-4)
    assert half is not None
    for report in fit(spec, images(), device=CPU, resume=half):
        resumed = report.snapshot()
    assert resumed.step == end.step > half.step
    for name, array in {**end.weights, **end.state}.items():
        np.testing.assert_array_equal({**resumed.weights, **resumed.state}[name], array)
    devices.set_threads(1)  # and one can go on where two have stopped
    *_, report = fit(spec, images(), device=CPU, resume=half)
    assert report.loss == pytest.approx(alone[-1], rel=1e-4)


def test_threads_and_a_name_for_people() -> None:
    devices.warm_up(CPU)
    devices.set_threads(1)
    assert devices.describe(CPU).endswith(", 1 thread)")
    devices.set_threads(2)  # what the other tests have
    assert devices.describe(CPU).endswith("2 threads)")


def test_running_out_of_memory_is_told_from_other_mistakes() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
