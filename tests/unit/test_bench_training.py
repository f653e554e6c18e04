"""The race of `bench.training`, on data so small that a pass takes milliseconds."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import contenders, training
from bench.contenders import PEERS, Contender, Learnt, Pixels, Task, numeral
from bench.training import Entry, Pass, Record
from service.data import datasets
from service.data.datasets import Dataset
from service.spec import TrainingSpec
from worker.device import Resident
from worker.training import Report, fit

CPU = torch.device("cpu")
EXAMPLES, TEST = 90, 40
MODULES = {"Keras 3 on PyTorch": "keras", "scikit-learn": "sklearn"}


pytestmark = pytest.mark.usefixtures("one_thread")


def images() -> Dataset:
    """Ten prototypes and noise over them, so that there is something to learn."""
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 10, EXAMPLES + TEST)
    prototypes = generator.integers(0, 2, (10, 784)) * 120
    inputs = (prototypes[targets] + generator.integers(0, 120, (len(targets), 784))).astype(np.uint8)
    train, test = slice(EXAMPLES), slice(EXAMPLES, None)
    return Dataset(
        "mnist", inputs[train], targets[train], inputs[:0], targets[:0], inputs[test], targets[test], ""
    )


def spec_of(**fields: Any) -> TrainingSpec:
    """Five steps a pass, the last of 10 images."""
    return TrainingSpec.model_validate(
        {
            "dataset": {"examples": EXAMPLES},
            "network": {"hidden_widths": [64]},
            "batch_size": 20,
            "epochs": 60,
            "precision": "float32",
            **fields,
        }
    )


def task() -> Task:
    return Task(images(), (784, 64, 10), batch=20, device=CPU, seed=0)


def record_of(name: str, passes: list[tuple[float, float]], spec: TrainingSpec | None = None) -> Record:
    """Passes over 100 images, of so many seconds and up to such an accuracy."""
    entry = Entry(name, 20, PEERS["PyTorch, tutorial"][0], spec)
    return Record(entry, [Pass(seconds, 100, accuracy) for seconds, accuracy in passes])


def trainers() -> dict[str, Contender]:
    return {"Numeral": partial(numeral, spec=spec_of())} | {name: train for name, (train, _) in PEERS.items()}


@pytest.mark.parametrize("name", trainers())
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_contender_learns(name: str) -> None:
    if name in MODULES and find_spec(MODULES[name]) is None:
        pytest.skip(f"{MODULES[name]} is missing here: pip install '.[bench]'")
    passes = training.timed(trainers()[name](task()), images())
    first = next(passes)
    assert first.images == EXAMPLES
    assert first.accuracy < 0.9
    assert any(next(passes).accuracy > 0.95 for _ in range(59))


def test_the_clock_stands_while_the_test_set_is_read() -> None:
    now = 0.0

    def training_for_two_seconds() -> Iterator[Learnt]:
        nonlocal now
        for _ in range(3):
            now += 2
            yield Learnt(EXAMPLES, reading_for_a_hundred)

    def reading_for_a_hundred(pixels: Pixels) -> contenders.Labels:
        nonlocal now
        now += 100
        return np.zeros(len(pixels), np.int64)

    passes = list(training.timed(training_for_two_seconds(), images(), clock=lambda: now))
    assert [each.seconds for each in passes] == [2, 2, 2]
    assert passes[0].accuracy == np.mean(images().test_targets == 0)


def test_fit_reads_no_test_set_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[int] = []

    def watched(spec: TrainingSpec, data: Resident, *, device: torch.device) -> Iterator[Report]:
        evaluated.extend((len(data.test), spec.evaluation.train_examples))
        return fit(spec, data, device=device)

    monkeypatch.setattr(contenders, "fit", watched)
    passes = list(training.timed(numeral(task(), spec=spec_of(epochs=3)), images()))
    assert len(passes) == 3
    assert evaluated == [1, 1]


def test_numeral_is_judged_by_the_model_that_it_would_store() -> None:
    spec = spec_of(epochs=4)
    passes = list(training.timed(numeral(task(), spec=spec), images()))
    *_, last = fit(spec, images(), device=CPU)
    assert passes[-1].accuracy == pytest.approx(last.metrics["test_accuracy"])
    assert passes[-1].accuracy > 0.1


def test_a_recipe_may_end_within_a_pass() -> None:
    passes = list(training.timed(numeral(task(), spec=spec_of(epochs=None, steps=12)), images()))
    assert [each.images for each in passes] == [EXAMPLES, EXAMPLES, 40]


def test_a_time_is_that_of_the_first_pass_that_got_there_within_the_limit() -> None:
    record = record_of("peer", [(2, 0.9), (2, 0.95), (2, 0.93), (2, 0.97)])
    assert record.seconds_to(0.95, limit=10) == 4
    assert record.seconds_to(0.96, limit=10) == 8
    assert record.seconds_to(0.96, limit=7) is None
    assert record.seconds_to(0.99, limit=10) is None


def test_the_tables_say_what_was_not_reached() -> None:
    ours = record_of("ours", [(1, 0.95), (1, 0.98)], spec_of())
    records = [ours, record_of("slow", [(4, 0.95), (4, 0.96), (4, 0.99)])]
    shown = training.table(records, (0.95, 0.98, 0.985), 10)
    assert "| ours | 20 | 100 | 1.0 s | 2.0 s | not reached in its 2 s | 98.00 % | 2 |" in shown
    assert "| slow | 20 | 25 | 4.0 s | not reached in 10 s | not reached in 10 s |" in shown
    factors = training.ratios(records, (0.95, 0.98, 0.985), 10)
    assert "| ours / slow | 4.00 | 4.00 | > 5.00 | - |" in factors


def test_a_faster_peer_is_told() -> None:
    ours = record_of("ours", [(2, 0.95), (2, 0.98)], spec_of())
    sprinter = record_of("sprinter", [(1, 0.95), (1, 0.96), (100, 0.99)])
    assert training.beaten_at([ours, sprinter], (0.95, 0.98), 10) == [0.95]
    assert training.beaten_at([ours, sprinter], (0.99,), 200) == [0.99]
    assert training.beaten_at([ours, sprinter], (0.98,), 10) == []


def test_specs_come_from_presets_files_and_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"network": {"hidden_widths": [32]}}))
    assert list(training.specs_of(["slp-200", str(file)], {}, ())) == ["slp-200", str(file.with_suffix(""))]
    sprint, long = training.specs_of([], {"seed": 3}, (4, 30)).values()
    assert (sprint.epochs, long.epochs, long.seed) == (4, 30, 3)
    assert list(training.specs_of([], {"epochs": 7}, (4, 30))) == ["7 epochs"]
    with pytest.raises(ValueError, match="differ in architecture"):
        training.specs_of(["slp-200", "cmgsnet"], {}, ())


def test_a_contender_that_fails_ends_the_race() -> None:
    wrong = partial(numeral, spec=spec_of(dataset={"examples": EXAMPLES - 1}))
    with pytest.raises(SystemExit, match="the unlucky one failed"):
        training.race([Entry("the unlucky one", 20, wrong)], task(), (0.99,), limit=60)


def test_the_whole_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = "PyTorch, tensors in memory"
    monkeypatch.setattr(datasets, "load", lambda *_, **__: images())
    changes = [f"dataset.examples={EXAMPLES}", "batch_size=20", "network.hidden_widths=[64]"]
    options = [
        "--peer",
        peer,
        "--out",
        str(tmp_path),
        "--limit",
        "60",
        "--device",
        "cpu",
        "--accuracy",
        "1.1",
    ]
    sets = [option for change in (*changes, "augmentation=null") for option in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["training", "--quick", *options, *sets])
    monkeypatch.setattr(training, "QUICK_EPOCHS", (3,))
    monkeypatch.setattr(training.Record, "seconds", property(lambda record: 6 * len(record.passes)))
    assert training.main() == 0
    (kept,) = tmp_path.glob("*.json")
    ours, theirs = json.loads(kept.read_text())["contenders"]
    assert (ours["name"], len(ours["passes"])) == ("Numeral, 3 epochs", 3)
    assert (theirs["name"], len(theirs["passes"])) == (peer, 10)  # up to the limit
    shown = capsys.readouterr().out
    assert f"| Numeral, 3 epochs / {peer} |" in shown
    assert "not reached in its 18 s" in shown
    assert kept.with_suffix(".md").read_text() == shown
