"""The report of a finished job: how good its network is, taken once, from the stored weights and the data.

The same weights and data on the same device and threads give an equal report. Null is a figure that does
not exist: the precision of a class that was never predicted, the recall of one without examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service import checkpoints, presets
from service.checkpoints import Arrays
from service.data import simulated
from service.data.datasets import Dataset
from service.evaluation import CHUNK, mean_loss, outputs
from service.figures import comparison
from service.network import Network, rebuild
from service.serving import answers, calibration
from service.serving.answers import Answers
from service.serving.calibration import Examples, Fitted
from service.spec import TrainingSpec

FORMAT = 1  # of the report's JSON
QUANTIZED_FROM = 250_000  # parameters: below, float32 is as fast
BINS = 15  # of confidence, as Guo et al. 2017 take

Figures = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """`data` is JSON; `answers` are of a classification's test set, None for a regression. `calibration` is JSON that
    belongs to the model, see `confidence.Calibration`; None for a regression or where too few examples tell.
    `quantized` is one too, see `quantized.Trial`; None for a network that float32 serves as fast."""

    data: Figures
    answers: Answers | None
    calibration: Figures | None = None
    quantized: Figures | None = None


@dataclass(frozen=True)
class _Part:
    """Some examples and what the network makes of them."""

    inputs: NDArray[Any]  # as stored
    targets: Tensor  # on the CPU, as all that follows
    outputs: Tensor  # (n, outputs) float32

    @property
    def examples(self) -> int:
        return len(self.targets)


def make(weights: bytes, dataset: Dataset, *, device: torch.device, preset: str | None = None) -> Report:
    """The report of a weights file on the dataset that its spec names. `preset` is the one that the job was
    made by, whose published figures are set beside ours. Raises checkpoints.CorruptCheckpoint."""
    spec, arrays, metadata = checkpoints.decode_weights(weights)
    parts = _parts(rebuild(weights).to(device), dataset, spec)
    make_figures = _classification if spec.task_name == "classification" else _regression
    figures, told, calibrated = make_figures(parts, spec)
    tried = _quantized(spec, arrays, dataset)
    data = {
        "format": FORMAT,
        "task": spec.task_name,
        "step": metadata["step"],
        "epoch": metadata["epoch"],
        "weights_sha256": checkpoints.sha256(weights),
        "dataset": {"name": dataset.name, "sha256": dataset.sha256},
        **figures,
        **_against_published(preset, spec, figures),
    }
    return Report(data, told, calibrated, tried)


def _quantized(spec: TrainingSpec, arrays: Arrays, dataset: Dataset) -> Figures | None:
    if spec.parameter_count < QUANTIZED_FROM:
        return None
    # it brings ONNX Runtime, which most jobs have no use for
    from service.serving import quantized

    if not quantized.is_quantizable(spec):
        return None
    images, labels = dataset.test_inputs, dataset.test_targets
    return asdict(quantized.tried(spec, arrays, dataset.train_inputs, images, labels))


def _parts(network: Network, dataset: Dataset, spec: TrainingSpec) -> dict[str, _Part]:
    """As `fit` evaluates them: the first `evaluation.train_examples` of the training set, and the others
    whole; those without examples are left out."""
    first = spec.evaluation.train_examples
    given = {
        "train": (dataset.train_inputs[:first], dataset.train_targets[:first]),
        "validation": (dataset.validation_inputs, dataset.validation_targets),
        "test": (dataset.test_inputs, dataset.test_targets),
    }
    return {
        name: _Part(inputs, torch.tensor(targets), _outputs(network, inputs))
        for name, (inputs, targets) in given.items()
        if len(inputs)
    }


@torch.no_grad()
def _outputs(network: Network, inputs: NDArray[Any]) -> Tensor:
    """In the chunks of `evaluation.outputs`, so that every bit is the same, but without all inputs as floats
    at once."""
    device = next(network.parameters()).device
    chunk = CHUNK.get(device.type, CHUNK["cpu"])
    chunks = (torch.tensor(inputs[start : start + chunk]) for start in range(0, len(inputs), chunk))
    return torch.cat([outputs(network, network.normalize(one.to(device))).cpu() for one in chunks])


def _classification(
    parts: Mapping[str, _Part], spec: TrainingSpec
) -> tuple[Figures, Answers, Figures | None]:
    test = parts["test"]
    told = answers.of_logits(test.outputs.numpy(), test.targets.numpy(), test.inputs)
    fitted = _fitted(parts, spec)
    before, after = _calibration(told), None if fitted is None else _calibration(fitted.told(told))
    confusion = _confusion(told)
    classes = _classes(confusion, told)
    figures = {
        "loss_name": spec.loss_name,
        "parts": {name: _accuracy(part, spec) for name, part in parts.items()},
        "confusion_matrix": confusion,
        "classes": classes,
        "macro": {name: _mean_of(classes, name) for name in ("precision", "recall", "f1", "roc_auc")},
        "calibration": before,
        "calibrated": None if fitted is None or after is None else {**fitted.figures, **after},
    }
    if fitted is None or after is None:
        return figures, told, None
    improved = {
        name: {"before": before[name], "after": after[name]}
        for name in ("expected_calibration_error", "negative_log_likelihood")
    }
    return figures, told, {**fitted.calibration.to_json(), **improved}


def _fitted(parts: Mapping[str, _Part], spec: TrainingSpec) -> Fitted | None:
    are_digits = spec.dataset.name in calibration.DIGITS
    held_out = {
        name: Examples(part.outputs.numpy(), part.targets.numpy(), part.inputs if are_digits else None)
        for name, part in parts.items()
        if name != "train"
    }
    return calibration.fit(held_out["test"], held_out.get("validation"))


def _accuracy(part: _Part, spec: TrainingSpec) -> Figures:
    """Loss and accuracy as `evaluation.evaluate` takes them. The standard error is the binomial
    sqrt(p (1 - p) / n)."""
    n = part.examples
    correct = int((part.outputs.argmax(1) == part.targets).sum())
    accuracy = correct / n
    return {
        "examples": n,
        "errors": n - correct,
        "loss": mean_loss(part.outputs, part.targets, spec.loss_name).item(),
        "accuracy": accuracy,
        "accuracy_standard_error": math.sqrt(accuracy * (1 - accuracy) / n),
    }


def _confusion(told: Answers) -> list[list[int]]:
    """Rows are true classes, columns predicted ones."""
    classes = told.log_probabilities.shape[1]
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (told.targets, told.predicted), 1)
    rows: list[list[int]] = matrix.tolist()
    return rows


def _classes(confusion: Sequence[Sequence[int]], told: Answers) -> list[Figures]:
    """Of each class: precision TP / (TP + FP), recall TP / (TP + FN), their harmonic mean F1, and the area
    under the ROC curve of this class against the rest."""
    predicted = [sum(row[k] for row in confusion) for k in range(len(confusion))]
    return [
        {
            "label": k,
            "support": sum(row),
            "precision": _ratio(row[k], predicted[k]),
            "recall": _ratio(row[k], sum(row)),
            "f1": _ratio(2 * row[k], sum(row) + predicted[k]),
            "roc_auc": _roc_auc(told.log_probabilities[:, k], told.targets == k),
        }
        for k, row in enumerate(confusion)
    ]


def _roc_auc(scores: NDArray[np.float32], is_class: NDArray[np.bool_]) -> float | None:
    """Chance that an example of the class scores higher than one of the rest, a tie counting half: Mann and
    Whitney's U as a share of all pairs (Hanley and McNeil 1982). None without examples on both sides."""
    inside = int(is_class.sum())
    pairs = inside * (len(scores) - inside)
    if pairs == 0:
        return None
    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(ties) - (ties - 1) / 2  # from 1; equal scores share the mean of theirs
    return float((ranks[place][is_class].sum() - inside * (inside + 1) / 2) / pairs)


def _calibration(told: Answers) -> Figures:
    """Whether a confidence of 90 % is right nine times in ten. expected_calibration_error: mean of
    |accuracy - confidence| over 15 bins of equal width, weighted by their examples (Guo et al. 2017, equation
    3); brier_score: mean over examples of the sum over classes of (probability - one-hot label)^2;
    negative_log_likelihood: mean over examples of -log p(true class)."""
    bins = _bins(told.confidence, told.correct)
    gaps = [one["count"] * abs(one["accuracy"] - one["confidence"]) for one in bins if one["count"]]
    distances = told.probabilities.astype(np.float64) - np.eye(told.probabilities.shape[1])[told.targets]
    return {
        "expected_calibration_error": sum(gaps) / len(told),
        "brier_score": float((distances**2).sum(axis=1).mean()),
        "negative_log_likelihood": float(told.loss.mean(dtype=np.float64)),
        "bins": bins,
    }


def _bins(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> list[Figures]:
    number = np.minimum((confidence.astype(np.float64) * BINS).astype(int), BINS - 1)  # 1 is in the last
    return [
        {
            "low": k / BINS,
            "high": (k + 1) / BINS,
            "count": int((number == k).sum()),
            "accuracy": _mean(correct[number == k]),
            "confidence": _mean(confidence[number == k].astype(np.float64)),
        }
        for k in range(BINS)
    ]


def _regression(parts: Mapping[str, _Part], spec: TrainingSpec) -> tuple[Figures, None, None]:
    """The test set of `simulated` is the true function on the lecture's grid, so that its error is the
    curve's distance from the truth."""
    figures = {name: _errors(part, spec) for name, part in parts.items()}
    return (
        {
            "loss_name": spec.loss_name,
            "parts": figures,
            "curve_rmse": figures["test"]["rmse"],
            "noise": _noise(parts["train"], figures["train"]["mse"], spec),
        },
        None,
        None,
    )


def _errors(part: _Part, spec: TrainingSpec) -> Figures:
    """Mean squared error as `evaluation.evaluate` takes it, its root, and R^2 = 1 - MSE / variance of the
    targets; None where they do not vary."""
    mse = mean_loss(part.outputs, part.targets, spec.loss_name).item()
    targets = part.targets.double().flatten()
    wrong = part.outputs.double().flatten() - targets
    r2 = 1 - float((wrong**2).mean() / targets.var(correction=0)) if (targets != targets[0]).any() else None
    return {"examples": part.examples, "mse": mse, "rmse": math.sqrt(mse), "r2": r2}


def _noise(train: _Part, mse: float, spec: TrainingSpec) -> Figures:
    """What no network can explain: the variance that the noise was drawn with, the mean square of the noise
    that was drawn, and the in-sample error as a multiple of each."""
    variance = spec.dataset.noise_deviation**2
    truth = simulated.true_function(train.inputs.astype(np.float64))
    realised = float(((train.targets.numpy() - truth) ** 2).mean())
    return {
        "variance": variance,
        "realised_variance": realised,
        "mse_to_variance": _ratio(mse, variance),
        "mse_to_realised_variance": _ratio(mse, realised),
    }


def _against_published(preset: str | None, spec: TrainingSpec, figures: Figures) -> Figures:
    """What is said of a preset's published figures; nothing for a job of its own spec. `overrides` are the
    fields in which the job's spec is not the preset's."""
    known = presets.PRESETS.get(preset or "")
    if known is None:
        return {"published": [], "overrides": []}
    ours = {
        f"{part}_{name}": value for part, values in figures["parts"].items() for name, value in values.items()
    }
    ours |= {name.replace("_mse", "_loss"): value for name, value in ours.items() if name.endswith("_mse")}
    ours |= figures.get("noise", {})
    ours["curve_rmse"] = figures.get("curve_rmse")
    wanted = known.spec
    if wanted.planned is None and spec.planned is not None:  # the worker fixed the steps: that is no override
        wanted = wanted.with_steps(spec.planned.steps)
    specs = {"ours": spec.model_dump(mode="json"), "preset": wanted.model_dump(mode="json")}
    return {
        "published": [
            _beside(name, ours.get(name), known.published.get(name), known.faithful.get(name))
            for name in dict.fromkeys([*known.published, *known.faithful])
        ],
        "overrides": [row.pointer for row in comparison.differences(specs)],
    }


def _beside(
    name: str, ours: float | None, published: float | None, faithful: tuple[float, float] | None
) -> Figures:
    within = None if ours is None or faithful is None else faithful[0] <= ours <= faithful[1]
    return {
        "name": name,
        "published": published,
        "ours": ours,
        "range": None if faithful is None else list(faithful),
        "within": within,
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None


def _mean_of(classes: Sequence[Figures], name: str) -> float | None:
    """Over the classes that have the figure."""
    known = [one[name] for one in classes if one[name] is not None]
    return sum(known) / len(known) if known else None
