"""What a training step costs beside its bare products, all taken in turns in one run, on pixels that are drawn
(their values change no speed). Bounds: a full-batch step of 784-32-10 in at most 1.35 of its two large products, each
alone in its best layout; no growth of memory over 10,000 steps; the interpreter's part of a step at batch 250 at
most 5 %; augmentation at most 15 % of a step of the 12-million net and 25 % of 1024-1024-1024's. Goal: the
12-million net at 75 % of the rate of a 4096 x 4096 x 4096 product in bfloat16, augmentation and optimiser included.

    python -m bench.roofline [--threads 1]

Threads that wait for each other make a busy machine many times as slow: there, measure with one.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service import network
from service.data.augment import Augmenter
from service.data.datasets import Dataset
from service.presets import PRESETS
from service.spec import TrainingSpec
from worker import step
from worker.committee import fit
from worker.crew import Crew
from worker.descent import Descent
from worker.device import describe, place, product_type, set_threads, warm_up
from worker.training import Report

CPU = torch.device("cpu")
ROUNDS = 9
IMAGES = 60_000
SIDE = 4096  # of the product that the rate is measured by
STEPS = 10_000
SETTLED = 1000  # steps until every buffer is there
FULL_BATCH_BOUND, OVERHEAD_BOUND, GROWTH_BOUND = 1.35, 0.05, 1_000_000  # the last in bytes
DEEP_AUGMENTATION_BOUND, AUGMENTATION_BOUND, RATE_GOAL = 0.15, 0.25, 0.75
DEEP, WIDE = (2500, 2000, 1500, 1000, 500), (1024, 1024, 1024)
Ways = Mapping[str, Callable[[], object]]


def seconds(ways: Ways, rounds: int = ROUNDS) -> dict[str, float]:
    """Median over the rounds, in which the ways take turns: each call is timed after one of the same way that is
    not, as the threads that the way before left spinning would else be counted."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 2):
        for name, way in ways.items():
            way()
            began = time.perf_counter()
            way()
            taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(times[2:]) for name, times in taken.items()}


def drawn() -> Dataset:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, 784), dtype=np.uint8)
    labels = generator.integers(0, 10, IMAGES)
    return Dataset("mnist", pixels, labels, pixels[:0], labels[:0], pixels[:10], labels[:10], sha256="")


def spec_of(hidden: tuple[int, ...], batch: int | str, **fields: Any) -> TrainingSpec:
    """A run that is longer than any benchmark, without figures on the way."""
    return TrainingSpec.model_validate(
        {
            "network": {"hidden_widths": hidden},
            "batch_size": batch,
            "steps": 1_000_000,
            "evaluation": {"every_steps": 1_000_000},
            **fields,
        }
    )


def steps(spec: TrainingSpec, data: Dataset) -> Callable[[], Report]:
    """Whole steps of a job's own loop, one a call."""
    reports: Iterator[Report] = fit(spec, place(data, CPU), device=CPU)
    return lambda: next(reports)


def operations(spec: TrainingSpec) -> int:
    """Of a step's products: forward, and backward but for the inputs' gradient."""
    weights = [inputs * outputs for inputs, outputs in pairwise(spec.layer_widths)]
    return 2 * spec.plan.batch * (3 * sum(weights) - weights[0])


def rate_product() -> Callable[[], Tensor]:
    left, right = (torch.randn(SIDE, SIDE).bfloat16() for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.mm(left, right, out=out)


def large_products(rows: Tensor, width: int) -> tuple[Ways, Ways]:
    """The layouts in which the two products of a first layer of so many outputs can be taken, forward and backward, of
    rows (n, inputs)."""
    kind, (images, inputs) = rows.dtype, rows.shape
    columns, weight = rows.t().contiguous(), torch.randn(width, inputs).to(kind)
    turned, delta = weight.t().contiguous(), torch.randn(images, width).to(kind)
    sums, gradient = torch.empty(images, width, dtype=kind), torch.empty(inputs, width, dtype=kind)
    turned_delta, turned_gradient = delta.t().contiguous(), torch.empty(width, inputs, dtype=kind)
    turned_sums = torch.empty(width, images, dtype=kind)
    forward: Ways = {
        "rows, weights as stored": lambda: torch.mm(rows, weight.t(), out=sums),
        "rows, weights turned": lambda: torch.mm(rows, turned, out=sums),
        "columns": lambda: torch.mm(weight, columns, out=turned_sums),
    }
    backward: Ways = {
        "columns, deltas": lambda: torch.mm(columns, delta, out=gradient),
        "deltas turned, rows": lambda: torch.mm(turned_delta, rows, out=turned_gradient),
        "deltas, rows": lambda: torch.mm(delta.t(), rows, out=turned_gradient),
    }
    return forward, backward


def least(found: Mapping[str, float], products: tuple[Ways, Ways]) -> float:
    """Seconds of both products, each in the layout in which it took the least."""
    return sum(min(found[name] for name in ways) for ways in products)


def full_batch(data: Dataset) -> bool:
    spec = spec_of((32,), "full")
    products = large_products(torch.from_numpy(data.train_inputs).to(product_type(spec, CPU)), 32)
    found = seconds({**products[0], **products[1], "step": steps(spec, data)})
    for name, taken in found.items():
        print(f"{name:>34}: {1e3 * taken:8.2f} ms")
    ratio = found["step"] / least(found, products)
    print(f"full batch of 784-32-10: {ratio:.2f} of its two large products (bound {FULL_BATCH_BOUND})")
    return ratio <= FULL_BATCH_BOUND


def bare_products(spec: TrainingSpec) -> Callable[[], None]:
    """A step's products and nothing else, in the layouts in which the step has them."""
    kind, batch = product_type(spec, CPU), spec.plan.batch
    layers = []
    for index, (inputs, outputs) in enumerate(pairwise(spec.layer_widths)):
        values, weight = torch.randn(batch, inputs).to(kind), torch.randn(outputs, inputs).to(kind)
        delta, gradient = torch.randn(batch, outputs).to(kind), torch.empty_like(weight)
        turned, back = delta.t().contiguous(), torch.empty_like(values) if index else None
        layers.append((values, weight, delta, turned, gradient, back))

    def once() -> None:
        for values, weight, delta, _, _, _ in layers:
            torch.mm(values, weight.t(), out=delta)
        for values, weight, delta, turned, gradient, back in reversed(layers):
            torch.mm(turned, values, out=gradient)
            if back is not None:
                torch.mm(delta, weight, out=back)

    return once


def augmented(data: Dataset, hidden: tuple[int, ...], batch: int, bound: float) -> bool:
    """Whole steps with augmentation: what they reach, and what each part takes."""
    block = PRESETS["ciresan-2010"].spec.augmentation
    assert block is not None
    spec = spec_of(hidden, batch, augmentation=block.model_dump())
    net = network.build(spec).train()
    resident = place(data, CPU)
    augmenter = Augmenter(block, resident.train.targets, seed=0, device=CPU)
    rows = torch.arange(batch)
    pixels, targets = resident.train.inputs[:batch], resident.train.targets[:batch]
    inputs = net.normalize(pixels).to(product_type(spec, CPU))

    def augment() -> None:
        deformations = augmenter.deformations(rows, variant=0)

        def apply(member: int) -> None:
            part = crew.share(member, batch)
            augmenter.apply(pixels[part], deformations[part])

        crew.each(apply)

    with Crew.largest() as crew:
        gradients = step.make(spec, net, crew)
        descent = Descent(spec, net, crew)
        found = seconds(
            {
                "step": steps(spec, data),
                "augmentation": augment,
                "forward and backward": lambda: gradients.gradients(inputs, targets),
                "of these the bare products": bare_products(spec),
                "norm of the gradient": descent.gradient_norm,
                "optimiser": lambda: descent.step(1, 1e-3, spec.regularization),
                "rate": rate_product(),
            }
        )
    whole, rate = found["step"], 2 * SIDE**3 / found.pop("rate")
    reached = operations(spec) / whole / rate
    share = found["augmentation"] / whole
    print(f"784-{'-'.join(map(str, hidden))}-10, batch {batch}, {spec.parameter_count:,} parameters")
    for name, taken in found.items():
        print(f"{name:>34}: {1e3 * taken:8.2f} ms, {100 * taken / whole:5.1f} %")
    bare = operations(spec) / found["of these the bare products"] / rate
    print(f"products alone: {100 * bare:.0f} % of the {rate / 1e9:,.0f} GFLOP/s of {SIDE}^3 in bfloat16")
    print(f"whole steps: {100 * reached:.0f} % of it (goal {100 * RATE_GOAL:.0f} % of the 12-million net)")
    print(f"augmentation: {100 * share:.1f} % of a step (bound {100 * bound:.0f} %)")
    return share <= bound


def overhead(data: Dataset) -> bool:
    """The interpreter's part, and torch's to find a kernel: a step of as many layers and almost no
    arithmetic, one unit each and one image, against a step."""
    least = {"dataset": {"examples": 10}, "augmentation": None}
    few = Dataset(
        "mnist",
        data.train_inputs[:10],
        data.train_targets[:10],
        *(data.validation_inputs, data.validation_targets, data.test_inputs, data.test_targets),
        sha256="",
    )
    threads = torch.get_num_threads()
    set_threads(1)  # as a worker gives so small a network: there are no members to wait for each other
    advance = steps(spec_of((1,) * len(WIDE), 1, **least), few)
    advance()
    set_threads(threads)
    found = seconds({"step": steps(spec_of(WIDE, 250), data), "least": advance}, 10 * ROUNDS)
    share = found["least"] / found["step"]
    print(
        f"{1e6 * found['least']:.0f} us of the {1e6 * found['step']:,.0f} us of a step of 784-1024-1024-1024-10"
    )
    print(f"interpreter: {100 * share:.1f} % of a step at batch 250 (bound {100 * OVERHEAD_BOUND:.0f} %)")
    return share <= OVERHEAD_BOUND


def growth(data: Dataset) -> bool:
    """Memory after the first steps against that after the last."""
    advance = steps(spec_of((16,), 100), data)
    for _ in range(SETTLED):
        advance()
    before = resident_bytes()
    for _ in range(STEPS):
        advance()
    grown = resident_bytes() - before
    print(f"memory: {grown:+,} bytes over {STEPS:,} steps of 784-16-10 (bound {GROWTH_BOUND:,})")
    return grown <= GROWTH_BOUND


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    set_threads(parser.parse_args().threads)
    warm_up(CPU)
    data = drawn()
    print(f"{describe(CPU)}, torch {torch.__version__}, products in {product_type(spec_of(WIDE, 250), CPU)}")
    within = [
        full_batch(data),
        augmented(data, DEEP, 1000, DEEP_AUGMENTATION_BOUND),
        augmented(data, WIDE, 1000, AUGMENTATION_BOUND),
        overhead(data),
        growth(data),
    ]
    return int(not all(within))


if __name__ == "__main__":
    sys.exit(main())
