"""The generated parts of `docs/lecture.md`: tables of what the lecture publishes against what runs gave, and
pictures of them. The figures of all runs, of other days and machines too, are kept in `docs/lecture.json`."""

import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from service import checkpoints, plots
from service.data import augment, datasets, simulated
from service.data.datasets import Dataset
from service.figures import report
from service.presets import LECTURE
from service.serving import answers
from service.settings import load as load_settings
from service.spec import TrainingSpec
from worker.device import resolve

DOCS = Path(__file__).parent.parent / "docs"
PAGE, FIGURES, IMAGES = DOCS / "lecture.md", DOCS / "lecture.json", DOCS / "images" / "lecture"
SHOWN = 12  # images a row
HEADER_LINES = 2

Row = dict[str, Any]


def write(folder: Path) -> None:
    """Take the records of `folder` into the figures, and write tables and pictures anew."""
    records = _records(folder)
    rows = {_run(row): row for row in [*json.loads(FIGURES.read_text()), *map(_row, records)]}
    every = sorted(rows.values(), key=_place)
    FIGURES.write_text(json.dumps(every, indent=1) + "\n")
    page = rendered(PAGE.read_text(), every)
    PAGE.write_text(page)
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name, draw in _pictures(records, folder):
        if f"/{name}.png)" in page:
            (IMAGES / f"{name}.png").write_bytes(draw().png())


def tables(folder: Path) -> Iterator[str]:
    """The tables of the records of `folder` alone."""
    rows = sorted(map(_row, _records(folder)), key=_place)
    for table in _TABLES.values():
        lines = list(table(rows))
        if len(lines) > HEADER_LINES:
            yield from lines


def unfaithful(folder: Path) -> Iterator[str]:
    """A sentence for each figure of a preset whose mean over the runs in `folder` lies outside the range in
    which a faithful run ends."""
    for group in _groups([row for row in map(_row, _records(folder)) if not row["variant"]]):
        for name, (low, high) in LECTURE[group[0]["preset"]].faithful.items():
            mean = statistics.fmean((row["metrics"] | row.get("noise", {}))[name] for row in group)
            if not low <= mean <= high:
                yield f"{group[0]['preset']}: {name} is {mean:.4f} on average, expected {low:g} to {high:g}"


def rendered(text: str, rows: Sequence[Row]) -> str:
    """The page with its tables made anew."""
    for name, table in _TABLES.items():
        begin, end = f"<!-- {name}: generated -->\n", f"\n<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"{PAGE} has no markers for {name}")
        text = before + begin + "\n".join(table(rows)) + end + after
    return text


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def _row(record: dict[str, Any]) -> Row:
    spec = record["spec"]
    found: Row = {name: record[name] for name in ("preset", "label", "variant", "device", "torch")}
    found |= {
        "seed": spec["seed"],
        # records that do not say are of the time when auto was float32
        "precision": record.get("precision", spec["precision"].replace("auto", "float32")),
        "seconds": round(record["seconds"], 1),
        "step": record["report"]["step"],
        "metrics": record["metrics"],
    }
    if "noise" in record["report"]:
        found["noise"] = record["report"]["noise"]
    else:
        accuracies = [point["test_accuracy"] for point in record["series"] if point["step"]]
        found["highest_test_accuracy"] = max(accuracies)
        found["lowest_test_loss"] = min(point["test_loss"] for point in record["series"])
    return found


def _run(row: Row) -> tuple[str, ...]:
    return row["label"], row["precision"], row["device"]


def _place(row: Row) -> tuple[int, str, int]:
    return list(LECTURE).index(row["preset"]), row["variant"], row["seed"]


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Runs that differ by their seed alone, or by how many threads shared the work."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = *(row[name] for name in ("preset", "variant", "precision")), _kind(row["device"])
        groups.setdefault(key, []).append(row)
    yield from groups.values()


def _kind(device: str) -> str:
    """A device's name without its threads, which move the last bits of a sum."""
    return re.sub(r", \d+ threads", "", device)


def _mean(values: Sequence[float], shown: Callable[[float], str]) -> str:
    mean = shown(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {shown(statistics.stdev(values))}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _regressions(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| preset | parameters | published loss | loss | loss / variance of the noise drawn "
        "| curve's RMSE | runs | seconds a run |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for group in _groups([row for row in rows if "noise" in row]):
        preset = LECTURE[group[0]["preset"]]
        ratios = [row["noise"]["mse_to_realised_variance"] for row in group]
        yield (
            "| "
            + " | ".join(
                (
                    f"`{preset.name}`",
                    f"{preset.spec.parameter_count:,}",
                    f"{preset.published['train_loss']:.4f}",
                    _mean([row["metrics"]["train_loss"] for row in group], lambda value: f"{value:.4f}"),
                    _mean(ratios, lambda value: f"{value:.3f}"),
                    _mean(
                        [row["metrics"]["test_loss"] ** 0.5 for row in group], lambda value: f"{value:.3f}"
                    ),
                    str(len(group)),
                    f"{statistics.median(row['seconds'] for row in group):.1f}",
                )
            )
            + " |"
        )


def _classifications(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "| preset | parameters | published test % | test % at the end | wrong of 10,000 | first 2,000 training % "
        "| highest test % on the way | runs | seconds a run | on |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for group in _groups([row for row in rows if "noise" not in row and not _is_sweep(row)]):
        preset, first = LECTURE[group[0]["preset"]], group[0]
        tests = [row["metrics"]["test_accuracy"] for row in group]
        published = preset.published.get("test_accuracy")
        yield (
            "| "
            + " | ".join(
                (
                    f"`{preset.name}`" + (f" ({first['variant']})" if first["variant"] else ""),
                    f"{preset.spec.parameter_count:,}",
                    "" if published is None else _percent(published),
                    _mean(tests, _percent),
                    _mean([10_000 * (1 - accuracy) for accuracy in tests], lambda value: f"{value:.0f}"),
                    _mean([row["metrics"]["train_accuracy"] for row in group], _percent),
                    _mean([row["highest_test_accuracy"] for row in group], _percent),
                    str(len(group)),
                    f"{statistics.median(row['seconds'] for row in group):,.0f}",
                    f"{_kind(first['device'])}, {first['precision']}",
                )
            )
            + " |"
        )


def _is_sweep(row: Row) -> bool:
    return str(row["variant"]).startswith("10,000 images")


def _over_fitting(rows: Sequence[Row]) -> Iterator[str]:
    yield "| remedy | ends at step | training loss | test loss | lowest on the way | test % | runs |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for group in _groups([row for row in rows if _is_sweep(row)]):
        metrics = [row["metrics"] for row in group]
        yield (
            "| "
            + " | ".join(
                (
                    group[0]["variant"].removeprefix("10,000 images, "),
                    f"{statistics.median(row['step'] for row in group):,.0f}",
                    _mean([metric["train_loss"] for metric in metrics], lambda value: f"{value:.4f}"),
                    _mean([metric["test_loss"] for metric in metrics], lambda value: f"{value:.3f}"),
                    _mean([row["lowest_test_loss"] for row in group], lambda value: f"{value:.3f}"),
                    _mean([metric["test_accuracy"] for metric in metrics], _percent),
                    str(len(group)),
                )
            )
            + " |"
        )


_TABLES: dict[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "regressions": _regressions,
    "classifications": _classifications,
    "over-fitting": _over_fitting,
}

Draw = Callable[[], plots.Picture]


def _pictures(records: Sequence[dict[str, Any]], folder: Path) -> Iterator[tuple[str, Draw]]:
    """Name and picture: of the data, and of one run of each preset that has a record here, that of its own seed
    or the first."""
    chosen: dict[str, dict[str, Any]] = {}
    for record in records:
        own = record["spec"]["seed"] == LECTURE[record["preset"]].spec.seed
        if not record["variant"] and (own or record["preset"] not in chosen):
            chosen[record["preset"]] = record
    yield "samples", _samples
    for name, preset in LECTURE.items():
        if preset.spec.augmentation is not None:
            yield f"{name}-augmented", partial(_augmented, preset.spec)
    for name, record in chosen.items():
        spec = TrainingSpec.model_validate(record["spec"])
        if spec.task_name == "regression":
            yield f"{name}-fitted", partial(_fitted, record, spec)
            continue
        weights = (folder / f"{record['label']}.safetensors").read_bytes()
        yield f"{name}-loss", partial(plots.loss, _series(record, "loss"))
        yield f"{name}-accuracy", partial(plots.accuracy, _series(record, "accuracy"))
        yield f"{name}-misclassified", partial(_misclassified, weights, spec)
        yield f"{name}-confusion", partial(_confusion, weights, spec)
        if len(spec.network.hidden_widths) == 1:
            yield f"{name}-weights", partial(_weights, weights)


def _samples() -> plots.Picture:
    dataset = _dataset(LECTURE["slp-200"].spec)
    pixels, labels = dataset.train_inputs[: 3 * SHOWN], dataset.train_targets[: 3 * SHOWN]
    heading = "The first images of MNIST's training set"
    return plots.samples(pixels, labels.tolist(), range(3 * SHOWN), heading=heading)


def _dataset(spec: TrainingSpec) -> Dataset:
    settings = load_settings()
    return datasets.load(spec.dataset, cache_dir=settings.cache_dir, data_dir=settings.data_dir)


def _series(record: dict[str, Any], figure: str) -> dict[str, list[plots.Point]]:
    names = {"training": "train", "validation": "validation", "test": "test"}
    return {
        shown: [
            plots.Point(point["step"], point["epoch"], point[f"{part}_{figure}"])
            for point in record["series"]
            if f"{part}_{figure}" in point
        ]
        for shown, part in names.items()
    }


def _fitted(record: dict[str, Any], spec: TrainingSpec) -> plots.Picture:
    dataset = _dataset(spec)
    curves = [
        plots.Curve(point["step"], point["epoch"], np.asarray(point["curve"]))
        for point in record["series"]
        if point["step"]
    ]
    grid = simulated.grid()
    return plots.fitted(
        curves,
        dataset.train_inputs[:, 0],
        dataset.train_targets[:, 0],
        grid[:, 0],
        simulated.true_function(grid)[:, 0],
        heading=f"{record['preset']}: the fitted curve by iteration",
    )


def _answers(weights: bytes, spec: TrainingSpec) -> tuple[report.Report, answers.Answers]:
    made = report.make(weights, _dataset(spec), device=resolve("auto"))
    assert made.answers is not None
    return made, made.answers


def _misclassified(weights: bytes, spec: TrainingSpec) -> plots.Picture:
    _, told = _answers(weights, spec)
    found = told.misclassified()[:16]
    mistakes = plots.Mistakes(
        found, told.targets[found], told.predicted[found], told.loss[found], _dataset(spec).test_inputs[found]
    )
    return plots.misclassified(mistakes, int((~told.correct).sum()))


def _confusion(weights: bytes, spec: TrainingSpec) -> plots.Picture:
    made, _ = _answers(weights, spec)
    return plots.confusion(np.asarray(made.data["confusion_matrix"]))


def _weights(weights: bytes) -> plots.Picture:
    return plots.weights(checkpoints.decode_weights(weights).first_layer)


def _augmented(spec: TrainingSpec) -> plots.Picture:
    assert spec.augmentation is not None
    dataset = _dataset(spec)
    pixels, labels = dataset.train_inputs[:SHOWN], dataset.train_targets[:SHOWN]
    variants = [
        augment.variants(pixels, labels, spec.augmentation, seed=spec.seed, variant=number)
        for number in range(3)
    ]
    return plots.augmented(
        pixels, variants, labels.tolist(), range(SHOWN), heading="Training images, and three variants of each"
    )
