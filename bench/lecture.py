"""The lecture's experiments over seeds: trains the presets and prints what they gave beside what was published.

    python -m bench.lecture --quick                      # the small ones, five seeds each
    python -m bench.lecture --preset cmgsnet --seeds 1   # one of the large ones
    python -m bench.lecture --preset ciresan-2010 --seeds 1 --set epochs=20 --set batch_size=100
    python -m bench.lecture --over-fitting               # slp-8200 on 10,000 images, and its cures
    python -m bench.lecture --page                       # write docs/lecture.md, of the runs there are

Each finished run is kept as a record and its weights under `--out`, so that hours of training may be spread
over days and machines: a run that has its record is not trained again.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench import lecture_page
from service import presets
from service.checkpoints import encode_weights
from service.cli.training import parse_changes
from service.data import datasets
from service.data.datasets import Dataset
from service.data.digits import PREPROCESSING_VERSION
from service.figures import report
from service.presets import LECTURE
from service.settings import load as load_settings
from service.spec import TrainingSpec
from worker.committee import fit
from worker.device import describe, place, precision_name, resolve, set_threads, threads_for

SMALL = ("simulated-wide", "simulated-deep", "slp-200")
PROGRESS_SECONDS = 20.0
FEWER: dict[str, Any] = {"dataset": {"examples": 10_000}}
CURES: dict[str, dict[str, Any]] = {
    "none": {},
    "early stopping": {
        "dataset": {"examples": 12_000, "validation": 2000},
        "evaluation": {"every_steps": 20},
        "early_stopping": {"patience": 10},
    },
    "L1 0.1": {"regularization": {"l1": 0.1}},
    "L2 0.003": {"regularization": {"l2": 3e-3}},
    "dropout 0.3": {"regularization": {"dropout": 0.3}},
    "12 units instead of 32": {"network": {"hidden_widths": [12]}},
}


@dataclass(frozen=True)
class Run:
    """One training run: `label` names its files; `variant` says how it differs from the preset."""

    preset: str
    label: str
    variant: str
    spec: TrainingSpec


def runs_of(name: str, seeds: range, changes: Mapping[str, Any], variant: str = "") -> Iterator[Run]:
    """The preset with each seed, which draws the points of a simulated dataset too."""
    base = LECTURE[name].spec.model_dump(mode="json")
    for seed in seeds:
        drawn = {"dataset": {"draw_seed": seed}} if base["dataset"]["name"] == "simulated" else {}
        spec = presets.with_overrides(presets.with_overrides(base, changes), {"seed": seed, **drawn})
        precision = () if spec["precision"] == "auto" else (spec["precision"],)
        label = "-".join([name, *variant.split(), *precision, f"seed{seed}"])
        yield Run(name, label, variant, TrainingSpec.model_validate(spec))


def trained(run: Run, folder: Path) -> None:
    """Train the run, unless its record is there."""
    record_file = folder / f"{run.label}.json"
    if record_file.exists():
        record = json.loads(record_file.read_text())
        if TrainingSpec.model_validate(record["spec"]) == run.spec:
            return
    settings = load_settings()
    device = resolve(run.spec.device)
    set_threads(threads_for(run.spec, torch.get_num_threads()))
    dataset = datasets.load(run.spec.dataset, cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    record, weights = _train(run, dataset, device)
    (folder / f"{run.label}.safetensors").write_bytes(weights)
    partial_file = record_file.with_suffix(".partial")
    partial_file.write_text(json.dumps(record))
    partial_file.rename(record_file)
    print(f"{run.label}: {record['seconds']:.0f} s, {record['metrics']}", flush=True)


def _train(run: Run, dataset: Dataset, device: torch.device) -> tuple[dict[str, Any], bytes]:
    data = place(dataset, device)
    series: list[dict[str, Any]] = []
    began = told = time.monotonic()
    for step in fit(run.spec, data, device=device):
        if step.metrics:
            curve = {} if step.curve is None else {"curve": step.curve.tolist()}
            series.append({"step": step.step, "epoch": step.epoch, **step.metrics, **curve})
        if time.monotonic() - told > PROGRESS_SECONDS:
            told = time.monotonic()
            _tell(run, step.step, (told - began) / max(step.step, 1), series)
        if step.outcome is not None:
            snapshot, metrics = step.snapshot(), dict(step.metrics)
    seconds = time.monotonic() - began
    weights = encode_weights(snapshot, run.spec, preprocessing=PREPROCESSING_VERSION)
    record = {
        "preset": run.preset,
        "label": run.label,
        "variant": run.variant,
        "spec": json.loads(run.spec.canonical_json()),
        "seconds": seconds,
        "device": describe(device),
        "precision": precision_name(run.spec, device),
        "torch": str(torch.__version__),
        "metrics": metrics,
        "series": series,
        "report": report.make(weights, dataset, device=device, preset=run.preset).data,
    }
    return record, weights


def _tell(run: Run, step: int, seconds_a_step: float, series: list[dict[str, Any]]) -> None:
    steps = run.spec.plan.steps
    newest = {key: value for key, value in series[-1].items() if key != "curve"} if series else {}
    left = seconds_a_step * (steps - step) / 60
    print(f"{run.label}: step {step:,}/{steps:,}, {left:.0f} min left, {newest}", flush=True)


def _asked(arguments: argparse.Namespace) -> Iterator[Run]:
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    changes = parse_changes(arguments.set)
    if arguments.over_fitting:
        for variant, cure in CURES.items():
            merged = presets.with_overrides(presets.with_overrides(FEWER, changes), cure)
            yield from runs_of("slp-8200", seeds, merged, f"10,000 images, {variant}")
        return
    variant = ", ".join(pair for pair in arguments.set if not pair.startswith("precision"))
    for name in arguments.preset or (SMALL if arguments.quick else LECTURE):
        yield from runs_of(name, seeds, changes, variant)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--preset", action="append", choices=sorted(LECTURE))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="only the small presets")
    parser.add_argument("--over-fitting", action="store_true", help="the sweep of regularisations")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--page", action="store_true", help="train nothing, write docs/lecture.md")
    parser.add_argument("--out", type=Path, default=Path(".numeral/lecture"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.page:
        lecture_page.write(arguments.out)
        return 0
    for run in _asked(arguments):
        trained(run, arguments.out)
    print("\n".join(lecture_page.tables(arguments.out)))
    unfaithful = list(lecture_page.unfaithful(arguments.out))
    print("\n".join(unfaithful))
    return int(bool(unfaithful))


if __name__ == "__main__":
    sys.exit(main())
