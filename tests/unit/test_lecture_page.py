"""The page of the lecture's experiments is what its figures say."""

import json
import re

from bench import lecture_page
from bench.lecture import CURES, runs_of
from service.presets import LECTURE

ROWS = json.loads(lecture_page.FIGURES.read_text())
PAGE = lecture_page.PAGE.read_text()


def test_the_tables_are_those_of_the_figures() -> None:
    assert lecture_page.rendered(PAGE, ROWS) == PAGE, "run python -m bench.lecture --page"


def test_every_preset_of_the_lecture_has_been_run() -> None:
    assert {row["preset"] for row in ROWS} == set(LECTURE)


def test_every_picture_is_there() -> None:
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
    assert len(shown) >= 5
    kept = {f"images/lecture/{file.name}" for file in lecture_page.IMAGES.iterdir()}
    assert {picture for picture in shown if picture.startswith("images/lecture/")} == kept


def test_runs_differ_by_seed_alone() -> None:
    first, second = runs_of("simulated-wide", range(2), {"steps": 10})
    assert (first.spec.seed, first.spec.dataset.draw_seed) == (0, 0)
    assert second.spec.model_copy(update={"seed": 0, "dataset": first.spec.dataset}) == first.spec
    assert first.label != second.label


def test_each_cure_is_a_spec_of_its_own() -> None:
    specs = [next(runs_of("slp-8200", range(1), cure, name)).spec for name, cure in CURES.items()]
    assert len({spec.sha256 for spec in specs}) == len(CURES)
