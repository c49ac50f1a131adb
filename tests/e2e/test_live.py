import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs
from playwright.sync_api import Request, expect

pytestmark = pytest.mark.browser
WRITER = Path(__file__).parent / "live_writer.py"


def asks(request: Request) -> bool:
    """Tell whether a request is the clock of the flow page asking for news."""
    return "_dash-update-component" in request.url and "flow-tick.n_intervals" in (request.post_data or "")


class Live:
    """A run written by another process, one step at a time."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, str(WRITER), str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait() == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Live]]:
    started: list[Live] = []

    def make(name: str) -> Live:
        started.append(Live(tmp_path / name))
        return started[-1]

    yield make
    for live in started:
        live.kill()


@pytest.fixture
def site(site_of: Callable[[Any], Any], tmp_path: Path) -> Iterator[Any]:
    opened = site_of(str(tmp_path))
    yield opened
    assert opened.troubles == []


def test_an_empty_folder_fills(site: Any, start: Callable[[str], Live]) -> None:
    page = site.open("/")
    expect(page.locator("#runs-empty")).to_contain_text("gs.watch(model, optimizer")
    live = start("first")
    row = page.locator(".ag-center-cols-container .ag-row[row-id='first']")
    expect(row).to_contain_text("running")
    expect(page.locator("#runs-empty")).to_be_empty()
    live.close()
    expect(row).to_contain_text("finished")


def test_a_live_run_grows_on_screen(site: Any, start: Callable[[str], Live]) -> None:
    live = start("live")
    page = site.open("/flow?run=live")
    text = page.locator("#flow-step-text")
    expect(text).to_have_text("10 of 0 to 10")
    expect(page.locator("#flow-head")).to_contain_text("running")
    for step in (20, 30, 40):
        live.step()
        expect(text).to_have_text(f"{step} of 0 to {step}")
        expect(page.locator("#flow-profile .gtitle-subtitle")).to_contain_text(f"step {step}")
        expect(page.locator("#flow-heatmap .gtitle-subtitle")).to_contain_text(f"{step // 10 + 1} recorded steps")
    assert site.query() == "/flow?run=live"
    live.close()
    expect(page.locator("#flow-head")).to_contain_text("finished")


def test_a_chosen_step_stays_while_the_run_grows(site: Any, start: Callable[[str], Live]) -> None:
    live = start("live")
    page = site.open("/flow?run=live&step=0")
    text = page.locator("#flow-step-text")
    expect(text).to_have_text("0 of 0 to 10")
    live.step()
    expect(text).to_have_text("0 of 0 to 20")
    expect(page.locator("#flow-profile .gtitle-subtitle")).to_contain_text("step 0")


def test_a_killed_writer_shows_as_interrupted(site: Any, start: Callable[[str], Live]) -> None:
    live = start("live")
    page = site.open("/flow?run=live")
    expect(page.locator("#flow-head")).to_contain_text("running")
    live.kill()
    expect(page.locator("#flow-head")).to_contain_text("interrupted")


def test_nothing_is_asked_twice_at_once(site: Any, start: Callable[[str], Live]) -> None:
    start("live")
    page = site.open("/flow?run=live")
    expect(page.locator("#flow-step-text")).to_have_text("10 of 0 to 10")
    waiting: set[Request] = set()
    most = 0

    def begin(request: Request) -> None:
        nonlocal most
        if asks(request):
            waiting.add(request)
            most = max(most, len(waiting))

    def end(request: Request) -> None:
        waiting.discard(request)

    page.on("request", begin)
    page.on("requestfinished", end)
    for _ in range(3):
        page.wait_for_event("requestfinished", asks)
    assert most == 1


def test_a_corrupt_run_is_a_row_with_its_error(site: Any, tmp_path: Path) -> None:
    synthetic_runs.write(tmp_path / "good")
    synthetic_runs.write(tmp_path / "bad")
    (tmp_path / "bad" / "run.json").write_text("{")
    page = site.open("/")
    row = page.locator(".ag-center-cols-container .ag-row[row-id='bad']")
    expect(row).to_contain_text("unreadable")
    expect(row).to_contain_text("run.json is not valid JSON")
    expect(page.locator(".ag-center-cols-container .ag-row[row-id='good']")).to_contain_text("finished")
    page.locator("a.run", has_text="bad").click()
    expect(page.locator("#flow-head")).to_contain_text("run.json is not valid JSON")
    page.get_by_role("link", name="Sweep").click()
    expect(page.locator("#sweep-empty")).to_contain_text("There is one run that can be read")
