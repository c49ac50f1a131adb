import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import synthetic_runs
from dash import no_update
from dash.development.base_component import Component

from gradscope.checks import Findings
from gradscope.checks.finding import NotApplicable
from gradscope.dashboards import create_app, diagnosis, gaps, table, view
from gradscope.dashboards.app import shell, visible
from gradscope.dashboards.pages import flow, runs, sweep
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState, RunsState, SweepState
from gradscope.errors import UnknownNameError
from gradscope.runs import Writer


def words(component: Any) -> str:
    """Return all text inside a component."""
    if isinstance(component, Component):
        return json.dumps(component.to_plotly_json(), default=words, ensure_ascii=False)
    return str(component)


def test_the_table_has_a_row_per_run(source: Source) -> None:
    by_name = {row["name"]: row for row in table.rows(source)}
    assert set(by_name) == set(source.runs)
    plain = by_name["plain"]
    assert plain["decay"] == pytest.approx(0.5)
    assert plain["decay_text"] == "0.500 [0.500, 0.500]"
    assert (plain["depth"], plain["activation"], plain["status"]) == (8, "tanh", "finished")
    assert plain["href"] == "/flow?run=plain"
    assert plain["final_loss"] == source.runs["plain"].final("loss")
    assert (by_name["spoiled"]["decay"], by_name["spoiled"]["decades_text"]) == (0.0, "−∞")
    json.dumps(list(by_name.values()), allow_nan=False)


def test_columns_follow_the_configuration(source: Source) -> None:
    defs = table.columns(table.rows(source), RunsState(sort="decay", descending=True))
    assert [one["headerName"] for one in defs] == [
        "Run", "Status", "Decay per layer (first step)", "Decades (first step)", "Final loss",
        "depth", "activation", "init", "seed",
    ]  # fmt: skip
    assert [one["field"] for one in defs if one["sort"]] == ["decay"]
    assert {one["headerName"]: one.get("type") for one in defs}["depth"] == "rightAligned"


def test_the_decay_is_seen_in_a_narrow_window(source: Source) -> None:
    defs = table.columns(table.rows(source), RunsState())
    assert defs[2]["field"] == "decay"
    # Beside it the column of check boxes, and the edges of the page.
    assert 48 + sum(one["width"] for one in defs[:3]) <= 760 - 34


def test_columns_stay_when_nothing_changed(source: Source) -> None:
    first = runs.answer(source, RunsState(), None)
    again = runs.answer(source, RunsState(), first["fields"])
    assert again["columns"] is no_update
    sort = runs.answer(source, RunsState(sort="decay"), first["fields"])
    assert sort["columns"] is not no_update


def test_a_run_that_cannot_be_read_is_a_row(tmp_path: Path) -> None:
    synthetic_runs.write(tmp_path / "good")
    synthetic_runs.write(tmp_path / "parts")
    synthetic_runs.write(tmp_path / "description")
    (tmp_path / "description" / "run.json").write_text("{")
    for part in (tmp_path / "parts" / "layers").glob("*.parquet"):
        part.write_bytes(b"no parquet")
    by_name = {row["name"]: row for row in table.rows(Source(str(tmp_path)))}
    assert {name: row["status"] for name, row in by_name.items()} == {
        "good": "finished",
        "parts": "unreadable",
        "description": "unreadable",
    }
    assert "run.json is not valid JSON" in by_name["description"]["error"]
    assert ".parquet" in by_name["parts"]["error"]
    # Beside the status: a column that lies off the screen tells nobody what is wrong.
    assert [one["field"] for one in table.columns(by_name.values(), RunsState())][1:3] == ["status", "error"]


def test_the_error_of_a_run_is_its_cause(tmp_path: Path) -> None:
    text = 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: no data\n'
    Writer(str(tmp_path / "a"), metrics=synthetic_runs.METRICS, config={}).close("failed", text)
    rows = table.rows(Source(str(tmp_path)))
    assert rows[0]["cause"] == "ValueError: no data"
    assert rows[0]["error"].startswith("Traceback")
    (shown,) = [one for one in table.columns(rows, RunsState()) if one["field"] == "error"]
    assert shown["valueFormatter"] == {"function": "params.data.cause"}


def test_an_empty_folder_says_how_to_record(tmp_path: Path) -> None:
    source = Source(str(tmp_path))
    page = runs.answer(source, RunsState(), None)
    assert page["hidden"]
    assert "gs.watch(model, optimizer" in words(page["empty"])
    assert "gs.watch(model, optimizer" in words(flow.answer(source, FlowState(), "light")["head"])
    assert "gs.watch(model, optimizer" in words(sweep.answer(source, SweepState(), "light")["empty"])


def test_sorting_in_the_grid_becomes_state() -> None:
    columns = [{"colId": "name", "sort": None}, {"colId": "decay", "sort": "desc"}]
    assert runs.sorted_by(RunsState(("a",)), columns) == RunsState(("a",), "decay", True)
    assert runs.sorted_by(RunsState((), "decay", True), [{"colId": "decay", "sort": None}]) == RunsState()


def test_the_flow_page_shows_the_first_run_at_its_newest_step(source: Source) -> None:
    page = flow.answer(source, FlowState(), "light")
    assert (page["run"], page["metric"], page["step"], page["follow"]) == ("plain", "output_grad_norm", 190, True)
    assert (page["min"], page["max"], page["by"]) == (0, 190, 10)
    for name in flow.GRAPHS:
        assert isinstance(page[name], go.Figure)
        assert page[name].data
    assert page["profile"].layout.title.subtitle.text.startswith("plain, step 190<br>decay 0.5 per layer")


def test_a_chosen_step_stays_and_snaps(source: Source) -> None:
    page = flow.answer(source, FlowState("plain", step=52), "light")
    assert (page["step"], page["follow"]) == (50, False)
    assert page["step_text"] == "50 of 0 to 190"


def test_every_metric_can_be_chosen_in_its_group(source: Source) -> None:
    choices = view.metric_choices(source.runs["plain"])
    assert [group["group"] for group in choices] == ["Backward", "Weights", "Forward", "Activation", "Custom"]
    names = [item["value"] for group in choices for item in group["items"]]
    assert names == synthetic_runs.NAMES
    for name in names:
        page = flow.answer(source, FlowState("spoiled", metric=name), "dark")
        assert all(page[graph].data for graph in flow.GRAPHS)


def test_compared_runs_are_overlaid(source: Source) -> None:
    page = flow.answer(source, FlowState("plain", ("spoiled", "plain")), "light")
    assert page["compare"] == ["spoiled"]
    assert len([trace for trace in page["loss"].data if trace.mode == "lines"]) == 2


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (FlowState("nobody"), "no run 'nobody' among the 20 runs in /"),
        (FlowState("plain", ("nobody",)), "no run 'nobody' among the 20 runs in /"),
    ],
)
def test_an_unknown_run_is_said(source: Source, state: FlowState, text: str) -> None:
    page = flow.answer(source, state, "light")
    assert page["hidden"]
    assert text in words(page["head"])
    assert page["run_data"]


def test_an_unknown_metric_is_said_in_the_figure(source: Source) -> None:
    page = flow.answer(source, FlowState("plain", metric="saturatoin"), "light")
    assert page["hidden"]
    assert "no metric 'saturatoin'" in words(page["head"])


def test_findings_are_on_the_page(source: Source) -> None:
    page = flow.answer(source, FlowState("spoiled"), "light")
    assert "non-finite" in words(page["findings"])


@pytest.mark.parametrize(
    ("moved", "value", "wanted"),
    [
        ("run", "b", FlowState("b", ("c",), "m", 10)),
        ("compare", ["c"], FlowState("a", ("c",), "m", 10)),
        ("compare", None, FlowState("a", (), "m", 10)),
        ("metric", "n", FlowState("a", ("b", "c"), "n", 10)),
        ("step", 20, FlowState("a", ("b", "c"), "m", 20)),
        ("follow", True, FlowState("a", ("b", "c"), "m", None)),
        ("theory", True, FlowState("a", ("b", "c"), "m", 10, theory=True)),
    ],
)
def test_a_moved_control_changes_the_state(moved: str, value: Any, wanted: FlowState) -> None:
    state = FlowState("a", ("b", "c"), "m", 10)
    assert view.chosen(state, moved, {"step": 10, moved: value}) == wanted


def test_switching_off_the_newest_keeps_the_step_shown() -> None:
    assert view.chosen(FlowState("a"), "follow", {"follow": False, "step": 70}).step == 70


def test_one_page_is_visible() -> None:
    assert [name for name, hidden in visible("/sweep").items() if not hidden] == ["sweep"]
    assert [name for name, hidden in visible("/nowhere").items() if not hidden] == ["lost"]
    assert all(visible(None).values())


def test_the_shell_holds_no_foreign_address() -> None:
    text = words(shell())
    assert "http" not in text


def test_the_application_serves_its_pages(folder: Path) -> None:
    client = create_app(str(folder)).server.test_client()
    for path in ("/", "/flow", "/sweep", "/_dash-layout", "/_dash-dependencies"):
        assert client.get(path).status_code == 200


def test_an_unknown_run_of_a_source_is_an_error(source: Source) -> None:
    with pytest.raises(UnknownNameError):
        view.settle(source, FlowState("nobody"))


def test_a_run_without_a_step_yet_is_shown_as_such(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "fresh"), metrics=synthetic_runs.METRICS)
    source = Source(str(tmp_path))
    assert table.rows(source)[0]["status"] == "running"
    page = flow.answer(source, FlowState(), "light")
    assert page["step_text"] == "none recorded yet"
    assert not page["hidden"]
    text = page["profile"].layout.annotations[0].text
    assert text.replace("<br>", " ") == "run 'fresh' has no recorded step of metric 'output_grad_norm' yet"
    assert sweep.answer(source, SweepState(), "light")["map"].data
    writer.close()


def test_a_compared_run_without_the_metric_is_named(tmp_path: Path) -> None:
    synthetic_runs.write(tmp_path / "full")
    writer = Writer(str(tmp_path / "less"), metrics=synthetic_runs.METRICS[:1])
    writer.scalars(0, {"loss": 1.0})
    writer.close()
    page = flow.answer(Source(str(tmp_path)), FlowState("full", ("less",), "saturation"), "light")
    assert "without a value of this metric: less" in words(page["head"])
    assert len(page["profile"].data) == 1
    assert {trace.name for trace in page["loss"].data} == {"full", "less"}


def test_a_fault_in_a_figure_is_said_in_its_panel(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fault(*_: Any, **__: Any) -> go.Figure:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr(flow.figures, "heatmap", fault)
    page = flow.answer(source, FlowState("plain"), "light")
    text = page["heatmap"].layout.annotations[0].text.replace("<br>", " ")
    assert text == "this figure could not be drawn: ZeroDivisionError: float division by zero"
    assert page["profile"].data
    assert caplog.messages == ["the figure 'Output gradient norm over depth and step' could not be drawn"]


def test_a_run_that_failed_before_its_first_step_says_why(tmp_path: Path) -> None:
    error = "Traceback (most recent call last):\n  File 'a.py'\nValueError: no such data"
    Writer(str(tmp_path / "failed"), metrics=()).close("failed", error)
    source = Source(str(tmp_path))
    page = flow.answer(source, FlowState("failed"), "light")
    assert (page["run"], page["step_text"], page["hidden"]) == ("failed", "none recorded", True)
    texts = words(page["head"])
    assert "ValueError: no such data" in texts
    assert "Traceback (most recent call last):" in texts
    assert "nothing was recorded" in texts
    assert "no metric" not in texts


def test_a_run_stays_chosen_where_its_metric_is_unknown(source: Source) -> None:
    page = flow.answer(source, FlowState("plain", metric="saturatoin"), "light")
    assert page["run"] == "plain"
    assert page["metric_data"] == view.metric_choices(source.runs["plain"])


def test_checks_that_were_not_made_are_no_clean_bill(tmp_path: Path) -> None:
    writer = Writer(str(tmp_path / "fresh"), metrics=synthetic_runs.METRICS)
    page = flow.answer(Source(str(tmp_path)), FlowState(), "light")
    writer.close()
    assert "No layer was recorded, so none could be checked" in words(page["findings"])
    assert "found nothing wrong" not in words(page["findings"])


def test_the_headline_counts_the_checks() -> None:
    missing = {"trend": NotApplicable("one step"), "passage": NotApplicable("no metric")}
    assert diagnosis.headline(Findings("a", (), ("vanishing",), missing)) == "1 of 3 checks made, nothing found."


def test_what_was_not_recorded_is_on_the_page(tmp_path: Path) -> None:
    writer = synthetic_runs.write(tmp_path / "less", close=False)
    fired = {"expected": 1, "fired": 1}
    writer.append("coverage", [{"step": 0, "layer": "a", "code": "missed", "text": "early", **fired}])
    writer.append("coverage", [{"step": 0, "layer": "b", "code": "frozen", "text": "no gradient", **fired}])
    writer.append("coverage", [{"step": 10, "layer": "a", "code": "recorded", "text": "everything", **fired}])
    writer.event(5, "half way")
    writer.close()
    run = Source(str(tmp_path)).runs["less"]
    missing = gaps.gaps(run.coverage)
    assert missing.to_dict("records") == [{"layer": "b", "code": "frozen", "text": "no gradient"}]
    text = words(gaps.gaps_panel(run))
    assert "1 of 2 layers not wholly recorded" in text
    assert "half way" in text


def test_the_page_says_why_a_layer_has_no_data_and_what_there_is_all_the_same(tmp_path: Path) -> None:
    writer = synthetic_runs.write(tmp_path / "less", close=False)
    row = {"step": 0, "expected": 1, "fired": 1, "code": "recorded", "text": "everything"}
    writer.append("coverage", [row | {"layer": "a", "parameters": "yes", "boundaries": "yes", "units": "yes"}])
    text = "compiled before it was watched"
    only = {"layer": "b", "code": "compiled", "text": text, "parameters": "yes", "boundaries": "no", "units": "no"}
    none = {"parameters": "no", "boundaries": "no", "units": "no"}
    writer.append("coverage", [row | only, row | {"layer": "c", "code": "filtered", "text": "left out"} | none])
    writer.close()
    run = Source(str(tmp_path)).runs["less"]
    assert gaps.gaps(run.coverage)[["layer", "recorded"]].values.tolist() == [["b", "parameters"], ["c", "nothing"]]
    shown = words(gaps.gaps_panel(run))
    assert "2 of 3 layers not wholly recorded. Recorded: parameters of 2 of 2; boundaries of 1 of 2" in shown
    assert text in shown


def test_a_run_without_gaps_says_so(tmp_path: Path) -> None:
    writer = synthetic_runs.write(tmp_path / "whole", close=False)
    row = {"step": 0, "layer": "a", "code": "recorded", "text": "everything", "expected": 1, "fired": 1}
    writer.append("coverage", [row])
    writer.close()
    text = words(gaps.gaps_panel(Source(str(tmp_path)).runs["whole"]))
    assert "Everything was recorded." in text
    assert "What was recorded" in text
    assert "What was not recorded" not in text


def test_a_step_that_was_not_recorded_is_said(source: Source) -> None:
    page = flow.answer(source, FlowState("plain", step=999), "light")
    assert page["step"] == 190
    expected = "step 999 has no value of output_grad_norm; the nearest one that has is 190"
    assert expected in words(page["head"])


def test_a_coverage_that_cannot_be_read_leaves_the_figures(tmp_path: Path) -> None:
    writer = synthetic_runs.write(tmp_path / "a", close=False)
    row = {"step": 0, "layer": "a", "code": "recorded", "text": "everything", "expected": 1, "fired": 1}
    writer.append("coverage", [row])
    writer.close()
    for part in (tmp_path / "a" / "coverage").glob("*.parquet"):
        part.write_bytes(b"no parquet")
    with pytest.warns(UserWarning, match="is not a readable part"):
        page = flow.answer(Source(str(tmp_path)), FlowState(), "light")
    assert "This cannot be read: " in words(page["gaps"])
    assert page["profile"].data


@pytest.mark.parametrize("opened", [str, synthetic_runs.open_runs])
def test_a_run_has_one_name_on_a_page(tmp_path: Path, opened: Callable[[Path], Any]) -> None:
    """That of its folder, in every figure: two folders may hold runs of one name."""
    for folder in ("one", "two"):
        synthetic_runs.write(tmp_path / folder / "net")
    page = flow.answer(Source(opened(tmp_path)), FlowState("two/net"), "light")
    subtitles = {name: page[name].layout.title.subtitle.text for name in ("ledger", "waterfall", "heatmap", "timeline")}
    assert all(text.startswith("two/net, ") for text in subtitles.values())
    assert "two/net" in words(page["head"])


def test_the_name_given_to_a_run_stands_beside_its_folder(tmp_path: Path) -> None:
    Writer(str(tmp_path / "folder"), metrics=synthetic_runs.METRICS, name="<b>mine</b>").close()
    page = flow.answer(Source(str(tmp_path)), FlowState("folder"), "light")
    assert "<b>mine</b>" in words(page["head"])
    rows = table.rows(Source(str(tmp_path)))
    assert rows[0]["given"] == "<b>mine</b>"
    assert [one["headerName"] for one in table.columns(rows, RunsState())][:2] == ["Run", "Name given"]
