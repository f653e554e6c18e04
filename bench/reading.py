"""How well posted pictures are read: MNIST's test set as it is, and re-rendered as somebody would post it.

    python -m bench.reading --weights model.safetensors
    python -m bench.reading --digits 200 --kind thin         # trains a network first

Without a weights file `cpu-minute` is trained for some epochs. Each kind takes the same digits, drawn with seed 0; a
digit's rendering is drawn with its index. Bounds: the pictures of 28 x 28 within 0.05 points of the bare pixels, the
re-rendered within 1.5 points on the mean and 5 in the worst kind. Milliseconds are of this machine as it was.
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.data import datasets, digits
from service.data.datasets import Dataset
from service.serving.inference import NumpyNetwork
from service.settings import load as load_settings
from service.spec import DatasetSpec
from tests import renderings

EPOCHS = 16
SAME, MEAN, WORST = 0.05, 1.5, 5.0  # points
MAX_PIXELS = 40_000_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a weights file, as /v1/models/.../download gives it")
    parser.add_argument("--digits", type=int, default=1000, help="re-rendered of each kind")
    parser.add_argument("--kind", action="append", choices=sorted(renderings.KINDS), default=[])
    arguments = parser.parse_args()
    cv2.setNumThreads(1)  # as the API
    settings = load_settings()
    dataset = datasets.load(DatasetSpec(), cache_dir=settings.cache_dir, data_dir=settings.data_dir)
    network = (
        NumpyNetwork.from_checkpoint(arguments.weights.read_bytes())
        if arguments.weights
        else _trained(dataset)
    )
    same = _as_they_are(network, dataset)
    chosen = np.random.default_rng(0).permutation(len(dataset.test_targets))[: arguments.digits]
    posted = Posted(network, chosen, dataset.test_inputs[chosen], dataset.test_targets[chosen])
    print(f"of them {len(chosen):,}, bare {posted.bare:.2f} %\n")
    print("| kind | % right | lost | ms | warnings |\n| --- | --- | --- | --- | --- |")
    lost = {kind: posted.lost(kind) for kind in arguments.kind or renderings.KINDS}
    mean, worst = statistics.fmean(lost.values()), max(lost, key=lambda kind: lost[kind])
    print(f"\nlost on the mean {mean:.2f} points, at worst {lost[worst]:.2f} ({worst})")
    return 0 if same <= SAME and mean <= MEAN and lost[worst] <= WORST else 1


@dataclass(frozen=True)
class Posted:
    """The same digits, to be re-rendered in every kind."""

    network: NumpyNetwork
    indices: NDArray[np.int64]
    inputs: NDArray[np.uint8]
    targets: NDArray[np.int64]

    @property
    def bare(self) -> float:
        return _right(self.network, self.inputs, self.targets)

    def lost(self, kind: str) -> float:
        """Points that a kind costs; its row is printed."""
        seconds, pixels, warnings = 0.0, [], Counter[str]()
        for index, image in zip(self.indices.tolist(), self.inputs, strict=True):
            file = renderings.posted(image, kind, index)
            began = time.perf_counter()
            digit = digits.read(file, max_pixels=MAX_PIXELS)
            seconds += time.perf_counter() - began
            pixels.append(digit.pixels)
            warnings.update(digit.warnings)
        right = _right(self.network, np.stack(pixels), self.targets)
        told = ", ".join(f"{name} {count}" for name, count in warnings.most_common())
        each = 1000 * seconds / len(pixels)
        print(f"| {kind} | {right:.2f} | {self.bare - right:.2f} | {each:.1f} | {told} |", flush=True)
        return self.bare - right


def _as_they_are(network: NumpyNetwork, dataset: Dataset) -> float:
    """Points between the test set's bare pixels and the same as pictures."""
    inputs, targets = dataset.test_inputs, dataset.test_targets
    bare = _right(network, inputs, targets)
    as_png = _right(network, np.stack([_as_png(image) for image in inputs]), targets)
    print(f"MNIST's {len(targets):,} test images: bare {bare:.2f} %, as PNG of 28 x 28 {as_png:.2f} %")
    return abs(as_png - bare)


def _as_png(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = renderings.encoded(Image.fromarray(image.reshape(28, 28)))
    return digits.read(file, max_pixels=MAX_PIXELS).pixels


def _right(network: NumpyNetwork, inputs: NDArray[np.uint8], targets: NDArray[np.int64]) -> float:
    """Per cent."""
    return 100 * float((network.logits(inputs).argmax(axis=1) == targets).mean())


def _trained(dataset: Dataset) -> NumpyNetwork:
    import torch

    from service import presets
    from service.spec import TrainingSpec
    from worker.committee import fit

    base = presets.RECORDS["cpu-minute"].spec.model_dump(mode="json")
    spec = TrainingSpec.model_validate(
        presets.with_overrides(base, {"budget_seconds": None, "epochs": EPOCHS, "seed": 1})
    )
    for report in fit(spec, dataset, device=torch.device("cpu")):
        if report.step % 200 == 0:
            print(f"step {report.step:,} of {spec.plan.steps:,}", file=sys.stderr)
    return NumpyNetwork(spec, report.snapshot().weights)


if __name__ == "__main__":
    sys.exit(main())
