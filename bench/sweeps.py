"""Sixteen networks trained as a pack against the same one after another, taken in turns in one run, set-up and figures
included, on pixels that are drawn (their values change no speed). Goal: a quarter of the time. Bounds: at batch 100 0.4
of the time, which a busy machine keeps too; on the full batch, where alone the nets work at most of a processor's rate
already, 1.7 of the pack's own two large products, each in its best layout (decision 0018).

    python -m bench.sweeps [--threads 1] [--steps 96]
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from bench.roofline import drawn, large_products, least, seconds
from service.spec import TrainingSpec
from worker.device import Resident, describe, place, product_type, set_threads
from worker.packed import Pack
from worker.training import fit

CPU = torch.device("cpu")
MEMBERS = 16
WIDTH = 32
GOAL, BATCH_BOUND, FULL_BATCH_BOUND = 0.25, 0.4, 1.7
FULL: Mapping[str, Any] = {"batch_size": "full", "evaluation": {"every_steps": 5}}
BATCHES: Mapping[str, Any] = {"batch_size": 100, "evaluation": {"every_epochs": 1}}


def specs_of(steps: int, fields: Mapping[str, Any]) -> list[TrainingSpec]:
    """Members that differ in seed and learning rate."""
    return [
        TrainingSpec.model_validate(
            {
                "network": {"hidden_widths": [WIDTH]},
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


def full_batch(data: Resident, steps: int) -> bool:
    packed, alone = race(specs_of(steps, FULL), data)
    products = large_products(data.train.inputs.to(product_type(TrainingSpec(), CPU)), MEMBERS * WIDTH)
    bare = steps * least(seconds({**products[0], **products[1]}, rounds=3), products)
    print(
        f"784-32-10, full batch, {steps} steps: {MEMBERS} together {packed:.2f} s, one after another {alone:.2f} s: "
        f"{packed / alone:.2f} of the time (goal {GOAL}); its large products alone {bare:.2f} s: "
        f"{packed / bare:.2f} of them (bound {FULL_BATCH_BOUND})"
    )
    return packed <= FULL_BATCH_BOUND * bare


def batches(data: Resident, steps: int) -> bool:
    packed, alone = race(specs_of(steps, BATCHES), data)
    print(
        f"784-32-10, batches of 100, {steps} steps: {MEMBERS} together {packed:.2f} s, one after another {alone:.2f} s: "
        f"{packed / alone:.2f} of the time (goal {GOAL}, bound {BATCH_BOUND})"
    )
    return packed <= BATCH_BOUND * alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=96, help="on the full batch; ten times as many of 100")
    arguments = parser.parse_args()
    set_threads(arguments.threads)
    data = place(drawn(), CPU)
    print(f"{describe(CPU)}, torch {torch.__version__}, products in {product_type(TrainingSpec(), CPU)}")
    within = [full_batch(data, arguments.steps), batches(data, 10 * arguments.steps)]
    return 0 if all(within) else 1


if __name__ == "__main__":
    sys.exit(main())
