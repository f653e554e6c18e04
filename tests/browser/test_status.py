"""The Status view: who works, and how full the GPUs are."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from service.running import broker
from service.settings import Settings
from service.store import workers
from tests.browser.conftest import Colours, Size, opened
from tests.integration.conftest import Live, serving

GPU = {"gpu_memory_used_bytes": 35 * 2**30, "gpu_memory_total_bytes": 140 * 2**30, "gpu_utilization": 0.87}


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    """An API with a broker and no workers."""
    settings = Settings(home=tmp_path, port=0)
    process = broker.start(settings)
    try:
        with serving(Settings(home=tmp_path, port=0, broker_url=broker.url(settings))) as running:
            yield running
    finally:
        process.kill()
        process.wait()


def test_the_memory_of_a_gpu_is_shown_where_it_is_told(live: Live, browser: Browser) -> None:
    for size, colours in product(get_args(Size), get_args(Colours)):
        for name, figures in (("far:1:0", GPU), ("near:2:0", {"steps": 5})):
            workers.seen(
                live.db, name, queues=["gpu"], device=f"NVIDIA of {name}", job_id=None, figures=figures
            )
        with opened(browser, size, colours) as page:
            page.goto(f"{live.url}/status")
            far = page.get_by_role("row").filter(has_text="far:1:0")
            expect(far).to_contain_text("35.0 GiB of 140 GiB, 87 % at work")
            bar = far.get_by_role("progressbar", name="Memory taken of the GPU of far:1:0")
            assert float(bar.get_attribute("value") or 0) == 0.25
            near = page.get_by_role("row").filter(has_text="near:2:0")
            expect(near).to_contain_text("NVIDIA of near:2:0")
            expect(near.get_by_role("progressbar")).to_have_count(0)
            found = Axe().run(page).response["violations"]
            assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"
