"""Reports and comparisons as tables for a terminal."""

import json
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from rich.console import RenderableType
from rich.table import Column, Table

from service.cli.terminal import figure

Figures = Mapping[str, Any]

_PER_CLASS = ("precision", "recall", "f1", "roc_auc")


def of_report(report: Figures) -> Iterator[RenderableType]:
    """What there is to say of a classification or a regression, the most important first."""
    is_classification = report["task"] == "classification"
    yield _accuracies(report["parts"]) if is_classification else _errors(report["parts"])
    if report.get("published"):
        yield _published(report)
    if is_classification:
        yield _classes(report)
        yield _confusion(report["confusion_matrix"])
        yield _calibration(report["calibration"], report.get("calibrated"))
    else:
        yield _noise(report)


def _accuracies(parts: Mapping[str, Figures]) -> Table:
    table = Table("part", *map(_right, ("examples", "errors", "accuracy", "loss")))
    for name, part in parts.items():
        accuracy = f"{part['accuracy']:.2%} ± {part['accuracy_standard_error']:.2%}"
        table.add_row(
            name, f"{part['examples']:,}", f"{part['errors']:,}", accuracy, figure("loss", part["loss"])
        )
    return table


def _errors(parts: Mapping[str, Figures]) -> Table:
    table = Table("part", *map(_right, ("examples", "mse", "rmse", "R²")))
    for name, part in parts.items():
        table.add_row(
            name, f"{part['examples']:,}", *(figure(key, part[key]) for key in ("mse", "rmse", "r2"))
        )
    return table


def _published(report: Figures) -> Table:
    overrides = report.get("overrides") or []
    note = f"the job differs from the preset in {', '.join(overrides)}" if overrides else None
    table = Table("figure", *map(_right, ("published", "ours", "faithful")), "", caption=note)
    for row in report["published"]:
        name, limits = row["name"], row.get("range")
        faithful = "" if limits is None else " to ".join(figure(name, limit) for limit in limits)
        table.add_row(
            name,
            figure(name, row["published"]),
            figure(name, row["ours"]),
            faithful,
            {True: "within", False: "outside", None: ""}[row.get("within")],
        )
    return table


def _classes(report: Figures) -> Table:
    table = Table("class", *map(_right, ("examples", "precision", "recall", "F1", "ROC AUC")))
    for row in report["classes"]:
        table.add_row(str(row["label"]), f"{row['support']:,}", *(_share(row[key]) for key in _PER_CLASS))
    table.add_section()
    table.add_row("mean", "", *(_share(report["macro"][key]) for key in _PER_CLASS))
    return table


def _confusion(matrix: Sequence[Sequence[int]]) -> Table:
    table = Table("true \\ predicted", *(_right(str(label)) for label in range(len(matrix))), pad_edge=False)
    for label, row in enumerate(matrix):
        cells = [
            f"[bold]{count}[/]" if column == label else str(count or "·") for column, count in enumerate(row)
        ]
        table.add_row(str(label), *cells)
    return table


def _calibration(before: Figures, after: Figures | None) -> str:
    error, brier = before["expected_calibration_error"], before["brier_score"]
    said = f"expected calibration error {error:.2%}, Brier score {brier:.4f}"
    if after is None:
        return said
    error, temperature = after["expected_calibration_error"], after["temperature"]
    return f"{said}; calibrated by a temperature of {temperature:.3g}: {error:.2%}"


def _noise(report: Figures) -> str:
    noise = report["noise"]
    lines = [f"distance of the curve from the truth {figure('rmse', report['curve_rmse'])} (rmse)"]
    if noise["mse_to_variance"] is not None:
        lines.append(
            f"training error {noise['mse_to_variance']:.3f} times the noise's variance "
            f"({noise['variance']:.4g}), {noise['mse_to_realised_variance']:.3f} times that of the noise drawn"
        )
    return "\n".join(lines)


def of_comparison(found: Figures) -> Iterator[RenderableType]:
    """The jobs, each with a letter that stands for it, the fields in which they differ, and each test of two."""
    letters = {job["id"]: letter for job, letter in zip(found["jobs"], ascii_uppercase, strict=False)}
    yield _names(found["jobs"], letters)
    yield _metrics(found["jobs"], letters)
    if found["differences"]:
        yield _differences(found["differences"], letters)
    if found["tests"]:
        yield _tests(found["tests"], letters)
    for note in found["notes"]:
        for job_id, letter in letters.items():
            note = note.replace(job_id, letter)
        yield note


def _names(jobs: Sequence[Figures], letters: Mapping[str, str]) -> Table:
    table = Table.grid(*(Column(no_wrap=True) for _ in range(3)), padding=(0, 2, 0, 0))
    for job in jobs:
        table.add_row(letters[job["id"]], job["id"], job["preset"] or "")
    return table


def _metrics(jobs: Sequence[Figures], letters: Mapping[str, str]) -> Table:
    table = Table("figure", *(_right(letters[job["id"]]) for job in jobs))
    for name in sorted({name for job in jobs for name in job["metrics"]}):
        table.add_row(name, *(figure(name, job["metrics"].get(name)) for job in jobs))
    return table


def _differences(differences: Sequence[Figures], letters: Mapping[str, str]) -> Table:
    table = Table("field", *(Column(letter, overflow="fold") for letter in letters.values()))
    for row in differences:
        table.add_row(row["pointer"], *(_plain(row["values"].get(job_id)) for job_id in letters))
    return table


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _tests(tests: Sequence[Figures], letters: Mapping[str, str]) -> Table:
    columns = ("difference", "95 % interval", "only a right", "only b right", "p")
    table = Table("a", "b", *map(_right, columns), caption="McNemar's test of equal accuracy")
    for test in tests:
        low, high = test["interval"]
        only = (f"{test[key]:,}" for key in ("only_a_right", "only_b_right"))
        table.add_row(
            letters[test["a"]],
            letters[test["b"]],
            f"{test['difference']:+.2%}",
            f"{low:+.2%} to {high:+.2%}",
            *only,
            f"{test['p_value']:.3g}",
        )
    return table


def _right(name: str) -> Column:
    return Column(name, justify="right")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
