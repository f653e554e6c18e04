"""`numeral predict` and `numeral read`: read digits."""

import base64
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from service import blocks
from service.cli.terminal import Json, ModelRef, Url, connected, existing, out, show, told
from service.client import Answer, Digit
from service.errors import Invalid

STDIN = "-"
MOST_DRAWN = 12  # more of them scroll away
BAR = 20  # characters


@told
def predict(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="PNG, JPEG or WebP pictures of one digit each; - is standard input."
        ),
    ],
    model: ModelRef = "latest",
    pictures: Annotated[
        bool | None,
        typer.Option(
            "--pictures/--no-pictures",
            help="What the network saw, beside its probabilities. Unset: on a terminal, of up to 12 files.",
        ),
    ] = None,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Read digits."""
    images = _contents(files)
    if pictures is None:
        pictures = out.is_terminal and len(files) <= MOST_DRAWN
    include = ["image"] if pictures and not as_json else []
    with connected(url) as client:
        answer = client.predict(images, model=model, include=include)
    shown = Group(*_drawn(files, answer)) if include else _table(files, answer)
    show(answer.as_told(), shown, as_json)


@told
def read(
    file: Annotated[
        str,
        typer.Argument(help="A PNG, JPEG or WebP picture of any number of digits; - is standard input."),
    ],
    model: ModelRef = "latest",
    as_json: Json = False,
    url: Url = None,
) -> None:
    """Read a picture of several digits: the text that they make."""
    (image,) = _contents([file])
    with connected(url) as client:
        answer = client.read(image, model=model)
    show(answer.as_told(), answer.text, as_json)


def _contents(files: Sequence[str]) -> list[bytes | Path]:
    """What to send. Raises Invalid for a file that is not there, before any is sent."""
    if files.count(STDIN) > 1:
        raise Invalid("standard input can be read once: give - once", code="stdin_twice")
    paths = {file: existing(Path(file)) for file in files if file != STDIN}
    return [paths[file] if file in paths else sys.stdin.buffer.read() for file in files]


def _table(files: Sequence[str], answer: Answer) -> Table:
    table = Table("file", "digit", "confidence", "warnings")
    for file, digit in zip(files, answer.predictions, strict=True):
        table.add_row(file, str(digit.label), f"{digit.confidence:.1%}", ", ".join(digit.warnings))
    return table


def _drawn(files: Sequence[str], answer: Answer) -> Iterator[RenderableType]:
    """The picture that the network saw, and to the right of it what it made of it."""
    for file, digit in zip(files, answer.predictions, strict=True):
        said = ", ".join(digit.warnings)
        yield Text.assemble(
            (f"{digit.label}", "bold"), f"  {digit.confidence:.1%}  {file}", f"  {said}" if said else ""
        )
        row = Table.grid(padding=(0, 2))
        row.add_row(_picture(digit), _bars(digit))
        yield row


def _picture(digit: Digit) -> Text:
    from PIL import Image

    assert digit.image is not None, "it was asked for"
    data = base64.b64decode(digit.image.partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        greys, width = image.convert("L").tobytes(), image.width
    rows = [list(greys[start : start + width]) for start in range(0, len(greys), width)]
    return blocks.picture(rows, colours=out.color_system is not None)


def _bars(digit: Digit) -> Text:
    return Text("\n").join(
        Text.assemble(
            f"{label} ",
            ("█" * round(share * BAR), "bold green" if label == digit.label else "blue"),
            f" {share:.1%}",
        )
        for label, share in enumerate(digit.probabilities)
    )
