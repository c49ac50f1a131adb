import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from gradscope.dashboards.pages import flow
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def shared(site_of: Callable[[Any], Any], folder: Path) -> Any:
    return site_of(str(folder))


def title(page: Page, graph: str, text: str) -> None:
    expect(page.locator(f"#flow-{graph} .gtitle")).to_contain_text(text)


def subtitle(page: Page, graph: str, text: str) -> None:
    expect(page.locator(f"#{graph} .gtitle-subtitle")).to_contain_text(text)


def row(page: Page, name: str) -> Any:
    return page.locator(f".ag-center-cols-container .ag-row[row-id='{name}']")


def cells(page: Page, column: str) -> list[str]:
    rows = page.locator(f".ag-center-cols-container .ag-row .ag-cell[col-id='{column}']").all()
    return [cell.inner_text() for cell in sorted(rows, key=lambda one: one.bounding_box()["y"])]


def test_the_table_shows_every_run_and_links_to_its_flow(site: Any) -> None:
    page = site.open("/")
    expect(page.locator("#runs-count")).to_contain_text("21 runs in")
    expect(row(page, "plain")).to_contain_text("finished")
    page.locator("a.run", has_text="spoiled").click()
    expect(page.locator("#flow-head")).to_contain_text("spoiled")
    assert site.query() == "/flow?run=spoiled"
    page.go_back()
    expect(row(page, "plain")).to_be_visible()


def test_sorting_is_in_the_url_and_survives_a_reload(site: Any) -> None:
    page = site.open("/")
    expect(row(page, "plain")).to_be_visible()
    page.locator(".ag-header-cell[col-id='decades'] .ag-header-cell-text").click()
    page.wait_for_url("**/?sort=decades")
    assert cells(page, "decades")[0] == "−∞"
    page.locator(".ag-header-cell[col-id='decades'] .ag-header-cell-text").click()
    page.wait_for_url("**/?sort=-decades")
    page.reload()
    expect(page.locator(".ag-header-cell[col-id='decades']")).to_have_attribute("aria-sort", "descending")
    top = cells(page, "decades")
    assert top[0] != "−∞"


def test_nothing_is_compared_before_something_is_ticked(site: Any) -> None:
    page = site.open("/")
    expect(page.locator("#runs-none")).to_have_text("Tick runs to compare them")
    expect(page.locator("#runs-compare")).to_be_hidden()
    site.open("/?compare=plain")
    expect(page.locator("#runs-compare")).to_be_visible()
    expect(page.locator("#runs-none")).to_be_hidden()


def test_selected_runs_are_compared(site: Any) -> None:
    page = site.open("/")
    for name in ("plain", "spoiled"):
        page.locator(f".ag-row[row-id='{name}'] .ag-selection-checkbox input").check()
    page.wait_for_url("**/?compare=plain&compare=spoiled")
    page.reload()
    expect(page.locator(".ag-row[row-id='spoiled'] .ag-selection-checkbox input")).to_be_checked()
    page.locator("#runs-compare").click()
    title(page, "profile", "Output gradient norm over depth")
    assert site.query() == "/flow?run=plain&compare=spoiled"
    expect(page.locator("#flow-profile .legend")).to_contain_text("spoiled")


def test_quick_selections_are_all_kept(site: Any) -> None:
    page = site.open("/")
    boxes = page.locator(".ag-pinned-left-cols-container .ag-selection-checkbox input")
    expect(boxes.first).to_be_visible()
    for place in range(6):
        boxes.nth(place).check()
    expect(page.locator("#runs-compare")).to_have_attribute("href", re.compile("(compare=.*){5}"))
    page.go_back()
    expect(page.locator(".ag-pinned-left-cols-container .ag-row-selected")).to_have_count(5)
    page.go_forward()
    expect(page.locator(".ag-pinned-left-cols-container .ag-row-selected")).to_have_count(6)


def test_the_flow_page_draws_everything(site: Any) -> None:
    page = site.open("/flow?run=deep")
    title(page, "profile", "Output gradient norm over depth")
    title(page, "ledger", "Ledger of the error signal")
    title(page, "heatmap", "Output gradient norm over depth and step")
    title(page, "timeline", "Output gradient norm over steps")
    title(page, "loss", "Loss over steps")
    expect(page.locator("#flow-timeline .scatterlayer .trace path.js-line")).to_have_count(100)
    expect(page.locator("#flow-findings")).to_contain_text("Findings")
    expect(page.locator("#flow-head")).to_contain_text("finished")


def test_zero_and_nan_are_marked(site: Any) -> None:
    page = site.open("/flow?run=spoiled")
    for graph in ("profile", "heatmap", "timeline"):
        legend = page.locator(f"#flow-{graph} .legend")
        expect(legend).to_contain_text("exact zero")
        expect(legend).to_contain_text("not a number")
    # Two zeros and a NaN: the points of the strip below the axis.
    expect(page.locator("#flow-profile .xy2 .points path.point")).to_have_count(3)


def test_the_metric_is_in_the_url_and_survives_a_reload(site: Any) -> None:
    page = site.open("/flow?run=plain")
    title(page, "profile", "Output gradient norm over depth")
    page.locator("#flow-metric").click()
    page.get_by_role("option", name="Saturation").click()
    page.wait_for_url("**/flow?run=plain&metric=saturation")
    title(page, "profile", "Saturation over depth")
    page.reload()
    title(page, "profile", "Saturation over depth")
    expect(page.locator("#flow-metric")).to_have_value("Saturation")
    page.go_back()
    title(page, "profile", "Output gradient norm over depth")
    expect(page.locator("#flow-metric")).to_have_value("Output gradient norm")


def test_the_step_is_in_the_url_and_survives_a_reload(site: Any) -> None:
    page = site.open("/flow?run=plain")
    expect(page.locator("#flow-step-text")).to_have_text("190 of 0 to 190")
    page.locator("#flow-step [role=slider]").press("ArrowLeft")
    page.wait_for_url("**/flow?run=plain&step=180")
    subtitle(page, "flow-profile", "step 180")
    page.reload()
    expect(page.locator("#flow-step-text")).to_have_text("180 of 0 to 190")
    expect(page.locator("#flow-follow")).not_to_be_checked()
    subtitle(page, "flow-ledger", "step 180")
    page.locator("label[for=flow-follow]").click()
    page.wait_for_url("**/flow?run=plain")
    expect(page.locator("#flow-step-text")).to_have_text("190 of 0 to 190")


def test_another_run_is_chosen_from_the_list(site: Any) -> None:
    page = site.open("/flow?run=plain")
    subtitle(page, "flow-profile", "plain")
    page.locator("#flow-run").click()
    page.get_by_role("option", name="deep", exact=True).click()
    page.wait_for_url("**/flow?run=deep")
    subtitle(page, "flow-profile", "deep")


def test_a_run_that_does_not_exist_is_said(site: Any) -> None:
    page = site.open("/flow?run=nobody")
    expect(page.locator("#flow-head")).to_contain_text("no run 'nobody'")
    expect(page.locator("#flow-body")).to_be_hidden()


def test_a_click_on_the_map_opens_the_run(site: Any) -> None:
    page = site.open("/sweep")
    expect(page.locator("#sweep-map .gtitle")).to_contain_text("Decay of the output gradient per layer")
    expect(page.locator("#sweep-map .annotation-text")).to_have_text(["relu", "sigmoid", "tanh"])
    area = page.locator("#sweep-map .nsewdrag").first.bounding_box()
    assert area is not None
    # First cell of the first map: relu, default, depth 2.
    page.mouse.click(area["x"] + area["width"] * 0.1, area["y"] + area["height"] * 0.1)
    page.wait_for_url("**/flow?run=*")
    expect(page.locator("#flow-head")).to_contain_text("sweep/depth=2,activation=relu,init=default,seed=0")
    page.go_back()
    expect(page.locator("#sweep-map .gtitle")).to_be_visible()


def test_the_axes_of_the_map_are_in_the_url(site: Any) -> None:
    page = site.open("/sweep")
    expect(page.locator("#sweep-x")).to_have_value("depth")
    page.locator("#sweep-x").click()
    page.get_by_role("option", name="activation").click()
    page.wait_for_url("**/sweep?x=activation&facet=depth")
    expect(page.locator("#sweep-map .annotation-text")).to_have_text(["2", "8", "12", "99"])
    page.locator("#sweep-at label", has_text="last step").click()
    page.wait_for_url("**/sweep?x=activation&facet=depth&at=last")
    subtitle(page, "sweep-map", "last recorded step")
    page.reload()
    subtitle(page, "sweep-map", "last recorded step")
    expect(page.locator("#sweep-facet")).to_have_value("depth")


def test_pages_are_reached_by_links(site: Any) -> None:
    page = site.open("/")
    page.get_by_role("link", name="Gradient flow").click()
    subtitle(page, "flow-profile", "deep")
    page.get_by_role("link", name="Sweep").click()
    expect(page.locator("#sweep-map .gtitle")).to_be_visible()
    page.get_by_role("link", name="Runs").click()
    expect(page.locator("#runs-grid")).to_be_visible()
    site.open("/nowhere")
    expect(page.locator("#page-lost")).to_be_visible()


def test_a_control_moved_while_the_page_is_drawn_keeps_its_place(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, moved, answer = threading.Event(), threading.Event(), flow.answer

    def slow(source: Source, state: FlowState, *rest: Any) -> dict[str, Any]:
        if state.run == "plain" and state.metric is None:
            drawing.set()
            moved.wait(20)
        return answer(source, state, *rest)

    page = site.open("/flow?run=spoiled")
    title(page, "profile", "Output gradient norm over depth")
    monkeypatch.setattr(flow, "answer", slow)
    page.locator("#flow-run").click()
    page.get_by_role("option", name="plain", exact=True).click()
    page.wait_for_url("**/flow?run=plain")
    assert drawing.wait(20)
    page.locator("#flow-metric").click()
    page.get_by_role("option", name="Weight gradient norm", exact=True).click()
    moved.set()
    page.wait_for_url("**/flow?run=plain&metric=weight_grad_norm")
    title(page, "profile", "Weight gradient norm over depth")


def test_the_system_chooses_between_light_and_dark_until_the_user_does(site_of: Any, folder: Path) -> None:
    site = site_of(str(folder))
    site.page.emulate_media(color_scheme="dark")
    page = site.open("/sweep")
    theme, switch = page.locator("html"), page.locator("#dark")
    expect(theme).to_have_attribute("data-mantine-color-scheme", "dark")
    expect(switch).to_be_checked()
    page.locator("label[for=dark]").first.click()
    expect(theme).to_have_attribute("data-mantine-color-scheme", "light")
    page.reload()
    expect(page.locator("#sweep-map .gtitle")).to_be_visible()
    expect(theme).to_have_attribute("data-mantine-color-scheme", "light")
    expect(switch).not_to_be_checked()
    assert site.troubles == []


def test_dark_mode_reaches_figures_and_table(site: Any) -> None:
    page = site.open("/flow?run=plain")
    subtitle(page, "flow-profile", "plain")
    paper = page.locator("#flow-profile .main-svg").first
    expect(paper).to_have_css("background-color", "rgb(255, 255, 255)")
    page.locator("label[for=dark]").first.click()
    expect(paper).to_have_css("background-color", "rgb(36, 36, 36)")
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "dark")
    page.reload()
    expect(paper).to_have_css("background-color", "rgb(36, 36, 36)")
    page.get_by_role("link", name="Runs").click()
    expect(page.locator("html")).to_have_attribute("data-ag-theme-mode", "dark")
    page.locator("label[for=dark]").first.click()
    expect(page.locator("html")).to_have_attribute("data-mantine-color-scheme", "light")


def test_no_figure_offers_to_upload(site: Any) -> None:
    page = site.open("/flow?run=plain")
    subtitle(page, "flow-profile", "plain")
    page.locator("#flow-profile").hover()
    buttons = page.locator("#flow-profile .modebar-btn")
    expect(buttons.first).to_be_attached()
    names = [button.get_attribute("data-title") or "" for button in buttons.all()]
    assert names
    assert not [name for name in names if "hare" in name or "loud" in name]
