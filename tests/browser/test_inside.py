"""Mistakes, weights and models, looked at and steered."""

from playwright.sync_api import Page, expect

from tests.browser.conftest import Site, draw_three


def test_a_cell_of_the_confusion_matrix_opens_its_images(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/look?job={site.first.id}")
    expect(page.locator("#tiles canvas")).to_have_count(64)
    cell = page.locator("#confusion button").first
    told = cell.get_attribute("aria-label") or ""
    pair, _, number = told.partition(": ")
    cell.click()
    expect(page.locator("#gallery-title")).to_have_text(f"{pair}: {number}, worst first")
    expect(page.locator("#gallery button")).to_have_count(min(int(number), 24))
    page.locator("#gallery button").first.click()
    expect(page.locator("#layers .layer")).to_have_count(2)
    page.get_by_role("button", name="All mistakes").click()
    expect(page.locator("#gallery-title")).to_contain_text("mistakes, worst first")


def test_a_drawn_digit_goes_through_the_network(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/look?job={site.first.id}")
    page.wait_for_load_state("networkidle")  # mistakes that come later would move the paper away
    page.locator("#pad").scroll_into_view_if_needed()
    draw_three(page)
    expect(page.locator("#read")).to_contain_text("Read as 3")
    page.get_by_label("why it is").select_option("8")
    expect(page.locator("#read")).to_contain_text("As 8:")
    expect(page.locator("#layers")).to_contain_text("of 64 units active (relu)")


def test_the_preview_moves_with_its_sliders(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/look")
    expect(page.locator("#deformed canvas")).to_have_count(40, timeout=30_000)
    page.locator("#a-rotation").fill("40")
    expect(page.locator("output[for=a-rotation]")).to_have_text("40")
    expect(page.locator("#use")).to_have_attribute(
        "href",
        r"/train#%7B%22spec%22%3A%7B%22augmentation%22%3A%7B%22rotation%22%3A40%2C%22shear%22%3A0%2C%22scale%22%3A0.12%2C%22shift%22%3A0%2C%22elastic%22%3A1%2C%22elastic_sigma%22%3A6%7D%7D%7D",
    )


def test_promote_and_roll_back(site: Site, page: Page) -> None:
    client = site.service.client
    name = f"hero-{page.viewport_size['width']}" if page.viewport_size else "hero"
    for job in (site.first, site.second):
        page.goto(f"{site.url}/models?model={job.model_id}")
        expect(page.locator("#card-title")).to_contain_text("Version")
        page.get_by_label("Point", exact=True).fill(name)
        page.get_by_label("only if it reads the test set no worse").uncheck()
        page.get_by_role("button", name="Promote").click()
        expect(page.locator("#card-tags")).to_contain_text(name)
    assert client.call("GET", f"/v1/aliases/{name}")["model"] == site.second.model_id
    row = page.locator("#aliases tr", has_text=name)
    row.get_by_role("button", name="Roll back").click()
    expect(page.locator("#toasts")).to_contain_text("again")
    assert client.call("GET", f"/v1/aliases/{name}")["model"] == site.first.model_id
    row.get_by_role("button", name="History").click()
    expect(page.locator("#moves li")).to_have_count(3)
    page.get_by_role("button", name="Close").click()
    page.goto(f"{site.url}/?model={site.first.model_id}")
    draw_three(page)
    expect(page.locator("#numeral")).to_have_text("3")
