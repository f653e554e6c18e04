"""What an answer tells of a picture beside what it was read as, where `include` asks for it."""

import base64
from collections.abc import Mapping
from typing import Annotated, Any

import cv2
import numpy as np
from fastapi import Depends, Query
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.api.problems import bad_parameters
from service.data.digits import SIDE, Digit
from service.data.ink import Polarity
from service.errors import FieldError

NAMES = ("image", "box", "polarity", "not_a_digit")


class Box(BaseModel):
    """Where a digit stands, in the picture's own pixels, turned as its EXIF says."""

    left: int
    top: int
    width: int
    height: int


class Included(BaseModel):
    """What `include` may add to a prediction."""

    image: Annotated[
        str | None, Field(description="The 28 x 28 that the network saw, as a data: URL of a PNG.")
    ] = None
    box: Annotated[Box | None, Field(description="Null: the picture is blank, or came as numbers.")] = None
    polarity: Annotated[
        Polarity | None, Field(description="How it was written. Null: nobody looked, or it is blank.")
    ] = None


async def _include(
    include: Annotated[
        str | None,
        Query(
            description="What to tell of each picture beside what it was read as: image (what the network saw), "
            "box, polarity, not_a_digit (a score), or several with commas between.",
            examples=["image,box,polarity"],
        ),
    ] = None,
) -> frozenset[str]:
    names = frozenset(include.split(",")) if include else frozenset()
    unknown = sorted(names - set(NAMES))
    if unknown:
        told = f"there is no {unknown[0]!r}: there are {', '.join(NAMES)}"
        raise bad_parameters([FieldError("query/include", told)])
    return names


Include = Annotated[frozenset[str], Depends(_include)]


def told(names: frozenset[str], pixels: NDArray[Any], digit: Digit | None) -> Mapping[str, Any]:
    """The fields that were asked for: of the (784,) that the network saw, and of how they came about if a picture
    was looked at."""
    polarity = None if digit is None else digit.polarity
    fields: dict[str, Any] = {"box": boxed(digit), "polarity": polarity}
    if "image" in names:
        fields["image"] = png_url(pixels)
    return {name: value for name, value in fields.items() if name in names}


def boxed(digit: Digit | None) -> dict[str, int] | None:
    """A digit's box as JSON."""
    if digit is None or digit.box is None:
        return None
    return dict(zip(("left", "top", "width", "height"), digit.box, strict=True))


def png_url(pixels: NDArray[Any]) -> str:
    """(784,) from 0 to 255 as a data: URL of a PNG."""
    grey = np.asarray(pixels).round().astype(np.uint8).reshape(SIDE, SIDE)
    _, data = cv2.imencode(".png", grey)
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()
