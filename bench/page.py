"""How soon a drawn digit is read on the page, and what each view weighs: a browser before a service that runs.

python -m bench.page http://127.0.0.1:8000
"""

import argparse
import os
import random
import shutil
import statistics
from typing import Any

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

STROKES = 30
WARM_UP = 3
VIEWS = ("/", "/train", "/jobs", "/compare", "/look", "/models", "/status", "/docs")
TAKEN = "performance.getEntriesByName('stroke-to-answer').map((one) => one.duration)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    url = parser.parse_args().url
    with sync_playwright() as playwright, launched(playwright) as browser:
        taken = sorted(strokes(browser.new_page(), url)[WARM_UP:])
        print(
            f"last stroke to answer, {len(taken)} drawings: median {statistics.median(taken):.0f} ms, "
            f"ninth tenth {taken[int(0.9 * len(taken))]:.0f} ms"
        )
        for view in VIEWS:
            size, requests = weight(browser.new_context().new_page(), url + view)
            print(f"{view:10} {size / 1000:6.1f} KB over the wire in {requests} requests")


def launched(playwright: Playwright) -> Browser:
    """The system's own Chromium. Use as a context."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=binary, args=options)


def strokes(page: Page, url: str) -> list[float]:
    """Milliseconds from the end of the last stroke until its probabilities are shown."""
    page.goto(url)
    chance = random.Random(0)  # noqa: S311 - drawings, not secrets
    for number in range(STROKES):
        box: Any = page.locator("digit-pad .paper").bounding_box()
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        for _ in range(4):
            x, y = (0.25 + 0.5 * chance.random() for _ in range(2))
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        page.mouse.up()
        while (
            page.evaluate(f"{TAKEN}.length") <= number
        ):  # the policy forbids what would wait within the page
            page.wait_for_timeout(10)
        page.get_by_role("button", name="Clear").click()
    found: list[float] = page.evaluate(TAKEN)
    return found


def weight(page: Page, address: str) -> tuple[int, int]:
    """Bytes of the page with its scripts and styles, without what it then asks the API."""
    asked: list[Any] = []
    page.on("requestfinished", lambda request: asked.append(request))
    page.goto(address)
    page.wait_for_timeout(1000)
    own = [one.sizes() for one in asked if "/v1/" not in one.url]
    return sum(one["responseBodySize"] + one["responseHeadersSize"] for one in own), len(own)


if __name__ == "__main__":
    main()
