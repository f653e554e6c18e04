"""A service that asks for an API key: the page asks for it once, and goes on."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.acceptance.conftest import running
from tests.browser.conftest import Size, opened


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_a_key_is_asked_for_once(browser: Browser, tmp_path: Path, size: Size) -> None:
    file = tmp_path / "admin.key"
    with (
        running(tmp_path / "home", NUMERAL_AUTH="on", NUMERAL_ADMIN_KEY_FILE=str(file)) as service,
        opened(browser, size, may_complain=True) as page,  # a refusal is told on the console
    ):
        page.goto(f"{service.url}/jobs")
        dialog = page.get_by_role("dialog", name="An API key, please")
        dialog.get_by_label("API key").fill("num_aaaaaaaa_no-such-key")
        dialog.get_by_role("button", name="Go on").click()
        expect(dialog.get_by_role("alert")).to_have_text("This key is not good here.")
        dialog.get_by_label("API key").fill(file.read_text().strip())
        dialog.get_by_label("API key").press("Enter")
        expect(dialog).to_have_count(0)
        page.goto(f"{service.url}/models")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        page.wait_for_load_state("networkidle")
        expect(dialog).to_have_count(0)
