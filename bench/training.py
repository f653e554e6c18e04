"""Speed of training, and time to an accuracy: Numeral against PyTorch as its tutorial uses it, the lecture's
recipe, Keras 3 and scikit-learn, on one architecture, in one run.

    python -m bench.training --quick                     # a few seconds each, on 12,000 images
    python -m bench.training                             # up to five minutes of training each
    python -m bench.training --spec cmgsnet --spec my-spec.json --peer "Keras 3 on PyTorch"
    python -m bench.training --set network.hidden_widths='[2500, 2000, 1500, 1000, 500]' --limit 1800

Each contender has a process of its own with all the machine's threads, and they take turns, so that only one
works at a time and a busy machine slows them all: the one whose clock shows least trains its next pass. The
clock runs while a pass trains, the first with all that it takes to get going; it stands while the network, the
data and the imports are made ready, and while the test set is read after each pass. A time to an accuracy is
that at the end of the first pass after which the test set says so, whatever it says later. A contender leaves
at the last of the accuracies, at the limit, or when its recipe is over.

Numeral trains the specs that are named, and the peers their architecture; without any, one recipe at three
lengths, since a schedule arrives where it ends. Exit status 1 if a peer was faster to one of the accuracies than every spec of Numeral's; `--quick` is
too short for them, and shows images a second. The peers come with `pip install '.[bench]'`.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.contenders import PEERS, Contender, Learnt, Task, numeral
from service import presets
from service.cli.training import parse_changes
from service.data import datasets
from service.data.datasets import Dataset
from service.presets import PRESETS
from service.settings import load as load_settings
from service.spec import TrainingSpec
from worker.device import describe, resolve, warm_up

ACCURACIES = (0.9844, 0.9878, 0.99, 0.993)
"""The lecture's best without and with rotated images, and what lies beyond it."""
LIMIT, QUICK_LIMIT = 300.0, 5.0  # seconds
EPOCHS, QUICK_EPOCHS = (4, 10, 30), (4,)
QUICK_EXAMPLES: dict[str, Any] = {"dataset": {"examples": 12_000}}
RECIPE: dict[str, Any] = {
    "network": {"hidden_widths": [1024, 1024, 1024], "initializer": "kaiming_uniform"},
    "optimizer": {"name": "adamw", "learning_rate": 0.002},
    "schedule": {"name": "one_cycle"},
    "batch_size": 250,
    "augmentation": {"rotation": 10.0, "shear": 8.0, "scale": 0.12, "shift": 1.0, "elastic": 0.8},
}


@dataclass(frozen=True)
class Pass:
    """One pass over the training set: the seconds that it trained, and the test accuracy after it."""

    seconds: float
    images: int
    accuracy: float


@dataclass(frozen=True)
class Entry:
    """Who takes part. Numeral's carry their spec."""

    name: str
    batch: int
    train: Contender
    spec: TrainingSpec | None = None


@dataclass
class Record:
    """What a contender did."""

    entry: Entry
    passes: list[Pass] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return math.fsum(each.seconds for each in self.passes)

    @property
    def accuracy(self) -> float:
        """After the last pass; 0 before the first."""
        return self.passes[-1].accuracy if self.passes else 0.0

    @property
    def images_per_second(self) -> float:
        """Of the median pass."""
        return statistics.median(each.images / each.seconds for each in self.passes)

    def seconds_to(self, accuracy: float, limit: float) -> float | None:
        """The clock after the first pass that reached it, None if none did within the limit."""
        clock = 0.0
        for each in self.passes:
            clock += each.seconds
            if each.accuracy >= accuracy:
                return clock if clock <= limit else None
        return None


def timed(
    training: Iterator[Learnt], dataset: Dataset, clock: Callable[[], float] = time.perf_counter
) -> Iterator[Pass]:
    """Let it train a pass at each `next`; what is timed is that alone, and not the reading of the test set."""
    while True:
        began = clock()
        learnt = next(training, None)
        seconds = clock() - began
        if learnt is None:
            return
        right = learnt.predict(dataset.test_inputs) == dataset.test_targets
        yield Pass(seconds, learnt.images, float(np.mean(right)))


class Lane:
    """A contender in a process of its own, that works only when it is told to."""

    def __init__(self, entry: Entry, task: Task) -> None:
        context = get_context("spawn")  # a fork would share torch's threads
        self.record = Record(entry)
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, entry.train, task), daemon=True)
        self._process.start()
        other.close()

    def await_ready(self) -> None:
        self._receive()

    def advance(self) -> bool:
        """Train a pass; false when the recipe is over."""
        self._connection.send("train")
        found = self._receive()
        if found is not None:
            self.record.passes.append(found)
        return found is not None

    def close(self) -> None:
        self._connection.close()
        self._process.join()

    def _receive(self) -> Pass | None:
        try:
            received: Pass | None = self._connection.recv()
        except EOFError:
            raise SystemExit(f"{self.record.entry.name} failed; its process says why above") from None
        return received


def _work(connection: Connection, train: Contender, task: Task) -> None:
    warm_up(task.device)
    passes = timed(train(task), task.dataset)
    connection.send(None)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(next(passes, None))


def race(entries: Sequence[Entry], task: Task, accuracies: Sequence[float], limit: float) -> list[Record]:
    """Let them train in turns until each has reached all of the accuracies, `limit` seconds on its own clock,
    or the end of its recipe."""
    lanes = [Lane(entry, task) for entry in entries]
    for lane in lanes:
        lane.await_ready()
    running = list(lanes)
    while running:
        lane = min(running, key=lambda each: each.record.seconds)
        record = lane.record
        going = lane.advance()
        if going:
            _tell(record)
        if not going or record.accuracy >= max(accuracies) or record.seconds >= limit:
            running.remove(lane)
            lane.close()
    return [lane.record for lane in lanes]


def _tell(record: Record) -> None:
    newest = record.passes[-1]
    print(
        f"{record.entry.name:>28}: pass {len(record.passes):3}, {newest.seconds:6.2f} s, "
        f"{record.seconds:7.1f} s in all, {100 * newest.accuracy:.2f} %",
        file=sys.stderr,
        flush=True,
    )


def table(records: Sequence[Record], accuracies: Sequence[float], limit: float) -> str:
    """Markdown: a row for each contender."""
    heads = [
        "",
        "batch",
        "images/s",
        *(f"{100 * accuracy:.2f} %" for accuracy in accuracies),
        "at its end",
        "passes",
    ]
    rows = [
        [
            record.entry.name,
            f"{record.entry.batch:,}",
            f"{record.images_per_second:,.0f}",
            *(_time_cell(record, accuracy, limit) for accuracy in accuracies),
            f"{100 * record.accuracy:.2f} %",
            f"{len(record.passes)}",
        ]
        for record in records
    ]
    return _markdown(heads, rows)


def _time_cell(record: Record, accuracy: float, limit: float) -> str:
    seconds = record.seconds_to(accuracy, limit)
    if seconds is not None:
        return f"{seconds:.1f} s"
    if record.seconds >= limit:
        return f"not reached in {limit:.0f} s"
    return f"not reached in its {record.seconds:.0f} s"


def ratios(records: Sequence[Record], accuracies: Sequence[float], limit: float) -> str:
    """Markdown: how many times as fast each spec of Numeral's is as each peer, in images a second and to each
    accuracy. `>` where the peer did not get there, `-` where the spec did not."""
    heads = ["", "images/s", *(f"{100 * accuracy:.2f} %" for accuracy in accuracies)]
    ours, peers = _sides(records)
    rows = [
        [
            f"{our.entry.name} / {peer.entry.name}",
            f"{our.images_per_second / peer.images_per_second:.2f}",
            *(_ratio_cell(our, peer, accuracy, limit) for accuracy in accuracies),
        ]
        for our in ours
        for peer in peers
    ]
    return _markdown(heads, rows)


def _ratio_cell(our: Record, peer: Record, accuracy: float, limit: float) -> str:
    mine, theirs = our.seconds_to(accuracy, limit), peer.seconds_to(accuracy, limit)
    if mine is None:
        return "-"
    return f"> {min(peer.seconds, limit) / mine:.2f}" if theirs is None else f"{theirs / mine:.2f}"


def beaten_at(records: Sequence[Record], accuracies: Sequence[float], limit: float) -> list[float]:
    """The accuracies to which a peer was faster than every spec of Numeral's."""
    ours, peers = _sides(records)

    def best(side: Sequence[Record], accuracy: float) -> float:
        return min((record.seconds_to(accuracy, limit) or math.inf for record in side), default=math.inf)

    return [accuracy for accuracy in accuracies if best(peers, accuracy) < best(ours, accuracy)]


def _sides(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Numeral's, and the peers'."""
    ours = [record for record in records if record.entry.spec is not None]
    return ours, [record for record in records if record.entry.spec is None]


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *(["---:"] * (len(heads) - 1))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ruler, *rows))


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures hold for."""
    described = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": describe(device),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
    }
    return described | {package: _version(package) for package in ("torch", "numpy", "keras", "scikit-learn")}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    """As Linux names it, or as Python does elsewhere."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def entries_of(specs: Mapping[str, TrainingSpec], peers: Sequence[str], batch: int) -> list[Entry]:
    """Numeral's specs by name, and the peers with their own batch size or this one."""
    ours = [
        Entry(f"Numeral, {name}", spec.plan.batch, partial(numeral, spec=spec), spec)
        for name, spec in specs.items()
    ]
    theirs = [Entry(name, own or batch, train) for name, (train, own) in PEERS.items() if name in peers]
    return ours + theirs


def specs_of(
    names: Sequence[str], changes: Mapping[str, Any], epochs: Sequence[int]
) -> dict[str, TrainingSpec]:
    """The presets and files that are named, or else the recipe at these lengths, with the changes laid over
    them. Raises ValueError unless all have one architecture and one dataset."""

    def changed(base: Mapping[str, Any]) -> TrainingSpec:
        return TrainingSpec.model_validate(presets.with_overrides(base, changes))

    if names:
        specs = {name.removesuffix(".json"): changed(_read(name)) for name in names}
    else:
        lengths = [changed(RECIPE | {"epochs": count}) for count in epochs]
        specs = {f"{spec.plan.epochs:g} epochs": spec for spec in lengths}
    if len({(spec.layer_widths, spec.dataset) for spec in specs.values()}) > 1:
        raise ValueError("the specs differ in architecture or dataset: race them apart, or --set one for all")
    return specs


def _read(name: str) -> dict[str, Any]:
    if name.endswith(".json"):
        read: dict[str, Any] = json.loads(Path(name).read_text())
        return read
    return presets.find(name).spec.model_dump(mode="json")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--spec", action="append", default=[], metavar="NAME|FILE.json", help=f"of {', '.join(PRESETS)}"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="in every spec")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only these")
    parser.add_argument("--batch", type=int, help="of the peers; as Numeral's first spec has it")
    parser.add_argument("--accuracy", action="append", type=float, help="a share, such as 0.99")
    parser.add_argument("--limit", type=float, help=f"seconds of training for each; {LIMIT:.0f}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_LIMIT:.0f} seconds each")
    parser.add_argument("--out", type=Path, default=Path(".numeral/training"))
    return parser.parse_args()


def main() -> int:
    arguments = _arguments()
    limit = arguments.limit or (QUICK_LIMIT if arguments.quick else LIMIT)
    accuracies = sorted(arguments.accuracy or ACCURACIES)
    epochs = QUICK_EPOCHS if arguments.quick else EPOCHS
    quick = QUICK_EXAMPLES if arguments.quick else {}
    changes = presets.with_overrides(quick, parse_changes(arguments.set))
    specs = specs_of(arguments.spec, changes, epochs)
    spec = next(iter(specs.values()))
    batch = arguments.batch or spec.plan.batch
    settings, device = load_settings(), resolve(arguments.device)
    dataset = datasets.load(spec.dataset, cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    described = machine(device)
    task = Task(dataset, spec.layer_widths, batch, device, arguments.seed)
    records = race(entries_of(specs, arguments.peer or list(PEERS), batch), task, accuracies, limit)
    network = "-".join(map(str, task.widths))
    facts = f"{network}, {len(dataset.train_inputs):,} images, seed {task.seed}, on " + ", ".join(
        f"{name} {value}" for name, value in described.items()
    )
    tables = table(records, accuracies, limit), ratios(records, accuracies, limit)
    shown = "\n\n".join((facts, tables[0], "How many times as fast:", tables[1]))
    print(shown)
    _keep(arguments.out, shown, records, {"machine": described, "limit_seconds": limit, "seed": task.seed})
    lost = [] if arguments.quick else beaten_at(records, accuracies, limit)
    if lost:
        print("a peer was faster to " + ", ".join(f"{100 * accuracy:.2f} %" for accuracy in lost))
    return int(bool(lost))


def _keep(folder: Path, shown: str, records: Sequence[Record], circumstances: Mapping[str, Any]) -> None:
    """The tables, and every pass that they were made of, under the time of day."""
    folder.mkdir(parents=True, exist_ok=True)
    ended = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    (folder / f"{ended}.md").write_text(shown + "\n")
    contenders = [
        {
            "name": record.entry.name,
            "batch": record.entry.batch,
            "spec": record.entry.spec and record.entry.spec.model_dump(mode="json"),
            "passes": [asdict(each) for each in record.passes],
        }
        for record in records
    ]
    (folder / f"{ended}.json").write_text(json.dumps({**circumstances, "contenders": contenders}, indent=1))


if __name__ == "__main__":
    sys.exit(main())
