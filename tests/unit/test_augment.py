"""Deformed images: what is asked for is what comes out, and a seed repeats it."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.data import augment
from service.data.augment import SIDE, Augmenter
from service.spec import Augmentation

CPU = torch.device("cpu")


def blob() -> Tensor:
    """A smooth picture, (1, 784) on the 0..255 scale: a Gaussian off the centre."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    return (255 * torch.exp(-((x - 16) ** 2 + (y - 12) ** 2) / (2 * 3.5**2))).view(1, -1)


def digits(count: int) -> Tensor:
    """Pictures with a background of zeros and random ink in the middle, (count, 784) uint8."""
    ink = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(1)
    ink[:, 10:18, 10:18] = torch.randint(1, 256, (count, 8, 8), generator=generator, dtype=torch.uint8)
    return ink.view(count, -1)


def augmenter(count: int, *, seed: int = 0, labels: Tensor | None = None, **limits: Any) -> Augmenter:
    augmentation = Augmentation.model_validate(limits)
    wanted = torch.zeros(count, dtype=torch.long) if labels is None else labels
    return Augmenter(augmentation, wanted, seed=seed, device=CPU)


def sources(matrix: Tensor, shift: Tensor) -> Tensor:
    return augment.fields(augment.affine_weights(matrix, shift), augment.basis(torch.empty(SIDE, 0)))


def turned(pixels: Tensor, degrees: float) -> Tensor:
    limits = torch.tensor([[degrees, 0.0, 0.0, 0.0, 0.0]])
    matrix, shift = augment._affine(limits, torch.ones(1, 7), either=False)
    grid = augment.gridded(augment.affine_weights(matrix, shift))
    return augment.resampled(pixels, augment.fields(grid, augment.basis(torch.empty(SIDE, 0))))


@pytest.mark.parametrize("sigma", [2.0, 3.0, 5.5, 6.0, 12.0])
def test_the_displacement_asked_for_is_what_comes_out(sigma: float) -> None:
    factor = augment._factor(sigma)
    noise = torch.randn(4000, 2, factor.shape[1], factor.shape[1], generator=torch.Generator().manual_seed(0))
    fields = 1.2 * augment.fields(noise, factor)
    assert fields.shape == (4000, 2, SIDE, SIDE)
    assert fields.square().mean().sqrt().item() == pytest.approx(1.2, rel=0.03)
    # at the border as in the middle
    by_place = fields.square().mean(dim=(0, 1)).sqrt() / 1.2
    assert by_place.min() > 0.94
    assert by_place.max() < 1.06


@pytest.mark.parametrize("sigma", [3.0, 6.0])
def test_a_field_is_as_smooth_as_white_noise_smoothed_by_the_gaussian(sigma: float) -> None:
    factor = augment._factor(sigma)
    covariance = factor @ factor.T
    distance = torch.arange(SIDE)[:, None] - torch.arange(SIDE)
    # two Gaussians of variance sigma^2, convolved: one of twice the variance
    expected = torch.exp(-(distance**2) / (4 * sigma**2))
    torch.testing.assert_close(covariance, expected, atol=0.03, rtol=0)


def test_a_smooth_field_costs_tens_of_thousands_of_operations() -> None:
    rank = augment._factor(6.0).shape[1]
    operations = 2 * 2 * (SIDE * rank * rank + SIDE * SIDE * rank)  # two axes; multiply and add
    assert operations < 50_000


def test_no_deformation_is_the_identity() -> None:
    pixels = digits(5)
    same = augmenter(5).deform(pixels, torch.arange(5), variant=3)
    torch.testing.assert_close(same, pixels.float(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("degrees", [7.5, 22.5, 90.0])
def test_there_and_back_again(degrees: float) -> None:
    picture = blob()
    back = turned(turned(picture, degrees), -degrees)
    assert (back - picture).abs().max() < 0.04 * 255  # what two interpolations of this curvature lose


def test_a_positive_angle_turns_counter_clockwise() -> None:
    picture = torch.zeros(1, SIDE, SIDE)
    picture[0, 13:15, 20:24] = 255  # right of the centre
    up = turned(picture.view(1, -1), 90.0).view(SIDE, SIDE)
    assert up[4:8, 13:15].mean() == pytest.approx(255, abs=1)
    assert up.sum() == pytest.approx(picture.sum().item(), rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    limits=st.fixed_dictionaries(
        {
            "rotation": st.floats(0, 180),
            "shear": st.floats(0, 40),
            "scale": st.floats(0, 0.5),
            "shift": st.floats(0, 14),
            "elastic": st.floats(0, 3),
        }
    ),
)
def test_no_background_is_invented(seed: int, limits: dict[str, Any]) -> None:
    pixels = digits(8)
    deformed = augmenter(8, seed=seed, **limits).deform(pixels, torch.arange(8), variant=0)
    assert deformed.isfinite().all()
    assert deformed.min() >= 0
    assert deformed.max() <= 255 + 1e-2
    blank = torch.zeros(8, SIDE * SIDE, dtype=torch.uint8)
    assert augmenter(8, seed=seed, **limits).deform(blank, torch.arange(8), variant=0).max() == 0


@pytest.mark.parametrize(("degrees", "size"), [(0.0, 1.0), (45.0, 1.0), (90.0, 1.5), (30.0, 0.6)])
def test_a_shift_is_of_the_new_picture_whatever_else_is_done(degrees: float, size: float) -> None:
    """The centre, which neither rotation nor scale moves, ends where the shift says."""
    limits = torch.tensor([[degrees, 0.0, abs(size - 1), 5.0, 0.0]])
    drawn = torch.tensor([[1.0, 0.0, math.copysign(1, size - 1), math.copysign(1, size - 1), 1.0, -0.6, 0.0]])
    matrix, shift = augment._affine(limits, drawn, either=False)
    found = sources(matrix, shift)[0]
    distance = (found - augment.CENTRE).norm(dim=0)
    y, x = divmod(int(distance.argmin()), SIDE)
    assert (x - augment.CENTRE, y - augment.CENTRE) == pytest.approx((5.0, -3.0), abs=0.75)


def test_what_is_moved_out_of_the_picture_is_gone() -> None:
    pixels = torch.full((50, SIDE * SIDE), 200, dtype=torch.uint8)
    deformed = augmenter(50, shift=14.0).deform(pixels, torch.arange(50), variant=0)
    assert (deformed == 0).any(dim=1).float().mean() > 0.9
    assert {0.0, 200.0} <= set(deformed.round().flatten().tolist())


EVERYTHING: dict[str, Any] = {"rotation": 15.0, "shear": 15.0, "scale": 0.2, "shift": 2.0, "elastic": 1.2}


def test_an_image_depends_on_seed_pass_and_place_alone() -> None:
    pixels, rows = digits(40), torch.arange(40)
    whole = augmenter(40, seed=7, **EVERYTHING).deform(pixels, rows, variant=2)
    again = augmenter(40, seed=7, **EVERYTHING)
    again.deform(pixels, rows, variant=5)  # another pass between changes nothing
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    parts = torch.cat(
        [again.deform(pixels[part], part, variant=2) for part in (order[:7], order[7:8], order[8:])]
    )
    torch.testing.assert_close(parts[order.argsort()], whole, atol=1e-3, rtol=0)
    for other in (
        augmenter(40, seed=8, **EVERYTHING).deform(pixels, rows, variant=2),
        augmenter(40, seed=7, **EVERYTHING).deform(pixels, rows, variant=3),
    ):
        assert (other - whole).abs().amax(dim=1).min() > 1


def test_copies_come_back_in_turns() -> None:
    pixels, rows = digits(6), torch.arange(6)
    copied = augmenter(6, copies=3, **EVERYTHING)
    passes = [copied.deform(pixels, rows, variant=number) for number in range(7)]
    assert torch.equal(passes[0], passes[3])
    assert torch.equal(passes[1], passes[4])
    assert torch.equal(passes[0], passes[6])
    assert not torch.equal(passes[0], passes[1])


def test_the_amplitude_scales_every_limit() -> None:
    pixels, rows = digits(6), torch.arange(6)
    half = augmenter(6, **EVERYTHING).deform(pixels, rows, variant=0, amplitude=0.5)
    halves: dict[str, Any] = {name: limit / 2 for name, limit in EVERYTHING.items()}
    halved = augmenter(6, **halves)
    torch.testing.assert_close(half, halved.deform(pixels, rows, variant=0), atol=1e-2, rtol=0)
    still = augmenter(6, **EVERYTHING).deform(pixels, rows, variant=0, amplitude=0.0)
    torch.testing.assert_close(still, pixels.float(), atol=1e-2, rtol=0)


def test_classes_have_limits_of_their_own() -> None:
    labels = torch.tensor([1] * 20 + [8] * 20)
    limited = augmenter(40, labels=labels, rotation=30.0, classes={"1": {"rotation": 0.0}})
    moved = (limited.deform(digits(40), torch.arange(40), variant=0) - digits(40)).abs().amax(dim=1)
    assert moved[:20].max() < 0.01
    assert moved[20:].min() > 1


def test_angles_are_even_within_the_limit() -> None:
    drawn = augment._Draws.draw(20_000, None, 5).affine
    assert drawn.abs().max() <= 1
    assert drawn.mean(dim=0).abs().max() < 0.02
    torch.testing.assert_close(drawn.var(dim=0), torch.full((7,), 1 / 3), atol=0.01, rtol=0)


def test_either_rotates_or_shears() -> None:
    limits = torch.tensor([[20.0, 20.0, 0.0, 0.0, 0.0]]).expand(200, 5)
    drawn = augment._Draws.draw(200, None, 5).affine
    matrix, _ = augment._affine(limits, drawn, either=True)
    rotates = (matrix[:, 0, 0] - matrix[:, 1, 1]).abs() < 1e-6
    sheared = matrix[:, 1, 0].abs() < 1e-6
    assert (rotates & ~sheared).sum() + (sheared & (matrix[:, 0, 1].abs() > 1e-4)).sum() == 200
    assert 60 < sheared.sum() < 140


def rotateimage(image: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]", angle: float) -> list[list[int]]:
    """The lecture's function, index by index: `image[i, j]` with i the column, as its package stores them."""
    middle = (28 + 1) / 2
    turned_image = [[int(image[0, 0])] * 28 for _ in range(28)]
    for i in range(1, 29):
        for j in range(1, 29):
            ri = round((i - middle) * math.cos(angle) + (j - middle) * math.sin(angle) + middle)
            rj = round(-(i - middle) * math.sin(angle) + (j - middle) * math.cos(angle) + middle)
            if 1 <= ri <= 28 and 1 <= rj <= 28:
                turned_image[ri - 1][rj - 1] = int(image[i - 1, j - 1])
    return turned_image


@pytest.mark.parametrize("degrees", [-22.5, -3.0, 0.0, 11.0, 17.3])
def test_forward_mapping_is_the_lectures(degrees: float) -> None:
    pixels = torch.randint(0, 256, (1, 784), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    angle = math.radians(degrees)
    ours = augment.rotated_forward(pixels, torch.tensor([angle], dtype=torch.float64)).view(28, 28)
    expected = rotateimage(pixels.view(28, 28).T.numpy(), angle)
    assert ours.T.tolist() == expected


def test_forward_mapping_leaves_holes_and_interpolation_none() -> None:
    pixels = torch.full((1, 784), 255, dtype=torch.uint8)
    pixels[0, 0] = 0  # the lecture's background
    holes = augment.rotated_forward(pixels, torch.tensor([math.radians(20)])).view(28, 28)[8:20, 8:20]
    assert (holes == 0).any()
    assert turned(pixels.float(), 20.0).view(28, 28)[8:20, 8:20].min() > 254


def test_variants_are_pictures() -> None:
    pixels = digits(4).numpy()
    labels = np.array([3, 1, 4, 1])
    block = Augmentation(rotation=20.0, elastic=1.0)
    first = augment.variants(pixels, labels, block, seed=1)
    assert first.dtype == np.uint8
    assert first.shape == (4, 784)
    assert np.array_equal(first, augment.variants(pixels, labels, block, seed=1))
    assert not np.array_equal(first, augment.variants(pixels, labels, block, seed=1, variant=1))
