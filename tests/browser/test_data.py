"""The loop on the page: an answer corrected, labelled, made a dataset; a file uploaded; a promotion refused."""

from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect

from tests.archives import examples, of_arrays, zipped
from tests.browser.conftest import Site, draw_three, opened

HOPELESS = {"dataset": {"examples": 100}, "network": {"hidden_widths": [4]}, "steps": 1, "batch_size": 100}


def test_a_wrong_answer_is_corrected_and_learnt_from(site: Site, page: Page) -> None:
    with httpx.Client(base_url=site.url) as http:
        for old in http.get("/v1/feedback", params={"limit": 100}).json()["data"]:
            http.delete(f"/v1/feedback/{old['id']}")
        page.goto(site.url)
        expect(page.locator("#truth button").first).to_be_disabled()
        draw_three(page)
        expect(page.locator("#numeral")).to_have_text("3")
        page.get_by_text("Read wrong? Say what it is").click()
        assert http.get("/v1/feedback").json()["kept"] == 0  # nothing is kept that nobody asked to keep
        page.get_by_role("group", name="It is").get_by_role("button", name="8").click()
        expect(page.locator("#kept")).to_contain_text("Kept as 8")
        page.get_by_role("group", name="It is").get_by_role("button", name="3").click()
        expect(page.locator("#kept")).to_contain_text("Kept as 3")
        (kept,) = http.get("/v1/feedback").json()["data"]
        assert (kept["predicted"], kept["label"]) == (3, 3)
        page.get_by_role("button", name="Delete it").click()
        expect(page.locator("#kept")).to_be_empty()
        assert http.get("/v1/feedback").json()["kept"] == 0
        page.get_by_role("group", name="It is").get_by_role("button", name="8").click()
        expect(page.locator("#kept")).to_contain_text("Kept as 8")

        page.goto(f"{site.url}/data")
        expect(page.locator("#kept li")).to_have_count(1)
        expect(page.locator("#counts")).to_have_text("1 kept, 1 of them labelled")
        page.get_by_label("What it is").select_option("")
        expect(page.locator("#counts")).to_have_text("1 kept, 0 of them labelled")
        expect(page.get_by_role("button", name="Make of the labelled")).to_be_disabled()
        page.get_by_label("What it is").select_option("3")
        page.get_by_role("button", name="Make of the labelled").click()
        row = page.locator("#datasets tr", has_text="feedback").first
        expect(row).to_contain_text("Train on MNIST and it")
        row.get_by_role("button", name="Look").click()
        expect(page.locator("#sample")).to_have_js_property("complete", value=True, timeout=60_000)
        assert page.locator("#sample").evaluate("(image) => image.naturalWidth") > 100
        page.get_by_role("button", name="Close").click()
        row.get_by_role("link").click()
        expect(page.locator("[data-figure=parameters]")).to_have_text("25,450", timeout=30_000)
        expect(page.locator("#changes")).to_contain_text("ds_")
        expect(page.locator("#mistakes")).to_be_empty()

        page.goto(f"{site.url}/data")
        page.get_by_role("button", name="Delete this image").click()
        expect(page.locator("#none")).to_be_visible()
        page.locator("#datasets tr", has_text="feedback").first.get_by_role("button", name="Delete").click()
        expect(page.locator("#datasets tr", has_text="Train on MNIST and it")).to_have_count(0)


def test_a_dataset_is_uploaded_and_mistakes_are_told(site: Site, browser: Browser, tmp_path: Path) -> None:
    images, labels = examples(20)
    good, bad = tmp_path / "good.npz", tmp_path / "bad.zip"
    good.write_bytes(of_arrays(x_train=images, y_train=labels))
    bad.write_bytes(zipped({"3/a.png": b"no picture", "x/b.png": b"no picture"}))
    with opened(browser, may_complain=True) as page:  # Chromium does, of the 422
        page.goto(f"{site.url}/data")
        page.locator("#file").set_input_files(bad)
        page.get_by_role("button", name="Upload").click()
        expect(page.locator("#mistakes p")).to_have_count(3)
        expect(page.locator("#mistakes")).to_contain_text("x/b.png: lies in no folder named by its label")
        page.locator("#file").set_input_files(good)
        page.get_by_role("button", name="Upload").click()
        expect(page.locator("#datasets tr").first).to_contain_text("mine")
        expect(page.locator("#mistakes")).to_be_empty()
        page.locator("#datasets tr").first.get_by_role("button", name="Delete").click()
        expect(page.locator("#datasets tr", has_text="mine")).to_have_count(0)


def test_a_worse_model_is_refused_with_the_numbers(site: Site, browser: Browser) -> None:
    with opened(browser, "phone", may_complain=True) as page:  # Chromium does, of the 409
        _refused_and_promoted(site, page, "guarded")


def _refused_and_promoted(site: Site, page: Page, name: str) -> None:
    client = site.service.client
    worse = client.jobs.wait(client.jobs.create(HOPELESS).id)
    httpx.put(f"{site.url}/v1/aliases/{name}", json={"model": site.first.model_id}).raise_for_status()
    page.goto(f"{site.url}/models?model={worse.model_id}")
    expect(page.locator("#card-title")).to_contain_text("Version")
    page.get_by_label("Point", exact=True).fill(name)
    page.get_by_role("button", name="Promote").click()
    expect(page.locator("#gate")).to_contain_text(f"Refused: {name} stays where it is.")
    expect(page.locator("#gate table")).to_contain_text("Test set of mnist, 10,000")
    assert client.call("GET", f"/v1/aliases/{name}")["model"] == site.first.model_id
    page.get_by_label("only if it reads the test set no worse").uncheck()
    page.get_by_role("button", name="Promote").click()
    expect(page.locator("#card-tags")).to_contain_text(name)
    page.goto(f"{site.url}/models?model={site.first.model_id}")
    page.get_by_label("Point", exact=True).fill(name)
    page.get_by_role("button", name="Promote").click()
    expect(page.locator("#gate")).to_contain_text(f"Promoted: {name} has moved.")
    assert (
        page.locator("#onnx").get_attribute("href")
        == f"/v1/models/{site.first.model_id}/download?format=onnx"
    )
