import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchmetrics.functional import classification
from torchmetrics.functional.regression import r2_score

from service import network, presets
from service.checkpoints import Snapshot, encode_weights, sha256
from service.data import datasets, simulated
from service.data.datasets import Dataset
from service.evaluation import evaluate
from service.figures import report
from service.figures.report import Report
from service.presets import PRESETS, Preset
from service.serving import answers
from service.spec import DatasetSpec, TrainingSpec

CPU = torch.device("cpu")
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (3000, 784), dtype=np.uint8)
LABELS = GENERATOR.integers(0, 10, 3000)


def images(*, labels: NDArray[Any] = LABELS, validation: int = 0) -> Dataset:
    held_out, rest = slice(0, validation), slice(validation, 1500)
    return Dataset(
        "mnist",
        IMAGES[rest],
        labels[rest],
        IMAGES[held_out],
        labels[held_out],
        IMAGES[1500:],
        labels[1500:],
        "d" * 64,
    )


def weights_of(spec: TrainingSpec, inputs: NDArray[Any] | None = None) -> bytes:
    """Of the untrained network."""
    arrays = network.arrays_of(network.build(spec, inputs))
    return encode_weights(Snapshot(7, 0.5, arrays, {}, {}), spec, preprocessing="1")


def classified() -> Report:
    return report.make(weights_of(TrainingSpec()), images(), device=CPU)


def bias_to(label: int) -> bytes:
    """Weights that always read `label`."""
    spec = TrainingSpec.model_validate({"network": {"hidden_widths": []}})
    arrays = {name: np.zeros_like(array) for name, array in network.arrays_of(network.build(spec)).items()}
    arrays["input.std"] += 1
    arrays["layers.0.bias"][label] = 1
    return encode_weights(Snapshot(1, 1.0, arrays, {}, {}), spec, preprocessing="1")


def test_what_it_is_of() -> None:
    weights = weights_of(TrainingSpec())
    data = report.make(weights, images(), device=CPU).data
    assert (data["task"], data["step"], data["epoch"]) == ("classification", 7, 0.5)
    assert (data["weights_sha256"], data["dataset"]) == (
        sha256(weights),
        {"name": "mnist", "sha256": "d" * 64},
    )
    assert (data["published"], data["overrides"]) == ([], [])
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_it_can_be_made_again() -> None:
    weights = weights_of(TrainingSpec())
    one, other = (report.make(weights, images(), device=CPU) for _ in range(2))
    assert json.dumps(one.data) == json.dumps(other.data)
    assert one.answers is not None
    assert other.answers is not None
    assert one.answers.log_probabilities.tobytes() == other.answers.log_probabilities.tobytes()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_the_parts_are_as_training_measures_them(loss: Any) -> None:
    fields = {"loss": loss, "dataset": {"validation": 300}, "evaluation": {"train_examples": 1100}}
    spec, dataset = TrainingSpec.model_validate(fields), images(validation=300)
    data = report.make(weights_of(spec), dataset, device=CPU).data
    built = network.build(spec)
    for name, inputs, targets in (
        ("train", dataset.train_inputs[:1100], dataset.train_targets[:1100]),
        ("validation", dataset.validation_inputs, dataset.validation_targets),
        ("test", dataset.test_inputs, dataset.test_targets),
    ):
        part = data["parts"][name]
        normalized = built.normalize(torch.tensor(inputs))
        assert evaluate(built, normalized, torch.tensor(targets), loss) == {
            "loss": part["loss"],
            "accuracy": part["accuracy"],
        }
        assert part["examples"] == len(targets)
        assert part["errors"] == round((1 - part["accuracy"]) * len(targets))
        p = part["accuracy"]
        assert part["accuracy_standard_error"] == math.sqrt(p * (1 - p) / len(targets))
    assert "validation" not in classified().data["parts"]


def test_figures_of_classes_by_their_definitions() -> None:
    made = classified()
    told, data = made.answers, made.data
    assert told is not None
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (told.targets, told.predicted), 1)
    assert data["confusion_matrix"] == confusion.tolist()
    assert np.trace(confusion) == data["parts"]["test"]["examples"] - data["parts"]["test"]["errors"]
    for k, figures in enumerate(data["classes"]):
        hits, support, predicted = confusion[k, k], confusion[k].sum(), confusion[:, k].sum()
        assert (figures["label"], figures["support"]) == (k, support)
        assert figures["recall"] == hits / support
        assert figures["precision"] == (hits / predicted if predicted else None)
        assert figures["f1"] == 2 * hits / (support + predicted)
        scores = told.log_probabilities[:, k]
        ours, rest = scores[told.targets == k][:, np.newaxis], scores[told.targets != k]
        wins = (ours > rest).mean() + 0.5 * (ours == rest).mean()
        assert figures["roc_auc"] == pytest.approx(wins, abs=1e-12)


def test_figures_of_classes_are_those_of_torchmetrics() -> None:
    made = classified()
    told, data = made.answers, made.data
    assert told is not None
    targets, predicted = (torch.from_numpy(a.astype(np.int64)) for a in (told.targets, told.predicted))
    functions: dict[str, Callable[..., torch.Tensor]] = {
        "precision": classification.multiclass_precision,
        "recall": classification.multiclass_recall,
        "f1": classification.multiclass_f1_score,
    }
    for name, function in functions.items():
        found = [one[name] or 0.0 for one in data["classes"]]
        expected = function(predicted, targets, num_classes=10, average="none")
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    confusion = classification.multiclass_confusion_matrix(predicted, targets, 10)
    assert data["confusion_matrix"] == confusion.tolist()
    probabilities = torch.from_numpy(told.probabilities)
    areas = classification.multiclass_auroc(probabilities, targets, 10, average="none")
    found = [one["roc_auc"] for one in data["classes"]]
    np.testing.assert_allclose(found, areas.numpy(), atol=1e-5)
    error = classification.multiclass_calibration_error(probabilities, targets, 10, n_bins=report.BINS)
    assert data["calibration"]["expected_calibration_error"] == pytest.approx(float(error), abs=1e-6)


def test_calibration_by_its_definition() -> None:
    made = classified()
    told, data = made.answers, made.data["calibration"]
    assert told is not None
    bins = data["bins"]
    assert [bins[0]["low"], bins[-1]["high"]] == [0.0, 1.0]
    assert [one["high"] for one in bins[:-1]] == [one["low"] for one in bins[1:]]
    error, counted = 0.0, 0
    for one in bins:
        inside = (told.confidence >= one["low"]) & (told.confidence < one["high"])
        assert one["count"] == inside.sum()
        counted += one["count"]
        if one["count"]:
            assert one["accuracy"] == pytest.approx(told.correct[inside].mean())
            assert one["confidence"] == pytest.approx(told.confidence[inside].mean(), rel=1e-5)
            error += one["count"] / len(told) * abs(one["accuracy"] - one["confidence"])
        else:
            assert (one["accuracy"], one["confidence"]) == (None, None)
    assert counted == len(told)
    assert data["expected_calibration_error"] == pytest.approx(error, abs=1e-12)
    one_hot = functional.one_hot(torch.from_numpy(told.targets.astype(np.int64)), 10).numpy()
    brier = ((told.probabilities - one_hot) ** 2).sum(axis=1).mean()
    assert data["brier_score"] == pytest.approx(brier, rel=1e-5)


def test_certainty_belongs_to_the_last_bin() -> None:
    """One wrong with a confidence that rounds to 1, one right with 0.95: together 0.5 against 0.975."""
    logits = np.log(np.array([[0.95, 0.05], [1.0, 1e-30]], np.float32))
    told = answers.of_logits(logits, np.array([0, 1]), IMAGES[:2])
    data = report._calibration(told)
    last = {"low": 14 / 15, "high": 1.0, "count": 2, "accuracy": 0.5, "confidence": pytest.approx(0.975)}
    assert data["bins"][-1] == last
    assert data["expected_calibration_error"] == pytest.approx(0.475)
    assert data["brier_score"] == pytest.approx((2 * 0.05**2 + 2) / 2)


def test_what_does_not_exist_is_null() -> None:
    """A network that reads every image as 3, on a test set without 8s."""
    labels = np.where(LABELS == 8, 1, LABELS)
    data = report.make(bias_to(3), images(labels=labels), device=CPU).data
    classes, share = data["classes"], float((labels[1500:] == 3).mean())
    assert classes[3]["precision"] == share
    assert classes[3]["recall"] == 1.0
    assert (classes[0]["precision"], classes[0]["recall"], classes[0]["f1"]) == (None, 0.0, 0.0)
    nothing = {"label": 8, "support": 0, "precision": None, "recall": None, "f1": None, "roc_auc": None}
    assert classes[8] == nothing
    assert [one["roc_auc"] for one in classes if one["label"] != 8] == [0.5] * 9, "all are equal"
    macro = data["macro"]
    assert (macro["precision"], macro["recall"], macro["roc_auc"]) == (share, pytest.approx(1 / 9), 0.5)
    json.dumps(data, allow_nan=False)


def regression_of(*, noise: float = 0.5, validation: int = 0, **fields: Any) -> tuple[Report, Dataset]:
    spec = TrainingSpec.model_validate(
        {
            "dataset": {"name": "simulated", "examples": 400, "noise": noise, "validation": validation},
            **fields,
        }
    )
    dataset = simulated_of(spec.dataset)
    made = report.make(weights_of(spec, dataset.train_inputs), dataset, device=CPU)
    return made, dataset


def simulated_of(spec: DatasetSpec) -> Dataset:
    return datasets.load(spec, cache_dir=Path("/nowhere"), data_dir=None)


def test_a_regression_by_its_definitions() -> None:
    made, dataset = regression_of(validation=100, evaluation={"train_examples": 250})
    assert made.answers is None
    data = made.data
    spec = TrainingSpec.model_validate({"dataset": {"name": "simulated", "examples": 400, "validation": 100}})
    built = network.build(spec, dataset.train_inputs)

    def checked(part: dict[str, Any], inputs: NDArray[Any], targets: NDArray[Any]) -> None:
        with torch.no_grad():
            wrong = built(torch.tensor(inputs)).numpy() - targets
        mse = (wrong.astype(np.float64) ** 2).mean()
        assert part["examples"] == len(targets)
        assert part["mse"] == pytest.approx(mse, rel=1e-5)
        assert part["rmse"] == math.sqrt(part["mse"])
        assert part["r2"] == pytest.approx(1 - mse / targets.astype(np.float64).var(), rel=1e-5)
        read, truth = (torch.tensor(one).double().flatten() for one in (wrong + targets, targets))
        assert part["r2"] == pytest.approx(float(r2_score(read, truth)), rel=1e-5)

    train = dataset.train_inputs[:250], dataset.train_targets[:250]
    checked(data["parts"]["train"], *train)
    checked(data["parts"]["validation"], dataset.validation_inputs, dataset.validation_targets)
    checked(data["parts"]["test"], dataset.test_inputs, dataset.test_targets)
    assert data["curve_rmse"] == data["parts"]["test"]["rmse"]
    drawn = train[1] - simulated.true_function(train[0].astype(np.float64))
    noise = data["noise"]
    assert noise["variance"] == 0.25
    assert noise["realised_variance"] == pytest.approx((drawn**2).mean())
    assert noise["mse_to_variance"] == data["parts"]["train"]["mse"] / 0.25
    assert noise["mse_to_realised_variance"] == data["parts"]["train"]["mse"] / noise["realised_variance"]


def test_without_noise_there_is_no_ratio() -> None:
    data = regression_of(noise=0.0)[0].data
    assert (data["noise"]["variance"], data["noise"]["mse_to_variance"]) == (0.0, None)


def test_published_figures_stand_beside_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Preset(
        "own",
        "",
        "",
        TrainingSpec(),
        {"test_accuracy": 0.9, "test_errors": 10, "best_test_accuracy": 0.95},
        {"test_accuracy": (0.0, 0.5), "train_accuracy": (0.99, 1.0)},
    )
    monkeypatch.setitem(PRESETS, "own", own)
    spec = TrainingSpec.model_validate({"seed": 3, "network": {"hidden_widths": [16]}})
    data = report.make(weights_of(spec), images(), device=CPU, preset="own").data
    parts = data["parts"]
    assert data["published"] == [
        {
            "name": "test_accuracy",
            "published": 0.9,
            "ours": parts["test"]["accuracy"],
            "range": [0.0, 0.5],
            "within": True,
        },
        {
            "name": "test_errors",
            "published": 10,
            "ours": parts["test"]["errors"],
            "range": None,
            "within": None,
        },
        {"name": "best_test_accuracy", "published": 0.95, "ours": None, "range": None, "within": None},
        {
            "name": "train_accuracy",
            "published": None,
            "ours": parts["train"]["accuracy"],
            "range": [0.99, 1.0],
            "within": False,
        },
    ]
    assert data["overrides"] == ["#/network/hidden_widths", "#/seed"]


def test_steps_that_a_budget_came_to_are_no_override() -> None:
    asked = PRESETS["cpu-minute"].spec
    small = asked.model_copy(update={"network": asked.network.model_copy(update={"hidden_widths": (4,)})})
    weights = weights_of(small.with_steps(300), images().train_inputs)
    data = report.make(weights, images(), device=CPU, preset="cpu-minute").data
    assert data["overrides"] == ["#/network/hidden_widths"]


@pytest.mark.parametrize("name", [name for name, one in PRESETS.items() if one.spec.committee is None])
def test_every_published_figure_is_one_that_a_report_has(name: str) -> None:
    """But for the best of a series, which the API adds."""
    preset = presets.find(name)
    if preset.spec.task_name == "regression":
        dataset = simulated_of(preset.spec.dataset)
    else:
        dataset = images(validation=100 if preset.spec.dataset.validation else 0)
    small = preset.spec.model_copy(
        update={"network": preset.spec.network.model_copy(update={"hidden_widths": (4,)})}
    )
    weights = weights_of(small, dataset.train_inputs)
    figures = report.make(weights, dataset, device=CPU, preset=name).data["published"]
    assert {one["name"] for one in figures} == {*preset.published, *preset.faithful}
    for one in figures:
        assert (one["ours"] is None) == one["name"].startswith("best_"), one["name"]


def test_a_network_of_some_size_is_tried_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert classified().quantized is None  # float32 is as fast
    monkeypatch.setattr(report, "QUANTIZED_FROM", 1)
    tried = classified().quantized
    assert tried is not None
    assert tried["images"] == 1500
    assert 0.9 < tried["agreement"] <= 1
    assert json.loads(json.dumps(tried, allow_nan=False)) == {**tried, "peaks": list(tried["peaks"])}
    other = TrainingSpec.model_validate({"network": {"activation": "tanh"}})
    assert report.make(weights_of(other), images(), device=CPU).quantized is None


def test_calibration_before_and_after() -> None:
    """An untrained network knows nothing, and comes to say so; its answers stay."""
    dataset = replace(images(), test_inputs=IMAGES, test_targets=LABELS)
    spec = TrainingSpec.model_validate({"network": {"hidden_widths": [16]}})
    made = report.make(weights_of(spec), dataset, device=CPU)
    before, after = made.data["calibration"], made.data["calibrated"]
    assert (after["source"], after["examples"]) == ("test_folds", 3000)
    assert after["temperature"] > 2
    for name in ("expected_calibration_error", "negative_log_likelihood", "brier_score"):
        assert after[name] < before[name]
    assert after["negative_log_likelihood"] == pytest.approx(math.log(10), rel=0.01)
    assert 0.98 < after["digits_kept"] <= 1
    assert made.answers is not None
    assert before["negative_log_likelihood"] == pytest.approx(made.answers.loss.mean())
    assert made.calibration is not None
    assert made.calibration["temperature"] == after["temperature"]
    assert made.calibration["expected_calibration_error"] == {
        "before": before["expected_calibration_error"],
        "after": after["expected_calibration_error"],
    }
    assert json.loads(json.dumps(made.calibration, allow_nan=False)) == made.calibration


def test_the_validation_split_calibrates_where_there_is_one() -> None:
    held = replace(images(), validation_inputs=IMAGES[:1200], validation_targets=LABELS[:1200])
    spec = TrainingSpec.model_validate(
        {"network": {"hidden_widths": [16]}, "dataset": {"name": "kmnist", "validation": 1200}}
    )
    made = report.make(weights_of(spec), replace(held, name="kmnist"), device=CPU)
    assert (made.data["calibrated"]["source"], made.data["calibrated"]["examples"]) == ("validation", 1200)
    assert made.data["calibrated"]["digits_kept"] is None
    assert classified().data["calibrated"] is None, "too few examples"
    assert classified().calibration is None
