"""A Picture: what is drawn, in one quiet style, and the numbers behind it.

The same data give the same bytes. matplotlib keeps settings, fonts and layouts of text in globals that
nothing guards, so one lock guards all drawing; and it is imported by the first picture only, since it takes
longer to import than the rest of an API process.
"""

import csv
import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches: 691 CSS pixels as SVG, where the 10 points of the text are 13 pixels
INK = "0.15"
MUTED = "0.42"
DOTS_PER_INCH = 144

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "0.5",
    "axes.formatter.use_mathtext": False,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "0.9",
    "grid.linewidth": 0.8,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text stays text: to be read aloud, searched and copied
    "svg.hashsalt": "numeral",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": "0.5",
    "xtick.labelcolor": INK,
    "ytick.color": "0.5",
    "ytick.labelcolor": INK,
}
_drawing = threading.RLock()

Row = Sequence[object]


@dataclass(frozen=True)
class Picture:
    """Something to draw. `heading` stands above it and is its accessible name; `size` is width and height in
    inches; `paint` draws on an empty figure; `header` and `rows` are the numbers that it shows."""

    heading: str
    size: tuple[float, float]
    paint: "Callable[[Figure], None]"
    header: tuple[str, ...]
    rows: Callable[[], Iterable[Row]]

    def figure(self) -> "Figure":
        """A new figure, painted. It is to be saved or changed under nobody's lock but this module's."""
        from matplotlib.figure import Figure

        with _styled():
            figure = Figure(self.size, dpi=DOTS_PER_INCH)
            height = 0.3 / self.size[1]
            figure.text(0.2 / self.size[0], 1 - height, self.heading, fontsize=11, weight="bold")
            self.paint(figure)
            return figure

    def svg(self) -> bytes:
        """SVG whose texts are texts, in UTF-8."""
        return self._saved("svg", {"Date": None, "Creator": None, "Title": self.heading})

    def png(self) -> bytes:
        """PNG at 144 dots an inch."""
        return self._saved("png", {"Software": None, "Title": self.heading})

    def csv(self) -> bytes:
        """The numbers as RFC 4180 has it, in UTF-8, the header first; nothing is drawn for it."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(self.header)
        writer.writerows(self.rows())
        return text.getvalue().encode()

    def _saved(self, kind: str, metadata: dict[str, Any]) -> bytes:
        file = io.BytesIO()
        with _styled():
            self.figure().savefig(file, format=kind, metadata=metadata)
        return file.getvalue()


@contextmanager
def _styled() -> Iterator[None]:
    """This thread alone draws, in the style of this module whatever the machine's matplotlibrc says."""
    with _drawing:
        from matplotlib import style

        with style.context(["default", _STYLE]):
            yield
