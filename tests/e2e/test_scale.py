"""Long runs and deep networks on screen: what is zoomed into gets finer, and hours of polling leave nothing behind."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_runs
from playwright.sync_api import Page, TimeoutError, expect

from gradscope.dashboards import blocks
from gradscope.runs import Writer

pytestmark = pytest.mark.browser
LAYERS, STEPS = 300, 1200
POLLS, NEWS_EVERY = 200, 5

DISTANCE = """(graph) => {
    const shown = document.querySelector(`#flow-${graph} .js-plotly-plot`);
    const lines = shown._fullData.map((trace) => Array.from(trace.x || []).filter(Number.isFinite));
    const places = lines.find((one) => one.length > 9) || [];
    return (places[places.length - 1] - places[0]) / (places.length - 1);
}"""
TICKS = """(graph) => {
    const axis = document.querySelector(`#flow-${graph} .js-plotly-plot`)._fullLayout.yaxis;
    const [low, high] = axis.range;
    return high - low < 1 && axis._vals.filter((one) => one.x >= low && one.x <= high && one.text).length >= 3;
}"""
RANGE = """([graph, axis]) => {
    const shown = document.querySelector(`#flow-${graph} .js-plotly-plot`);
    return Array.from(shown._fullLayout[axis].range);
}"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of many layers and steps, with a layer of zeros and one of NaN."""
    root: Path = tmp_path_factory.mktemp("large")
    writer = synthetic_runs.write(root / "large", depth=LAYERS - 1, steps=range(0), close=False)
    rng = np.random.default_rng(0)
    fall = 0.98 ** np.arange(LAYERS, 0, -1.0)
    for block in np.array_split(np.arange(STEPS), 12):
        values = np.exp(rng.normal(size=(len(block), LAYERS, len(synthetic_runs.METRICS))) * 0.1)
        values[:, :, 0] *= fall
        values[:, 0, 0], values[:, 9, 0] = 0.0, np.nan
        rows = values.reshape(-1, values.shape[2])
        ids = np.tile(np.arange(LAYERS, dtype=np.int32), len(block))
        writer.rows(np.repeat(block, LAYERS), ids, rows, np.ones(rows.shape, np.bool_), skipped=bool(block[0] == 500))
        for step in block.tolist():
            writer.scalars(step, {"loss": float(rng.normal())})
    writer.close()
    return root


@pytest.fixture(scope="module")
def shared(site_of: Callable[[Any], Any], large: Path) -> Any:
    return site_of(str(large))


@pytest.fixture
def site(shared: Any) -> Iterator[Any]:
    shared.troubles.clear()
    page = shared.open("/flow?run=large")
    # The first to open it waits for everything to be read.
    expect(page.locator("#flow-timeline .gtitle-subtitle")).to_contain_text(" are drawn: first", timeout=20_000)
    yield shared
    assert shared.troubles == []


def drag(page: Page, graph: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a box over a part of a plot, in shares of its width and height."""
    area = page.locator(f"#flow-{graph} .nsewdrag").first
    # Not merely into view: the header lies over what is at the top.
    area.evaluate("(plot) => plot.scrollIntoView({block: 'center'})")
    box = area.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + start[0] * box["width"], box["y"] + start[1] * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + end[0] * box["width"], box["y"] + end[1] * box["height"], steps=4)
    page.mouse.up()


def double_click(page: Page, graph: str) -> None:
    box = page.locator(f"#flow-{graph} .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def until(page: Page, condition: str, given: Any, act: Callable[[], None]) -> None:
    """Do something until a condition holds: a browser that is drawing may take two clicks for two clicks."""
    for patience in (10_000, 10_000, 20_000):
        act()
        try:
            page.wait_for_function(condition, arg=given, timeout=patience)
        except TimeoutError:
            continue
        return
    pytest.fail(f"{condition} does not become true of {given}")


def distance(comparison: str) -> str:
    """Return the condition that the mean distance in steps of two points of a line compares so."""
    return f"(graph) => ({DISTANCE})(graph) {comparison}"


def test_what_is_zoomed_into_gets_finer_and_a_double_click_leads_out(site: Any) -> None:
    page = site.page
    for graph in ("timeline", "heatmap", "loss"):
        page.wait_for_function(distance("> 1"), arg=graph)
        until(page, distance("== 1"), graph, partial(drag, page, graph, (0.4, 0.2), (0.44, 0.8)))
        low, high = page.evaluate(RANGE, [graph, "xaxis"])
        assert 0.03 * STEPS < high - low < 0.06 * STEPS
        until(page, distance("> 1"), graph, partial(double_click, page, graph))
        low, high = page.evaluate(RANGE, [graph, "xaxis"])
        assert low <= 0
        assert high >= STEPS - 10


def test_a_zoom_into_less_than_a_decade_has_ticks(site: Any) -> None:
    page = site.page
    for graph in ("profile", "timeline"):
        until(page, TICKS, graph, partial(drag, page, graph, (0.3, 0.4), (0.6, 0.65)))
        low, high = page.evaluate(RANGE, [graph, "yaxis"])
        assert high - low < 1.0


def test_merged_rows_name_their_layers(site: Any) -> None:
    page = site.page
    expect(page.locator("#flow-heatmap .gtitle-subtitle")).to_contain_text("100 rows, extremes kept")
    area = page.locator("#flow-heatmap .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#flow-heatmap .hoverlayer")).to_contain_text("to layers.")
    expect(page.locator("#flow-heatmap .hoverlayer")).to_contain_text(" to 15")


def test_zero_nan_and_skipped_are_marked(site: Any) -> None:
    page = site.page
    for graph, words in {"profile": ("exact zero", "not a number"), "heatmap": ("exact zero", "skipped step")}.items():
        for word in words:
            expect(page.locator(f"#flow-{graph} .legend")).to_contain_text(word)
    expect(page.locator("#flow-timeline .legend")).to_contain_text("skipped step")


class Growing:
    """A run that grows while it is shown."""

    def __init__(self, path: Path) -> None:
        self.rng = np.random.default_rng(0)
        self.step = 0
        self.writer: Writer = synthetic_runs.write(path, depth=4, steps=range(0), close=False)
        for _ in range(20):
            self.grow()

    def grow(self) -> int:
        synthetic_runs.add_step(self.writer, self.step, 4, 0.5, 0.05, self.rng)
        self.writer.flush()
        self.step += 1
        return self.step - 1


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[Growing]:
    run = Growing(tmp_path / "growing")
    yield run
    run.writer.close()


def test_a_zoom_stays_while_the_run_grows(site_of: Callable[[Any], Any], growing: Growing, tmp_path: Path) -> None:
    site = site_of(str(tmp_path))
    page = site.open("/flow?run=growing")
    text = page.locator("#flow-step-text")
    expect(text).to_have_text("19 of 0 to 19")
    closer = f"(of) => {{ const [low, high] = ({RANGE})(of); return high - low < 10; }}"
    until(page, closer, ["timeline", "xaxis"], partial(drag, page, "timeline", (0.3, 0.2), (0.6, 0.8)))
    chosen = page.evaluate(RANGE, ["timeline", "xaxis"])
    for _ in range(3):
        last = growing.grow()
        expect(text).to_have_text(f"{last} of 0 to {last}")
        assert page.evaluate(RANGE, ["timeline", "xaxis"]) == pytest.approx(chosen)
    all_of_it = f"(of) => ({RANGE})(of)[1] > 20"
    until(page, all_of_it, ["timeline", "xaxis"], partial(double_click, page, "timeline"))
    assert site.troubles == []


class Concurrent:
    """A server's application, made slow where a clock asks it, and how many such requests were answered at once.

    Counted where they are answered: the browser may tell of an end after the next beginning.
    """

    def __init__(self, application: Any) -> None:
        self.most = self.answered = self._running = 0
        self._application = application
        self._lock, self._never = threading.Lock(), threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        asked = json.loads(body).get("changedPropIds") if body else None
        if asked != ["flow-tick.n_intervals"]:
            return self._application(environ, start_response)  # a page that opens looks as well
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            self._never.wait(0.05)
            return self._application(environ, start_response)
        finally:
            with self._lock:
                self._running -= 1
                self.answered += 1


def test_polling_leaves_nothing_behind(
    site_of: Callable[[Any], Any], growing: Growing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock far faster than its answers: never two at once, and the browser's memory stays as it was."""
    monkeypatch.setattr(blocks, "INTERVAL_MS", 10)
    monkeypatch.setattr(blocks, "REST", 0)
    site = site_of(str(tmp_path))
    site.server.app = polls = Concurrent(site.server.app)
    page = site.open("/flow?run=growing")
    expect(page.locator("#flow-step-text")).to_have_text("19 of 0 to 19")
    session = page.context.new_cdp_session(page)
    sizes = []
    for _ in range(POLLS // NEWS_EVERY):
        last, before = growing.grow(), polls.answered
        expect(page.locator("#flow-step-text")).to_have_text(f"{last} of 0 to {last}")
        while polls.answered < before + NEWS_EVERY:
            page.wait_for_timeout(20)
        sizes.append(used(session))
    early, late = (np.median(part, axis=0) for part in (sizes[5:15], sizes[-10:]))
    assert polls.most == 1
    assert late[0] < early[0] * 1.1 + 2e6  # bytes of the heap
    assert late[1] < early[1] * 1.1 + 200  # nodes of the page
    assert site.troubles == []


def used(session: Any) -> tuple[float, float]:
    session.send("HeapProfiler.collectGarbage")
    return session.send("Runtime.getHeapUsage")["usedSize"], session.send("Memory.getDOMCounters")["nodes"]
