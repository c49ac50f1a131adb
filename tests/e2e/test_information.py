"""The information page in a browser: figures, controls in the URL, tables, and what a run without a sample shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from torch import nn

import gradscope as gs

pytestmark = pytest.mark.browser


def train(folder: Path, **options: Any) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(80, 6), torch.arange(80) % 3
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    options = {"sample": (x, y), "information_every": 3} | options
    with gs.watch(model, optimizer, out=folder, **options) as probe:
        for _ in range(10):
            loss = nn.functional.cross_entropy(model(x), y)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)


@pytest.fixture(scope="module")
def shared(site_of: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("information")
    train(root / "bare", sample=None)
    train(root / "sampled", metrics=["backward", "information"])
    return site_of(str(root))


def subtitle(page: Page, graph: str) -> Any:
    return page.locator(f"#information-{graph} .gtitle-subtitle")


def test_the_page_draws_everything_with_its_estimator(site: Any) -> None:
    page = site.open("/")
    page.locator("#nav-information").click()
    page.wait_for_url("**/information")
    expect(subtitle(page, "profile")).to_contain_text("sampled, step 9; kde_bounds, samples = 80")
    expect(subtitle(page, "plane")).to_contain_text("noise_var = 0.1; steps 0 to 9")
    expect(page.locator("#information-plane .legend")).to_contain_text("depth 3")
    expect(page.locator("#information-heatmap .gtitle")).to_contain_text("Effective rank over depth and step")
    expect(page.locator("#information-numbers")).to_contain_text("Kolchinsky and Tracey 2017")
    expect(page.locator("#information-numbers .still tbody tr")).to_have_count(3)


def test_the_controls_are_in_the_url_and_survive_a_reload(site: Any) -> None:
    page = site.open("/information?run=sampled")
    expect(subtitle(page, "profile")).to_contain_text("step 9")
    page.locator("#information-estimator").click()
    page.get_by_role("option", name="binning").click()
    page.wait_for_url("**/information?run=sampled&estimator=binning")
    page.locator("#information-metric").click()
    page.get_by_role("option", name="CKA with the input").click()
    page.wait_for_url("**&estimator=binning&metric=cka_input")
    expect(page.locator("#information-heatmap .gtitle")).to_contain_text("CKA with the input")
    page.locator("#information-step [role=slider]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**&metric=cka_input&step=6")
    page.reload()
    expect(subtitle(page, "profile")).to_contain_text("sampled, step 6; binning, samples = 80, bins = 30")
    expect(page.locator("#information-numbers")).to_contain_text("Numbers at step 6")
    page.locator("label[for=information-follow]").click()
    page.wait_for_url("**/information?run=sampled&estimator=binning&metric=cka_input")
    expect(subtitle(page, "profile")).to_contain_text("step 9")


def test_another_run_is_chosen_and_says_what_it_lacks(site: Any) -> None:
    page = site.open("/information?run=sampled&estimator=binning&step=3")
    expect(subtitle(page, "profile")).to_contain_text("step 3; binning")
    page.locator("#information-run").click()
    page.get_by_role("option", name="bare").click()
    page.wait_for_url("**/information?run=bare")
    expect(page.locator("#information-head")).to_contain_text("watched without a sample")
    expect(page.locator("#information-head .code")).to_contain_text("sample=(x_val, y_val)")
    expect(page.locator("#information-body")).to_be_hidden()
    page.go_back()
    expect(subtitle(page, "profile")).to_contain_text("step 3; binning")


def test_on_a_narrow_screen_nothing_lies_upon_another(site: Any) -> None:
    page = site.open("/information?run=sampled")
    expect(subtitle(page, "profile")).to_contain_text("step 9")
    page.set_viewport_size({"width": 640, "height": 900})
    try:
        dark, name = (page.locator(one).bounding_box() for one in ("label[for=dark]", "#information-head .name"))
        assert dark is not None
        assert name is not None
        assert dark["y"] + dark["height"] <= name["y"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 640
    finally:
        page.set_viewport_size({"width": 1400, "height": 900})


@pytest.mark.parametrize("width", [1400, 760])
def test_tables_are_whole_or_show_that_they_go_on(site: Any, width: int) -> None:
    """How the numbers came about is read without scrolling; where numbers go on, the edge has a shadow."""
    page = site.open("/information?run=sampled")
    page.set_viewport_size({"width": width, "height": 900})
    origins, numbers = (page.locator(f".tables .scroll:has(.{kind})") for kind in ("origins", "still"))
    expect(origins).to_contain_text("Alain and Bengio 2016")
    assert origins.evaluate("box => [box.scrollWidth - box.clientWidth, box.scrollHeight - box.clientHeight]") == [0, 0]
    assert "gradient" in numbers.evaluate("box => getComputedStyle(box).backgroundImage")
    page.set_viewport_size({"width": 1400, "height": 900})
