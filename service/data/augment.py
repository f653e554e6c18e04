"""Deformed images: rotation, shear, scale, shift and elastic in one displacement field, resampled once.

A pixel p of the new image shows what lies at A (p - c - t) + c + u(p) in the old one: c is the centre, A the
inverse of (rotation x shear x scale), t the shift and u a smooth Gaussian random field. Everything random
about an image is a pure function of the seed, the variant (which pass, or which copy) and the image's place in
the training set, so that neither batch size nor order nor device changes a picture.

The elastic field (Simard, Steinkraus and Platt 2003, section 2) is white noise smoothed by a Gaussian. Along
each axis its covariance is K[i, j] = exp(-(i - j)^2 / (4 sigma^2)), and K = A A^T with A of few columns, for a
smooth field has few degrees of freedom. A Z A^T, with Z white, then is such a field: of root mean square 1 at
every pixel, the borders included, for some ten thousand multiplications instead of millions.

An affine map's displacement is of the same kind: a constant, x and y are 1 and the axis along each axis. With these
two as further columns of A, one product of three small matrices gives where every pixel comes from.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from service.seeds import derived_seed
from service.spec import LIMITS, Augmentation

SIDE = 28
CENTRE = (SIDE - 1) / 2
CAPTURED = 0.999  # share of an elastic field's variance that its low-rank factor keeps
CHUNK = {"cpu": 250, "cuda": 20_000}  # images resampled at once: their fields fit a CPU's cache


class Augmenter:
    """Deforms the images of one training set."""

    def __init__(
        self, augmentation: Augmentation, labels: Tensor, *, seed: int, device: torch.device
    ) -> None:
        """`labels` (n,) int64 of the training set, which classes' limits are looked up by."""
        self._augmentation = augmentation
        self._seed, self._count = seed, len(labels)
        table = torch.tensor([[augmentation.limit(name, label) for name in LIMITS] for label in range(10)])
        self._limits = table[labels.cpu()].to(device)
        factor = _factor(augmentation.elastic_sigma) if self._is_elastic else torch.empty(SIDE, 0)
        self._rank = factor.shape[1]
        self._basis = basis(factor).to(device)
        self._drawn: tuple[int, _Draws] | None = None

    @property
    def _is_elastic(self) -> bool:
        return bool(self._limits[:, 4].any())

    def deform(self, pixels: Tensor, rows: Tensor, *, variant: int, amplitude: float = 1.0) -> Tensor:
        """float32 (b, 784), on the 0..255 scale, of `pixels` (b, 784) uint8: the images that lie at `rows` (b,)
        int64 of the training set, as they are in pass `variant`, with every limit times `amplitude`."""
        return self.apply(pixels, self.deformations(rows, variant=variant, amplitude=amplitude))

    def deformations(self, rows: Tensor, *, variant: int, amplitude: float = 1.0) -> Tensor:
        """What `apply` does to the images at `rows` (b,): an item for each."""
        limits = self._limits[rows] * amplitude
        drawn = self._draws(variant).of(rows)
        if self._augmentation.resampling == "forward_nearest":
            return torch.deg2rad(limits[:, 0] * drawn.affine[:, 0])
        return gridded(self._weights(limits, drawn))

    def apply(self, pixels: Tensor, deformations: Tensor) -> Tensor:
        """As `deform`, of images and their deformations; any number of threads at once may."""
        chunk = CHUNK.get(pixels.device.type, CHUNK["cpu"])
        deformed = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        for before, chosen, after in zip(
            *(torch.split(each, chunk) for each in (pixels, deformations, deformed)), strict=True
        ):
            if self._augmentation.resampling == "forward_nearest":
                after.copy_(rotated_forward(before, chosen))
            else:
                after.copy_(resampled(before, fields(chosen, self._basis)))
        return deformed

    def _weights(self, limits: Tensor, drawn: "_Draws") -> Tensor:
        matrix, shift = _affine(limits, drawn.affine, either=self._augmentation.rotation_or_shear)
        weights = affine_weights(matrix, shift, self._basis.shape[1])
        if drawn.elastic is not None:
            torch.mul(drawn.elastic, limits[:, 4, None, None, None], out=weights[:, :, 2:, 2:])
        return weights

    def _draws(self, variant: int) -> "_Draws":
        copies = self._augmentation.copies
        variant = variant % copies if copies is not None else variant
        if self._drawn is None or self._drawn[0] != variant:
            self._drawn = None  # or there would be room for two passes' draws
            draws = _Draws.draw(
                self._count, self._rank or None, derived_seed(self._seed, "augmentation", variant)
            )
            self._drawn = (variant, draws.to(self._limits.device))
        return self._drawn[1]


@dataclass(frozen=True)
class _Draws:
    """What is random about each image: `affine` (n, 7) even in [-1, 1), for rotation, shear, width, height, x, y
    and which of rotation or shear; `elastic` (n, 2, r, r) standard normal, or none."""

    affine: Tensor
    elastic: Tensor | None

    @classmethod
    def draw(cls, count: int, rank: int | None, seed: int) -> "_Draws":
        # on the CPU, so that every device sees the same pictures
        generator = torch.Generator().manual_seed(seed)
        affine = torch.rand(count, 7, generator=generator) * 2 - 1
        elastic = None if rank is None else torch.randn(count, 2, rank, rank, generator=generator)
        return cls(affine, elastic)

    def of(self, rows: Tensor) -> "_Draws":
        elastic = None if self.elastic is None else self.elastic.index_select(0, rows)
        return _Draws(self.affine.index_select(0, rows), elastic)

    def to(self, device: torch.device) -> "_Draws":
        return _Draws(self.affine.to(device), None if self.elastic is None else self.elastic.to(device))


def _affine(limits: Tensor, drawn: Tensor, *, either: bool) -> tuple[Tensor, Tensor]:
    """The inverse maps (b, 2, 2) of rotation x shear x scale, and the shifts (b, 2), x before y."""
    angle = torch.deg2rad(limits[:, 0] * drawn[:, 0])
    slant = torch.tan(torch.deg2rad(limits[:, 1] * drawn[:, 1]))
    if either:
        rotates = drawn[:, 6] < 0
        angle, slant = angle * rotates, slant * ~rotates
    width, height = (1 + limits[:, 2, None] * drawn[:, 2:4]).unbind(1)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    # forward, with y downwards: x' = x cos + y sin, y' = -x sin + y cos turns an image counter-clockwise;
    # its inverse is the transpose, that of the shear x' = x + slant y has -slant, that of the scale 1 / scale
    matrix = torch.stack(
        (
            (cosine - slant * sine) / width,
            (-sine - slant * cosine) / width,
            sine / height,
            cosine / height,
        ),
        dim=1,
    )
    return matrix.view(-1, 2, 2), limits[:, 3, None] * drawn[:, 4:6]


def affine_weights(matrix: Tensor, shift: Tensor, count: int = 2) -> Tensor:
    """What the inverse maps `matrix` (b, 2, 2) about the centre and the shifts (b, 2), which come last, take of a
    `basis` of `count` columns: (b, 2, count, count), x before y, zero but for the first two."""
    weights = torch.zeros(len(matrix), 2, count, count, device=matrix.device)
    weights[:, :, 0, 0] = CENTRE - (matrix @ shift[:, :, None])[:, :, 0]
    weights[:, :, 0, 1] = matrix[:, :, 0]
    weights[:, :, 1, 0] = matrix[:, :, 1]
    return weights


def basis(factor: Tensor) -> Tensor:
    """(28, 2 + r): 1, the axis from the centre, and the columns of `factor` (28, r), see `fields`."""
    axis = torch.arange(SIDE, dtype=torch.float32) - CENTRE
    return torch.cat((torch.ones(SIDE, 1), axis[:, None], factor), dim=1)


def fields(weights: Tensor, factor: Tensor) -> Tensor:
    """(b, 2, 28, 28), y before x, of `weights` (b, 2, r, r) and `factor` (28, r): factor @ weights @ factor.T. Of
    standard normal weights and factor @ factor.T = K, see the module, smooth random fields of root mean square 1;
    of `affine_weights` and `basis`, where each pixel of the new images comes from, in pixels."""
    return factor @ (weights @ factor.T)


@functools.lru_cache(maxsize=16)
def _factor(sigma: float) -> Tensor:
    """(28, r) float32: the leading eigenvectors of K, each times the root of its eigenvalue, as many as hold
    `CAPTURED` of a field's variance; each row scaled to norm 1, so that what is left out is made up for."""
    place = np.arange(SIDE)
    covariance = np.exp(-((place[:, None] - place) ** 2) / (4 * sigma**2))
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    # a field's share is the square of an axis's
    rank = int(np.searchsorted((values.cumsum() / values.sum()) ** 2, CAPTURED)) + 1
    factor = vectors[:, :rank] * np.sqrt(values[:rank])
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    return torch.from_numpy(factor.astype(np.float32))


def gridded(weights: Tensor) -> Tensor:
    """`weights` of fields that tell places in pixels, changed in place, so that they tell them as torch's grids
    do, from -1 to 1: a field is ten times as large as its weights."""
    weights *= 2 / (SIDE - 1)
    weights[:, :, 0, 0] -= 1
    return weights


def resampled(pixels: Tensor, grid: Tensor) -> Tensor:
    """float32 (b, 784) by bilinear interpolation of `pixels` (b, 784), uint8 or float, at `grid` (b, 2, 28, 28), x
    before y, from -1 to 1. What lies outside the image is 0, MNIST's background."""
    images = pixels.to(torch.float32).view(-1, 1, SIDE, SIDE)
    found = functional.grid_sample(
        images, grid.movedim(1, -1), mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return found.view(-1, SIDE * SIDE)


def rotated_forward(pixels: Tensor, angle: Tensor) -> Tensor:
    """float32 (b, 784): each of `pixels` (b, 784) moved to the nearest place by `angle` (b,) radians, as the
    lecture's `rotateimage` does. Places that no pixel comes to show the image's first pixel; where several
    come to one place the last in the lecture's order stays, column by column from the left."""
    place = torch.arange(SIDE * SIDE, device=pixels.device)
    x, y = (place % SIDE) - CENTRE, place.div(SIDE, rounding_mode="floor") - CENTRE
    angle = angle.double()[:, None]  # what is rounded is Julia's to the last bit but those of cos and sin
    cosine, sine = torch.cos(angle), torch.sin(angle)
    # torch and Julia both round half to even
    to_x = torch.round(x * cosine + y * sine + CENTRE).long()
    to_y = torch.round(y * cosine - x * sine + CENTRE).long()
    inside = (to_x >= 0) & (to_x < SIDE) & (to_y >= 0) & (to_y < SIDE)
    target = torch.where(inside, to_y * SIDE + to_x, SIDE * SIDE)  # the last slot is for what falls off
    order = (place % SIDE) * SIDE + place.div(SIDE, rounding_mode="floor")
    winner = torch.full((len(pixels), SIDE * SIDE + 1), -1, dtype=torch.long, device=pixels.device)
    winner.scatter_reduce_(1, target, order.expand_as(target), "amax")
    winner = winner[:, :-1]
    source = (winner % SIDE) * SIDE + winner.div(SIDE, rounding_mode="floor")
    values = pixels.to(torch.float32)
    return torch.where(winner < 0, values[:, :1], values.gather(1, source.clamp(min=0)))


def variants(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    augmentation: Augmentation,
    *,
    seed: int,
    variant: int = 0,
    amplitude: float = 1.0,
) -> NDArray[np.uint8]:
    """`pixels` (n, 784) deformed as a training set of theirs alone would be in pass `variant`, rounded; to be
    looked at."""
    cpu = torch.device("cpu")
    augmenter = Augmenter(augmentation, torch.tensor(labels), seed=seed, device=cpu)
    rows = torch.arange(len(pixels))
    deformed = augmenter.deform(torch.tensor(pixels), rows, variant=variant, amplitude=amplitude)
    rounded: NDArray[Any] = deformed.round().to(torch.uint8).numpy()
    return rounded
