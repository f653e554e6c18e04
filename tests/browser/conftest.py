"""The page as people use it: Debian's Chromium before a real service with a network that it has trained."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, sync_playwright

from service.client import Job
from tests.acceptance.conftest import Service, free_port, running
from tests.conftest import missing

Size = Literal["desk", "phone"]
Colours = Literal["light", "dark"]

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
SIZES: dict[Size, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 860}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
}
READER = {
    "network": {"hidden_widths": [64]},
    "epochs": 2,
    "evaluation": {"every_steps": 200, "train_examples": 500},
    "precision": "float32",
}
ENDLESS = {  # until it is cancelled: a figure every few steps, and no checkpoints in between
    "dataset": {"examples": 1000},
    "network": {"hidden_widths": [16]},
    "steps": 5_000_000,
    "batch_size": 100,
    "evaluation": {"every_steps": 200, "train_examples": 100},
    "checkpoints": {"every_epochs": None},
}
THREE = (
    *((0.32, 0.24), (0.42, 0.17), (0.55, 0.17), (0.64, 0.26), (0.62, 0.38), (0.48, 0.47)),
    *((0.62, 0.54), (0.67, 0.66), (0.60, 0.79), (0.45, 0.83), (0.32, 0.76)),
)


@dataclass(frozen=True)
class Site:
    """A running service and two jobs that have succeeded."""

    service: Service
    first: Job
    second: Job

    @property
    def url(self) -> str:
        return self.service.url


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("home"), NUMERAL_WORKERS="1") as service:
        jobs = [service.client.jobs.create({**READER, "seed": seed}) for seed in (0, 1)]
        first, second = (service.client.jobs.wait(job.id) for job in jobs)
        yield Site(service, first, second)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One a file: while it is there an event loop runs in this thread, which other tests cannot do with."""
    binary = next((found for name in CHROMIUMS if (found := shutil.which(name))), None)
    if binary is None:
        missing("Chromium (apt-get install chromium)")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=options)
        yield browser
        browser.close()


@dataclass
class Watch:
    """What no page may do: ask another host, or complain."""

    complaints: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def on(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)

    def _heard(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.complaints.append(said.text)

    def let_through(self, route: Route) -> None:
        """Anything that would leave this machine ends here, and is noted."""
        address = urlsplit(route.request.url)
        if address.scheme in ("http", "https") and address.hostname != "127.0.0.1":
            self.strangers.append(route.request.url)
            route.abort()
        else:
            route.fallback()


@contextmanager
def opened(
    browser: Browser, size: Size = "desk", colours: Colours = "light", *, may_complain: bool = False
) -> Iterator[Page]:
    """A page of its own, with nothing kept from another."""
    context: BrowserContext = browser.new_context(**SIZES[size], color_scheme=colours)
    watch = Watch()
    context.route("**/*", watch.let_through)
    page = context.new_page()
    watch.on(page)
    try:
        yield page
    finally:
        context.close()
    assert watch.strangers == []
    assert may_complain or watch.complaints == []


@pytest.fixture(params=["desk", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Page]:
    with opened(browser, request.param) as page:
        yield page


@pytest.fixture
def endless(site: Site) -> Iterator[Job]:
    """A job that trains until the test has seen enough."""
    job = site.service.start(ENDLESS, at_step=400)
    yield job
    with suppress(Exception):
        site.service.client.jobs.cancel(job.id)
    site.service.client.jobs.wait(job.id)


def draw_three(page: Page) -> None:
    """With the mouse, from the top."""
    box = page.locator("digit-pad .paper").bounding_box()
    assert box is not None
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in THREE]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


class Proxy:
    """A wire to the service that can be cut and mended."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.port = free_port()
        self._open: list[socket.socket] = []
        self._guard = threading.Lock()
        self._listening: socket.socket | None = None
        self.mend()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def mend(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        """Every connection breaks, and no new one is taken."""
        with self._guard:
            ends, self._open = self._open, []
        for end in [self._listening, *ends]:
            if end is not None:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listening.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                with self._guard:
                    self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(site: Site) -> Iterator[Proxy]:
    wire = Proxy(urlsplit(site.url).port or 0)
    yield wire
    wire.cut()
