"""One browser page per module; any console error, failed request or request to elsewhere fails the test."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "figures"))

import synthetic_runs
from playwright.sync_api import Browser, Page, Request, Response, expect, sync_playwright

from gradscope.dashboards import build_server

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
VIEWPORT = {"width": 1400, "height": 900}
PATIENCE_MS = 20_000
"""How long a page may take: on a busy machine, long."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        # A user may go without; a change must not land without them.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the browser tests need chromium on the PATH")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


@contextmanager
def served(source: Any) -> Iterator[Any]:
    """Serve a dashboard on a free port of this machine."""
    server = build_server(source, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Site:
    """A page in the browser and what went wrong in it."""

    def __init__(self, page: Page, server: Any) -> None:
        self.page = page
        self.server = server
        self.address = f"http://127.0.0.1:{server.port}"
        self.troubles: list[str] = []
        page.on("console", lambda one: self._note(one.type in ("error", "warning"), f"{one.type}: {one.text}"))
        page.on("pageerror", lambda error: self._note(True, f"exception: {error}"))
        page.on("request", self._request)
        page.on("response", self._response)

    def _note(self, wrong: bool, text: str) -> None:
        if wrong:
            self.troubles.append(text)

    def _request(self, request: Request) -> None:
        own = request.url.startswith((self.address, "data:", "blob:"))
        self._note(not own, f"request to elsewhere: {request.url}")

    def _response(self, response: Response) -> None:
        self._note(response.status >= 400, f"answer {response.status}: {response.url}")

    def open(self, path: str) -> Page:
        """Open a path of the dashboard."""
        self.page.goto(self.address + path)
        return self.page

    def query(self) -> str:
        """Return path and query of the address bar."""
        return self.page.url.removeprefix(self.address)


@pytest.fixture(scope="module")
def site_of(browser: Browser) -> Iterator[Callable[[Any], Site]]:
    """Open dashboards, each with a page of its own that lasts as long as the module."""
    closing: list[Callable[[], Any]] = []

    def make(source: Any) -> Site:
        serving = served(source)
        server = serving.__enter__()
        closing.append(lambda: serving.__exit__(None, None, None))
        context = browser.new_context(viewport=VIEWPORT)
        closing.append(context.close)
        context.set_default_timeout(PATIENCE_MS)
        return Site(context.new_page(), server)

    yield make
    for close in reversed(closing):
        close()


@pytest.fixture
def site(shared: Site) -> Iterator[Site]:
    """The page of a module's dashboard; what went wrong in it fails the test."""
    shared.troubles.clear()
    yield shared
    assert shared.troubles == []


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("e2e")
    synthetic_runs.write(root / "plain")
    synthetic_runs.write(root / "spoiled", depth=12, spoil="zero nan")
    synthetic_runs.write(root / "deep", depth=99, rate=0.9, steps=range(0, 3000, 10))
    synthetic_runs.write_sweep(root / "sweep", depths=(2, 8), seeds=1)
    return root
