"""How long somebody who knows nothing needs from `make demo` to a digit of their own that is read: the demo in a terminal,
the address that its last lines tell, a browser, and a three drawn with the pointer as fast as people draw.

python -m bench.newcomer --screenshot newcomer.png
"""

import argparse
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Locator, Page, ViewportSize, sync_playwright
from playwright.sync_api import TimeoutError as NotShown

from bench.page import launched

WHOLE_SECONDS = 60.0  # from the demo's last line to the digit that is read
OUR_SECONDS = 5.0  # of that, what the person waits for us
CLICKS = 0  # before drawing
MOST_CLICKS = 3  # before a person gives up
DEMO_SECONDS = 1800.0
STOP_SECONDS = 60.0
GIVES_UP_SECONDS = 30.0  # a person, of waiting for one thing
LOOKS_SECONDS = 2.0  # a person, at something new
SECONDS_A_CHARACTER = 0.2  # of an address that is typed
STROKE_SECONDS = 1.8
FRAME_SECONDS = 1 / 60  # between two places of the pointer
VIEWPORT: ViewportSize = {"width": 1280, "height": 720}

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LAST_LINES = re.compile(r"\d+ of \d+ right\..*?(https?://[\w.:]+).*Ctrl-C[^\n]*\n", re.DOTALL)
THREE = (
    *((0.32, 0.24), (0.42, 0.17), (0.55, 0.17), (0.64, 0.26), (0.62, 0.38), (0.48, 0.47)),
    *((0.62, 0.54), (0.67, 0.66), (0.60, 0.79), (0.45, 0.83), (0.32, 0.76)),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--screenshot", type=Path, help="where to keep a picture of the page at the end")
    screenshot = parser.parse_args().screenshot
    with sync_playwright() as playwright, launched(playwright) as browser, TemporaryDirectory() as home:
        page = browser.new_page(viewport=VIEWPORT)
        page.set_default_timeout(GIVES_UP_SECONDS * 1000)
        with demo(Path(home)) as terminal:
            print(f"demo: {terminal.await_end():.1f} s; its last lines:\n{terminal.last_lines()}", flush=True)
            way = walked(page, terminal.address())
            if screenshot:
                page.screenshot(path=screenshot)
            terminal.require_up()
    print(way.told())
    return 0 if way.is_short() else 1


class Terminal:
    """What the demo has written to one, and the process behind it."""

    def __init__(self, process: "subprocess.Popen[bytes]", end: int) -> None:
        self.process, self._began = process, time.monotonic()
        self._text = ""
        self._reader = threading.Thread(target=self._read, args=(end,), daemon=True)
        self._reader.start()

    def _read(self, end: int) -> None:
        with suppress(OSError):  # nobody holds the other side any more
            while written := os.read(end, 65536):
                self._text += ESCAPES.sub("", written.decode(errors="replace")).replace("\r\n", "\n")

    def await_end(self) -> float:
        """Returns, after how many seconds, when the demo has told where to go on."""
        while not LAST_LINES.search(self._text):
            if self.process.poll() is not None or time.monotonic() > self._began + DEMO_SECONDS:
                raise SystemExit(f"the demo did not tell where to go on:\n{self._text[-2000:]}")
            time.sleep(0.02)
        return time.monotonic() - self._began

    def last_lines(self) -> str:
        found = LAST_LINES.search(self._text)
        assert found is not None
        return found[0].strip()

    def address(self) -> str:
        """The only one that the last lines tell."""
        (address,) = set(re.findall(r"https?://[\w.:]+", self.last_lines()))
        return str(address)

    def require_up(self) -> None:
        if self.process.poll() is not None:
            raise SystemExit(f"the demo ended with status {self.process.returncode} instead of staying")


@contextmanager
def demo(home: Path) -> Iterator[Terminal]:
    """`numeral demo` as the Makefile starts it, in a terminal of its own, on a free port; ended by Ctrl-C."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"NUMERAL_HOME": str(home), "NUMERAL_PORT": "0", "COLUMNS": "100"}
    environment.pop("DEMO_EXIT", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "service.cli", "demo"],
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise SystemExit("the demo did not stop at Ctrl-C") from None
        os.close(ours)
    if status != 0:
        raise SystemExit(f"the demo ended with status {status} at Ctrl-C")


@dataclass(frozen=True)
class Way:
    """Seconds since the demo's last line, how much of them we were waited for, and what was read."""

    shown: float
    stroke: float
    read: float
    ours: float
    pages: int
    clicks: int
    digit: str
    probabilities: Sequence[str]

    def is_short(self) -> bool:
        return self.read <= WHOLE_SECONDS and self.ours <= OUR_SECONDS and self.clicks <= CLICKS

    def told(self) -> str:
        return (
            f"page shown {self.shown:.1f} s after the demo's last line, first stroke possible at {self.stroke:.1f} s, "
            f"digit read at {self.read:.1f} s (at most {WHOLE_SECONDS:.0f})\n"
            f"of that waited for the service {self.ours:.2f} s (at most {OUR_SECONDS:.0f}), "
            f"the rest is a person who reads, types and draws\n"
            f"{self.pages} page, {self.clicks} clicks before drawing (at most {CLICKS})\n"
            f"a three was drawn, and read as {self.digit}: {', '.join(self.probabilities)}"
        )


def walked(page: Page, address: str) -> Way:
    """From the address in a terminal to a digit that is read."""
    began = time.monotonic()
    pages: list[str] = []
    page.on("framenavigated", lambda frame: pages.append(frame.url))
    time.sleep(LOOKS_SECONDS + SECONDS_A_CHARACTER * len(address))
    asked = time.monotonic()
    page.goto(address, wait_until="commit")
    page.get_by_role("heading", level=1).wait_for()
    shown = time.monotonic()
    paper, clicks = found(page)
    possible = time.monotonic()
    time.sleep(LOOKS_SECONDS)
    drawn = draw(page, paper)
    digit, probabilities = answer(page)
    read = time.monotonic()
    ours = (possible - asked) + (read - drawn)
    return Way(shown - began, possible - began, read - began, ours, len(pages), clicks, digit, probabilities)


def found(page: Page) -> tuple[Locator, int]:
    """Where to draw, as soon as a pointer can, and how many clicks led there."""
    paper = page.get_by_role("img", name="Drawing area")
    for clicks in range(MOST_CLICKS):
        try:
            paper.wait_for()
        except NotShown:
            page.get_by_role("link", name="Draw", exact=True).click()
            continue
        _require_in_sight(paper)
        paper.click(trial=True)  # nothing lies over it, and it takes the pointer
        page.get_by_text("Draw here").wait_for()
        return paper, clicks
    raise SystemExit("nowhere to draw was found")


def _require_in_sight(paper: Locator) -> None:
    """Without scrolling."""
    box = paper.bounding_box()
    if box is None or box["y"] < 0 or box["y"] + box["height"] > VIEWPORT["height"]:
        raise SystemExit(f"one has to scroll before one can draw: the sheet is at {box}")


def draw(page: Page, paper: Locator) -> float:
    """A three in one stroke, as fast as people draw. Returns when the pen is up."""
    box = paper.bounding_box()
    assert box is not None
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in THREE]
    page.mouse.move(*points[0])
    page.mouse.down()
    began, pieces = time.monotonic(), len(points) - 1
    while (past := (time.monotonic() - began) / STROKE_SECONDS * pieces) < pieces:
        (x, y), (next_x, next_y) = points[int(past) : int(past) + 2]
        share = past - int(past)
        page.mouse.move(x + share * (next_x - x), y + share * (next_y - y))
        time.sleep(FRAME_SECONDS)
    page.mouse.move(*points[-1])
    page.mouse.up()
    return time.monotonic()


def answer(page: Page) -> tuple[str, Sequence[str]]:
    """The digit that the whole drawing was read as, and what is shown of the three likeliest. The page says it aloud
    when the answer to the last stroke has been there for 0.4 seconds."""
    page.get_by_role("status").filter(has_text="Read as").wait_for(state="attached")
    bars = page.get_by_role("list", name="Probability of each digit").get_by_role("listitem").all()
    likeliest = sorted((bar.inner_text().split() for bar in bars), key=_share, reverse=True)
    return page.locator("output").inner_text(), [" ".join(shown) for shown in likeliest[:3]]


def _share(shown: Sequence[str]) -> float:
    """Of a bar's words, such as `3 98.1 %` or `5 < 0.1 %`, which is less than 0.1 %."""
    return float(shown[-2]) - ("<" in shown)


if __name__ == "__main__":
    sys.exit(main())
