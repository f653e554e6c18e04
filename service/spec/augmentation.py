"""How training images are deformed, each time they are seen or in so many fixed copies."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from service import mistakes
from service.spec.part import Part

LimitName = Literal["rotation", "shear", "scale", "shift", "elastic"]
LIMITS: tuple[LimitName, ...] = ("rotation", "shear", "scale", "shift", "elastic")
Digit = Literal["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
Rotation = Annotated[float, Field(ge=0, le=180)]
Shear = Annotated[float, Field(ge=0, le=60)]
Scale = Annotated[float, Field(ge=0, le=0.9)]
Shift = Annotated[float, Field(ge=0, le=14)]
Elastic = Annotated[float, Field(ge=0, le=10)]
Share = Annotated[float, Field(ge=0, le=1)]
AmplitudePoint = Annotated[tuple[Share, Share], Field(strict=False)]


class ClassLimits(Part):
    """Limits of one class that differ from the others'; those left out are the same."""

    rotation: Rotation | None = None
    """Degrees."""
    shear: Shear | None = None
    """Degrees."""
    scale: Scale | None = None
    """Share of the size."""
    shift: Shift | None = None
    """Pixels."""
    elastic: Elastic | None = None
    """Pixels."""


class Augmentation(Part):
    """Random deformations of the training images, composed into one displacement field and resampled once.
    Each limit of zero leaves its deformation out."""

    rotation: Rotation = 0.0
    """Largest angle in degrees, either way; drawn evenly."""
    shear: Shear = 0.0
    """Largest angle in degrees by which verticals slant, either way; drawn evenly."""
    rotation_or_shear: bool = False
    """Each image is either rotated or sheared, at even chances, instead of both."""
    scale: Scale = 0.0
    """Largest share by which width and height grow or shrink, each on its own; drawn evenly."""
    shift: Shift = 0.0
    """Largest move in pixels along each axis, either way; drawn evenly."""
    elastic: Elastic = 0.0
    """Root mean square, in pixels of the original along each axis, of a smooth random displacement (Simard et al.
    2003)."""
    elastic_sigma: float = Field(default=6.0, ge=2, le=28)
    """Standard deviation in pixels of the Gaussian that smooths it."""
    classes: dict[Digit, ClassLimits] = Field(default={})
    """Other limits for single classes, such as {"1": {"rotation": 7.5}, "7": {"rotation": 7.5}}."""
    amplitude: tuple[AmplitudePoint, ...] = Field(
        default=((0.0, 1.0),), min_length=1, max_length=32, strict=False
    )
    """Factor of all limits over the run: [progress, factor] pairs, progress from 0 to 1, joined by straight
    lines, such as [[0, 1], [0.8, 1], [1, 0]]."""
    copies: int | None = Field(default=None, ge=1, le=10_000)
    """Variants of each image, drawn once and used in turns, pass by pass; unset: a new one at each pass."""
    resampling: Literal["bilinear", "forward_nearest"] = "bilinear"
    """bilinear looks up where each new pixel comes from; forward_nearest moves each old pixel to the nearest
    place, which leaves holes, as the lecture's code does (rotation only)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        progress = [point for point, _ in self.amplitude]
        if any(earlier >= later for earlier, later in pairwise(progress)):
            raise mistakes.field_mistake(
                "amplitude", "progress must rise from pair to pair, such as [[0, 1], [0.8, 1], [1, 0]]"
            )
        if self.resampling == "forward_nearest" and self._needs_inverse:
            raise mistakes.field_mistake(
                "resampling", "forward_nearest only rotates: set the other limits to 0, or use bilinear"
            )
        if self.rotation_or_shear and not (self.rotation and self.shear):
            raise mistakes.field_mistake("rotation_or_shear", "needs both limits: set rotation and shear")
        return self

    @property
    def _needs_inverse(self) -> bool:
        return any(
            getattr(limits, name)
            for limits in (self, *self.classes.values())
            for name in LIMITS
            if name != "rotation"
        )

    def limit(self, name: LimitName, label: int) -> float:
        """The limit of that name for images of the class."""
        own = self.classes.get(str(label))  # type: ignore[call-overload]
        value = getattr(own, name) if own is not None else None
        return float(getattr(self, name) if value is None else value)

    def factor(self, progress: float) -> float:
        """Amplitude at a share `progress` of the run, 0 to 1."""
        points = self.amplitude
        if progress <= points[0][0]:
            return points[0][1]
        for (start, low), (end, high) in pairwise(points):
            if progress <= end:
                return low + (high - low) * (progress - start) / (end - start)
        return points[-1][1]
