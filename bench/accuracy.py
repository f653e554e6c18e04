"""The recipes that go past the lecture, over seeds: what they read of MNIST, in what time.

    python -m bench.accuracy --preset cpu-minute --seeds 5
    python -m bench.accuracy --preset cpu-minute --split --set optimizer.learning_rate=0.003
    python -m bench.accuracy --page                      # the table of docs/accuracy.md, of the runs there are

With `--split` 10,000 of the 60,000 training images are held out and read instead of the test set: whatever is to be
chosen is chosen by them. Every run is a row of docs/accuracy.json as soon as it has ended. Seconds are those of a job's
training, what it takes to measure its speed and to take its figures included, without loading and the report.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from service import presets
from service.cli.training import parse_changes
from service.data import datasets
from service.presets import RECORDS
from service.settings import load as load_settings
from service.spec import TrainingSpec
from worker.budget import Trial, steps_within
from worker.committee import fit
from worker.device import (
    Resident,
    describe,
    place,
    precision_name,
    resolve,
    set_threads,
    threads_for,
    warm_up,
)

DOCS = Path(__file__).parent.parent / "docs"
FIGURES, PAGE = DOCS / "accuracy.json", DOCS / "accuracy.md"
HELD_OUT = 10_000
PROGRESS_SECONDS = 20.0
BEGIN, END = "<!-- runs: generated -->", "<!-- runs: end -->"
Row = dict[str, Any]


def trained(name: str, seed: int, changes: Mapping[str, Any], *, split: bool) -> Row:
    """Train the preset with one seed; a row of the figures."""
    held_out = {"dataset": {"validation": HELD_OUT}} if split else {}
    base = RECORDS[name].spec.model_dump(mode="json")
    for over in (changes, held_out, {"seed": seed}):
        base = presets.with_overrides(base, over)
    spec = TrainingSpec.model_validate(base)
    settings, device = load_settings(), resolve(spec.device)
    set_threads(threads_for(spec, torch.get_num_threads()))
    warm_up(device)
    dataset = datasets.load(spec.dataset, cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    data = place(dataset, device)
    began = told = time.monotonic()
    spec = planned(spec, data, device)
    for report in fit(spec, data, device=device):
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            print(f"{name}, seed {seed}: step {report.step:,} of {spec.plan.steps:,}", file=sys.stderr)
    seconds = time.monotonic() - began
    part, examples = ("validation", HELD_OUT) if split else ("test", len(dataset.test_inputs))
    accuracy = report.metrics[f"{part}_accuracy"]
    return {
        "preset": name,
        "changes": changes,
        "seed": seed,
        "read": part,
        "accuracy": accuracy,
        "errors": round(examples * (1 - accuracy)),
        "loss": report.metrics[f"{part}_loss"],
        "parameters": spec.parameter_count,
        "steps": spec.plan.steps,
        "epochs": round(spec.plan.epochs, 2),
        "seconds": round(seconds, 1),
        "device": describe(device),
        "precision": precision_name(spec, device),
        "torch": str(torch.__version__),
    }


def planned(spec: TrainingSpec, data: Resident, device: torch.device) -> TrainingSpec:
    """With as many steps as fit into its budget, where it has one: as a job's are, but that nothing is stored."""
    if spec.budget_seconds is None:
        return spec
    began = time.monotonic()
    trial = Trial(spec, data, device=device)
    for _ in trial:
        pass
    speed = trial.speed(report=0.0, checkpoint=0.0)
    left = spec.budget_seconds - (time.monotonic() - began)
    return spec.with_steps(steps_within(spec, speed, left))


def table(rows: Iterable[Row]) -> str:
    """Markdown: mean and standard deviation over the seeds of each recipe."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        key = (row["preset"], row["read"], row["changes"], row["device"], row["precision"])
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(row)
    heads = "preset", "read", "parameters", "% right", "wrong of 10,000", "runs", "epochs", "seconds", "on"
    lines = [heads, ("---",) * len(heads)]
    for group in groups.values():
        first = group[0]
        changed = ", ".join(f"{name}={value}" for name, value in _flat(first["changes"]))
        lines.append(
            (
                f"`{first['preset']}`" + (f" ({changed})" if changed else ""),
                first["read"],
                f"{first['parameters']:,}",
                _spread([100 * row["accuracy"] for row in group], 3),
                _spread([row["errors"] for row in group], 1),
                str(len(group)),
                f"{statistics.fmean(row['epochs'] for row in group):.1f}",
                f"{statistics.fmean(row['seconds'] for row in group):.0f}",
                f"{first['device']}, {first['precision']}",
            )
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _flat(changes: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    return [
        pair
        for name, value in changes.items()
        for pair in (
            _flat(value, f"{path}{name}.") if isinstance(value, Mapping) else [(f"{path}{name}", value)]
        )
    ]


def _spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


def kept() -> list[Row]:
    rows: list[Row] = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
    return rows


def keep(row: Row) -> None:
    rows = [json.dumps(each) for each in (*kept(), row)]
    FIGURES.write_text("[\n" + ",\n".join(rows) + "\n]\n")


def rendered(page: str, rows: Iterable[Row]) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", action="append", choices=sorted(RECORDS), default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--split", action="store_true", help="read 10,000 held-out training images instead")
    parser.add_argument("--page", action="store_true", help="train nothing, write docs/accuracy.md")
    arguments = parser.parse_args()
    if arguments.page:
        PAGE.write_text(rendered(PAGE.read_text(), kept()))
        return 0
    changes = parse_changes(arguments.set)
    rows = []
    for name in arguments.preset:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            rows.append(trained(name, seed, changes, split=arguments.split))
            keep(rows[-1])
            print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
