"""Pictures and curves in a terminal: half-blocks for greys, the dots of braille for lines."""

from collections.abc import Iterable, Sequence

from rich.text import Text

SHADES = " ░▒▓█"
BRAILLE = 0x2800
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column within a cell

Point = tuple[float, float]


def picture(rows: Sequence[Sequence[int]], *, colours: bool) -> Text:
    """Greys from 0 to 255, two rows to a line; in shades of ink where there are no colours."""
    cell = _coloured if colours else _shaded
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return Text("\n").join(Text.assemble(*map(cell, upper, lower)) for upper, lower in pairs)


def _coloured(upper: int, lower: int) -> tuple[str, str]:
    return "▀", f"rgb({upper},{upper},{upper}) on rgb({lower},{lower},{lower})"


def _shaded(upper: int, lower: int) -> tuple[str, str]:
    return SHADES[(upper + lower) * len(SHADES) // 512], ""


class Canvas:
    """Lines on a field of `width` by `height` characters, each of two by four dots."""

    def __init__(self, width: int, height: int) -> None:
        self.columns, self.rows = 2 * width, 4 * height
        self._cells = [[0] * width for _ in range(height)]
        self._styles = [[""] * width for _ in range(height)]

    def line(self, points: Iterable[Point], style: str) -> None:
        """Join points whose coordinates run from 0 to 1, from the lower left."""
        last: tuple[int, int] | None = None
        for x, y in points:
            here = round(x * (self.columns - 1)), round((1 - y) * (self.rows - 1))
            for dot in _between(last or here, here):
                self._dot(*dot, style)
            last = here

    def _dot(self, column: int, row: int, style: str) -> None:
        self._cells[row // 4][column // 2] |= DOTS[row % 4][column % 2]
        self._styles[row // 4][column // 2] = style

    def lines(self) -> list[Text]:
        """From the top."""
        return [
            Text.assemble(*((chr(BRAILLE + cell), style) for cell, style in zip(cells, styles, strict=True)))
            for cells, styles in zip(self._cells, self._styles, strict=True)
        ]


def _between(start: tuple[int, int], end: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """The dots of a straight line, both ends among them."""
    (column, row), (to_column, to_row) = start, end
    count = max(abs(to_column - column), abs(to_row - row), 1)
    for index in range(count + 1):
        share = index / count
        yield round(column + share * (to_column - column)), round(row + share * (to_row - row))
