"""Jobs are submitted, watched live without a gap, steered and compared."""

import json
from typing import Any

from playwright.sync_api import Browser, Page, expect

from service.client import Job
from tests.acceptance.conftest import until
from tests.browser.conftest import Proxy, Site, opened

STEPS = """(document.querySelector("#loss").series ?? [])
    .filter((one) => one.label === "test").flatMap((one) => one.points.map((point) => point[0]))"""


def steps_of(page: Page) -> list[int]:
    """Those of which the page shows a test loss."""
    found: list[int] = page.evaluate(STEPS)
    return found


def steps_told(site: Site, job: Job, up_to: int) -> list[int]:
    """Those of which the service has one."""
    answer = site.service.client.call(
        "GET", f"/v1/jobs/{job.id}/metrics", params={"name": "test_loss", "limit": 10_000}
    )
    return [point["step"] for point in answer["data"] if point["step"] <= up_to]


def grows(page: Page, beyond: int) -> int:
    """Wait for points; how many there are."""
    until(lambda: len(steps_of(page)) > beyond, f"more than {beyond} points", 60)
    return len(steps_of(page))


def test_a_preset_is_submitted_and_watched(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/train")
    expect(page.locator("[data-figure=parameters]")).to_have_text("25,450")
    page.get_by_role("radio", name="simulated-wide").check()
    expect(page.locator("[data-figure=parameters]")).to_have_text("46")
    page.locator("[data-pointer='/seed'] input").fill("3")
    page.locator("[data-pointer='/steps'] input").fill("400")
    expect(page.locator("#changes")).to_contain_text('"steps": 400')
    assert json.loads(page.evaluate("decodeURIComponent(location.hash.slice(1))")) == {
        "preset": "simulated-wide",
        "spec": {"seed": 3, "steps": 400},
    }
    page.get_by_role("button", name="Train", exact=True).click()
    page.wait_for_url("**/jobs/job_*")
    expect(page.locator("#state")).to_have_text("succeeded", timeout=60_000)
    expect(page.locator("#fit-step")).to_contain_text("step 400")
    page.locator("#scrub").fill("0")
    expect(page.locator("#fit-step")).to_contain_text("step 0")
    expect(page.locator("#published-rows tr")).not_to_have_count(0)
    with page.expect_download() as saved:
        page.get_by_role("link", name="For TensorBoard").click()
    assert saved.value.suggested_filename == f"events.out.tfevents.{page.url.rpartition('/')[2]}"


def test_a_mistake_stands_at_its_field(site: Site, browser: Browser) -> None:
    with opened(browser, may_complain=True) as page:  # a 422 is an error to the console
        page.goto(f"{site.url}/train")
        page.get_by_label("Hidden widths").fill("32, 0")
        field = page.locator("[data-pointer='/network/hidden_widths']")
        expect(field.locator(".mistake")).to_contain_text("greater than or equal to 1")
        expect(page.get_by_label("Hidden widths")).to_have_attribute("aria-invalid", "true")
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_disabled()
        page.get_by_label("Hidden widths").fill("32")
        expect(field.locator(".mistake")).to_have_count(0)
        expect(page.get_by_role("button", name="Train", exact=True)).to_be_enabled()


def test_a_link_holds_what_was_asked_for(site: Site, browser: Browser) -> None:
    with opened(browser) as page:
        page.goto(f"{site.url}/train?job={site.second.id}")
        expect(page.get_by_label("Hidden widths")).to_have_value("64")
        expect(page.locator("[data-figure=parameters]")).to_have_text("50,890")
        address = page.url
        page.goto("about:blank")
        page.goto(address)
        expect(page.get_by_label("Hidden widths")).to_have_value("64")
        expect(page.locator("#changes")).to_contain_text('"every_steps": 200')


def test_watched_live_and_reloaded_in_the_middle(site: Site, page: Page, endless: Job) -> None:
    page.goto(f"{site.url}/jobs/{endless.id}")
    count = grows(page, 5)
    page.reload()
    grows(page, count + 5)
    shown = steps_of(page)
    assert shown == steps_told(site, endless, shown[-1])


def test_a_cut_network_leaves_no_gap(site: Site, browser: Browser, endless: Job, proxy: Proxy) -> None:
    with opened(browser, may_complain=True) as page:  # of the connection that is lost
        page.goto(f"{proxy.url}/jobs/{endless.id}")
        count = grows(page, 5)
        proxy.cut()
        expect(page.locator("#link-state")).to_contain_text("connection lost")
        step = site.service.step(endless.id)
        until(lambda: site.service.step(endless.id) > step + 1000, "it trains on meanwhile")
        proxy.mend()
        expect(page.locator("#link-state")).to_be_empty(timeout=30_000)
        grows(page, count + 5)
        shown = steps_of(page)
        assert shown == steps_told(site, endless, shown[-1])


def test_pause_resume_and_cancel(site: Site, page: Page, endless: Job) -> None:
    page.goto(f"{site.url}/jobs/{endless.id}")
    state = page.locator("#state")
    page.get_by_role("button", name="Pause").click()
    expect(state).to_have_text("paused", timeout=30_000)
    page.get_by_role("button", name="Resume").click()
    expect(state).to_have_text("running", timeout=30_000)
    page.get_by_role("button", name="Cancel").click()
    expect(state).to_have_text("cancelled", timeout=30_000)
    expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
    assert site.service.client.jobs.get(endless.id).state == "cancelled"


def test_two_runs_are_compared(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs")
    for job in (site.first, site.second):
        page.locator(f"[data-job={job.id}]").check()
    page.get_by_role("link", name="Compare 2").click()
    expect(page.locator("#rows tr")).to_have_count(2)
    expect(page.locator("#differences tr")).to_have_count(1)
    expect(page.locator("#differences")).to_contain_text("seed")
    expect(page.locator("#tests tr")).to_have_count(1)
    page.get_by_role("button", name="test loss").click()
    assert losses(site) == sorted(losses(site), reverse=page_is_falling(page))
    series: list[dict[str, Any]] = page.evaluate("document.querySelector('#chart').series")
    assert [len(one["points"]) for one in series] == [6, 6]


def losses(site: Site) -> list[float]:
    return sorted(job.metrics["test_loss"] for job in (site.first, site.second))


def page_is_falling(page: Page) -> bool:
    return page.locator("#heads [aria-sort=descending]").count() == 0
