"""Sixteen networks trained as a pack against the same one after another, taken in turns in one run, set-up and figures
included, on pixels that are drawn (their values change no speed). Goal: a quarter of the time. Bounds, which a busy
machine keeps too: see `CASES`.

    python -m bench.sweeps [--threads 1] [--steps 96]
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from bench.roofline import drawn
from service.spec import TrainingSpec
from worker.device import Resident, describe, place, product_type, set_threads
from worker.packed import Pack
from worker.training import fit

CPU = torch.device("cpu")
MEMBERS = 16
GOAL = 0.25

# A case's fields, how many of the steps asked for it takes, and its bound.
CASES: Mapping[str, tuple[dict[str, Any], int, float]] = {
    "784-32-10, full batch": ({"batch_size": "full", "evaluation": {"every_steps": 5}}, 1, 0.55),
    "784-32-10, batches of 100": ({"batch_size": 100, "evaluation": {"every_epochs": 1}}, 10, 0.4),
}


def specs_of(steps: int, fields: Mapping[str, Any]) -> list[TrainingSpec]:
    """Members that differ in seed and learning rate."""
    return [
        TrainingSpec.model_validate(
            {
                "network": {"hidden_widths": [32]},
                "optimizer": {"name": "adam", "learning_rate": 0.001 * (1 + seed)},
                "seed": seed,
                "steps": steps,
                **fields,
            }
        )
        for seed in range(MEMBERS)
    ]


def seconds_of(reports: Iterator[Any]) -> float:
    began = time.perf_counter()
    for _ in reports:
        pass
    return time.perf_counter() - began


def race(specs: list[TrainingSpec], data: Resident) -> tuple[float, float]:
    """Seconds that the pack takes, and those of its members alone: after each of these a sixteenth of the pack."""
    seconds_of(
        islice(fit(specs[0], data, device=CPU), 3)
    )  # a process's first steps find nothing in its place
    together = iter(Pack(specs, data, device=CPU))
    packed = alone = 0.0
    for spec in specs:
        alone += seconds_of(fit(spec, data, device=CPU))
        packed += seconds_of(islice(together, specs[0].plan.steps))
    return packed + seconds_of(together), alone


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=96)
    arguments = parser.parse_args()
    set_threads(arguments.threads)
    data = place(drawn(), CPU)
    print(f"{describe(CPU)}, torch {torch.__version__}, products in {product_type(TrainingSpec(), CPU)}")
    within = True
    for name, (fields, times, bound) in CASES.items():
        packed, alone = race(specs_of(times * arguments.steps, fields), data)
        ratio = packed / alone
        print(
            f"{name}, {times * arguments.steps} steps: {MEMBERS} together {packed:.2f} s, one after another "
            f"{alone:.2f} s: {ratio:.2f} of the time (goal {GOAL}, bound {bound})"
        )
        within &= ratio <= bound
    return int(not within)


if __name__ == "__main__":
    sys.exit(main())
