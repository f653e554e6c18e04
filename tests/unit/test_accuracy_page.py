"""The page of the recipes past the lecture is what its figures say."""

import json
from pathlib import Path

import pytest

from bench import accuracy
from service.presets import RECORDS

ROWS = accuracy.kept()


def test_the_table_is_that_of_the_figures() -> None:
    page = accuracy.PAGE.read_text()
    assert accuracy.rendered(page, ROWS) == page, "run python -m bench.accuracy --page"


def test_every_row_is_of_a_recipe_there_is() -> None:
    assert {row["preset"] for row in ROWS} <= set(RECORDS)
    for row in ROWS:
        assert row["errors"] == round(10_000 * (1 - row["accuracy"]))


def row_of(seed: int, share: float, **fields: object) -> accuracy.Row:
    row = {"preset": "cpu-minute", "changes": {}, "seed": seed, "read": "test", "accuracy": share}
    row |= {"errors": round(10_000 * (1 - share)), "loss": 0.02, "parameters": 2_913_290, "steps": 100}
    return (
        row
        | {"epochs": 1.5, "seconds": 60.0, "device": "CPU", "precision": "bfloat16", "torch": "2"}
        | fields
    )


def test_seeds_of_one_recipe_are_one_line() -> None:
    changes = {"optimizer": {"learning_rate": 0.1}, "seed": 1}
    rows = [row_of(0, 0.99), row_of(1, 0.992), row_of(0, 0.98, changes=changes)]
    *_, both, changed = accuracy.table(rows).splitlines()
    assert "| `cpu-minute` | test | 2,913,290 | 99.100 ± 0.141 | 90.0 ± 14.1 | 2 | 1.5 | 60 |" in both
    assert "`cpu-minute` (optimizer.learning_rate=0.1, seed=1)" in changed
    assert "| 98.000 | 200.0 | 1 |" in changed


def test_a_row_is_kept_as_soon_as_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "accuracy.json"
    monkeypatch.setattr(accuracy, "FIGURES", file)
    assert accuracy.kept() == []
    for seed in range(2):
        accuracy.keep(row_of(seed, 0.99))
    assert (
        [row["seed"] for row in accuracy.kept()]
        == [0, 1]
        == [row["seed"] for row in json.loads(file.read_text())]
    )
