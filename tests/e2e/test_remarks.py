"""What the dashboard says of runs that went wrong, or of which not everything is known."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs
from playwright.sync_api import expect

from gradscope.runs import Writer

pytestmark = pytest.mark.browser

TRACEBACK = "Traceback (most recent call last):\n" + '  File "a.py", line 1\n' * 60 + "ValueError: no such data"


@pytest.fixture(scope="module")
def shared(site_of: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    root: Path = tmp_path_factory.mktemp("remarks")
    for name in ("depth=12", "depth=2"):
        synthetic_runs.write(root / name)
    Writer(str(root / "failed"), metrics=()).close("failed", TRACEBACK)
    writer = Writer(str(root / "named"), metrics=synthetic_runs.METRICS, name="<b>mine</b>")
    row = {"step": 0, "layer": "<i>a</i>", "code": "never_called", "text": "unused", "expected": 0, "fired": 0}
    writer.append("coverage", [row])
    writer.event(5, "half way")
    writer.close()
    return site_of(str(root))


def test_why_a_run_failed_is_said_whole(site: Any) -> None:
    page = site.open("/flow?run=failed")
    trace = page.locator("#flow-head .trace")
    expect(trace).to_contain_text("Traceback (most recent call last):")
    expect(page.locator("#flow-run")).to_have_value("failed")
    expect(page.locator("#flow-body")).to_be_hidden()
    trace.focus()
    trace.press("End")
    page.wait_for_function("document.querySelector('.trace').scrollTop > 0")


def test_what_was_not_recorded_and_checks_not_made(site: Any) -> None:
    page = site.open("/flow?run=named")
    gaps = page.locator("#flow-gaps")
    expect(gaps).to_contain_text("1 of 1 layer not wholly recorded")
    expect(gaps.locator("td").first).to_have_text("<i>a</i>")
    expect(gaps).to_contain_text("half way")
    expect(page.locator("#flow-findings")).to_contain_text("No layer was recorded, so none could be checked")
    expect(page.locator("#flow-findings [role=region]")).to_have_attribute("tabindex", "0")
    expect(page.locator("#flow-head")).to_contain_text("<b>mine</b>")


def test_a_step_that_was_not_recorded_leaves_a_remark(site: Any) -> None:
    page = site.open("/flow?run=depth%3D2&step=999")
    expect(page.locator("#flow-remark")).to_have_text(
        "step 999 has no value of output_grad_norm; the nearest one that has is 190"
    )
    page.locator("#flow-step [role=slider]").press("ArrowLeft")
    page.wait_for_url("**step=180")
    expect(page.locator("#flow-remark")).to_have_count(0)


def test_names_are_sorted_by_their_numbers(site: Any) -> None:
    page = site.open("/")
    expect(page.locator("#runs-count")).to_contain_text("4 runs in")
    links = page.locator(".ag-pinned-left-cols-container a.run")
    names = [re.compile(name) for name in ("depth=2", "depth=12", "failed", "named")]
    expect(links).to_have_text(names)
    head = page.locator(".ag-header-cell[col-id='name'] .ag-header-cell-text")
    head.click()
    page.wait_for_url("**/?sort=name")
    head.click()
    page.wait_for_url("**/?sort=-name")
    places = page.locator(".ag-pinned-left-cols-container .ag-row")
    expect(places.and_(page.locator("[row-index='2']"))).to_contain_text("depth=12")
    expect(places.and_(page.locator("[row-index='3']"))).to_contain_text("depth=2")
