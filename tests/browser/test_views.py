"""What holds of every view: it is accessible in every size and colour, small, and by itself."""

import re
from typing import Any, get_args

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Colours, Site, Size, draw_three, opened

VIEWS = (
    "/",
    "/train",
    "/jobs",
    "/jobs/{job}",
    "/compare?jobs={job},{other}",
    "/look",
    "/models",
    "/data",
    "/status",
    "/docs",
)
MOST_BYTES = 150_000
LEAST_TARGET = 43.5  # 44 CSS pixels, less what rounding takes
TARGETS = "button:not(.confusion *), .button, select, nav a, summary, input[type=text], input[type=search], input[type=range]:not(.slider *)"
TOO_SMALL = """([selector, least]) => [...document.querySelectorAll(selector)]
    .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.closest("[hidden], .hush"))
    .map((one) => [one.outerHTML.slice(0, 90), one.getBoundingClientRect()])
    .filter(([, box]) => box.height > 0 && (box.height < least || box.width < least))
    .map(([text, box]) => `${text} ${box.width}x${box.height}`)"""


def shown(page: Page, site: Site, view: str) -> None:
    page.goto(site.url + view.format(job=site.first.id, other=site.second.id))
    page.wait_for_load_state("networkidle" if view not in ("/jobs", "/status") else "load")
    page.wait_for_timeout(300)


@pytest.mark.parametrize("size", get_args(Size))
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious(site: Site, browser: Browser, view: str, size: Size) -> None:
    for colours in get_args(Colours):
        with opened(browser, size, colours) as page:
            shown(page, site, view)
            if view == "/":
                draw_three(page)
                expect(page.locator("#numeral")).to_have_text("3")
            found = Axe().run(page).response["violations"]
            assert [_told(one) for one in found if one["impact"] in ("serious", "critical")] == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
            assert page.evaluate(TOO_SMALL, [TARGETS, LEAST_TARGET]) == []


def _told(violation: Any) -> str:
    nodes = "; ".join(node["html"][:160] for node in violation["nodes"][:4])
    return f"{violation['id']}: {violation['help']}: {nodes}"


@pytest.mark.parametrize("view", VIEWS)
def test_the_first_paint_is_small(site: Site, browser: Browser, view: str) -> None:
    with opened(browser) as page:
        asked: list[Any] = []
        page.on("requestfinished", lambda request: asked.append(request))
        shown(page, site, view)
        sizes = {one.url: one.sizes() for one in asked if "/v1/" not in one.url}
        total = sum(one["responseBodySize"] + one["responseHeadersSize"] for one in sizes.values())
        assert 0 < total <= MOST_BYTES


@pytest.mark.parametrize("view", VIEWS)
def test_the_policy_is_strict(site: Site, view: str) -> None:
    answer = httpx.get(
        site.url + view.format(job=site.first.id, other=site.second.id), headers={"Accept": "text/html"}
    )
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", answer.text)
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text)


def test_the_keyboard_reaches_the_content_and_the_colours(site: Site, browser: Browser) -> None:
    with opened(browser) as page:
        page.goto(f"{site.url}/status")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#main")).to_be_focused()
        expect(page.locator("#verdict")).to_have_text("Ready")
        paper = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(paper)
        page.locator("#theme").focus()
        page.keyboard.press("Enter")
        assert page.evaluate(paper) == light
        page.keyboard.press("Enter")
        dark = page.evaluate(paper)
        assert dark != light
        page.reload()
        assert page.evaluate(paper) == dark
