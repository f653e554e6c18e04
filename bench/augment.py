"""What deforming an image costs: the composed, low-rank way against full smoothing and against torchvision's
transforms, in turns in one run. Bounds: an elastic field in at most 1/4 of the time of a field by full
smoothing; a whole deformation in at most 1/10 of torchvision's RandomAffine and ElasticTransform.

    python -m bench.augment
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torchvision.transforms import v2

from service.data import augment
from service.data.augment import SIDE, Augmenter
from service.presets import PRESETS

IMAGES = 2000
OF_TORCHVISION = 200  # images a round: it takes them one by one, since each is to have its own deformation
ROUNDS = 7
SIGMA = 6.0
FIELD_BOUND, WHOLE_BOUND = 1 / 4, 1 / 10


def seconds_an_image(ways: Mapping[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Median over the rounds, in which the ways take turns."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, (way, images) in ways.items():
            began = time.perf_counter()
            way()
            taken[name].append((time.perf_counter() - began) / images)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def fully_smoothed(generator: torch.Generator) -> Tensor:
    """Fields of the same kind by smoothing white noise along both axes, three sigma to each side."""
    reach = int(3 * SIGMA)
    distance = torch.arange(SIDE)[:, None] + reach - torch.arange(SIDE + 2 * reach)
    smoother = torch.exp(-(distance**2) / (2 * SIGMA**2))
    smoother /= smoother.norm(dim=1, keepdim=True)
    side = SIDE + 2 * reach
    return smoother @ torch.randn(IMAGES, 2, side, side, generator=generator) @ smoother.T


def main() -> int:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, SIDE * SIDE), dtype=torch.uint8, generator=generator)
    labels, rows = torch.arange(IMAGES) % 10, torch.arange(IMAGES)
    factor = augment._factor(SIGMA)  # noqa: SLF001
    rank = factor.shape[1]
    block = PRESETS["ciresan-2010"].spec.augmentation
    assert block is not None
    passes = iter(range(1_000_000))
    augmenter = Augmenter(block, labels, seed=0, device=torch.device("cpu"))
    theirs = v2.Compose([v2.RandomAffine(15, scale=(0.85, 1.15), shear=15), v2.ElasticTransform(34.0, SIGMA)])

    def of_torchvision() -> None:
        for image in pixels[:OF_TORCHVISION].view(-1, 1, SIDE, SIDE):
            theirs(image)

    def low_rank() -> Tensor:
        return augment.fields(torch.randn(IMAGES, 2, rank, rank, generator=generator), factor)

    found = seconds_an_image(
        {
            "elastic field, low rank": (low_rank, IMAGES),
            "elastic field, full smoothing": (lambda: fully_smoothed(generator), IMAGES),
            "everything, composed": (lambda: augmenter.deform(pixels, rows, variant=next(passes)), IMAGES),
            "torchvision, one after the other": (of_torchvision, OF_TORCHVISION),
        }
    )
    for name, seconds in found.items():
        print(f"{name:>34}: {1e6 * seconds:9.2f} us an image, one thread")
    field, smoothing, whole, library = found.values()
    print(f"field: {field / smoothing:.3f} of full smoothing (bound {FIELD_BOUND:.3f}), rank {rank}")
    print(f"whole: {whole / library:.4f} of torchvision (bound {WHOLE_BOUND:.3f})")
    return int(field > FIELD_BOUND * smoothing or whole > WHOLE_BOUND * library)


if __name__ == "__main__":
    sys.exit(main())
