"""Digits drawn, pasted and uploaded are read, on a desk and on a phone."""

import base64
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import Site, draw_three

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
PASTE = """(text) => {
    const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([bytes], "seven.png", { type: "image/png" }));
    dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
}"""


def test_a_three_is_drawn_and_read(site: Site, page: Page) -> None:
    page.goto(site.url)
    expect(page.locator("#share")).to_have_text("Nothing drawn yet")
    draw_three(page)
    expect(page.locator("#numeral")).to_have_text("3")
    expect(page.locator("#spoken")).to_contain_text("Read as 3")
    expect(page.locator("#bars [aria-label^='3: ']")).to_have_class("bar likeliest")
    assert page.evaluate("performance.getEntriesByName('stroke-to-answer').length") == 1
    seen = page.evaluate(
        """() => { const canvas = document.querySelector("#seen");
        return [...canvas.getContext("2d").getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0); }"""
    )
    assert len(seen) == 784
    assert max(seen) > 200  # white ink
    assert not any(seen[:28])  # on black

    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#numeral")).to_have_class("numeral none")
    draw_three(page)
    page.get_by_role("button", name="Clear").click()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()


def test_a_picture_is_pasted(site: Site, page: Page) -> None:
    page.goto(site.url)
    expect(page.locator("#model option")).not_to_have_count(1)
    page.evaluate(PASTE, base64.b64encode((IMAGES / "seven.png").read_bytes()).decode())
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page.locator("#rows tr")).to_contain_text("seven.png")
    expect(page.locator("#numeral")).to_have_text("7")


def test_several_pictures_become_a_table_and_a_csv(site: Site, page: Page, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page.goto(site.url)
    page.locator("#files").set_input_files([IMAGES / "seven.png", IMAGES / "two.png", broken])
    expect(page.locator("#rows tr")).to_have_count(3)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as CSV").click()
    header, seven, two, unread = download.value.path().read_text().splitlines()
    assert header.startswith("file,label,confidence,p0,p1")
    assert seven.startswith("seven.png,7,")
    assert two.startswith("two.png,2,")
    assert unread.startswith("broken.png,,,")
