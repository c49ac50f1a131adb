"""Theory on screen: the overlay, the marks of a finding, the phase diagram, the map of a sweep."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from gradscope.runs import Writer
from gradscope.spec import LayerSpec, MetricSpec

pytestmark = pytest.mark.browser
NAMES = ("output_grad_norm", "weight_rms", "output_rms")
METRICS = tuple(MetricSpec(name, name.replace("_", " "), scale="log", bounds=(0.0, None)) for name in NAMES)
FAN = 64


def write(path: Path, depth: int, weight_var: float, activation: str) -> None:
    """Write a chain that loses half of its gradient in every layer and never learns."""
    specs = [
        LayerSpec(id=place, layer=f"hidden.{place}", call=1, depth=place + 1, parents=(place - 1,) if place else (),
                  activation="identity" if place == depth else activation, fan_in=FAN, fan_out=FAN)
        for place in range(depth + 1)
    ]  # fmt: skip
    config = {"depth": depth, "weight_var": weight_var, "bias_var": 0.05, "activation": activation}
    writer = Writer(str(path), metrics=METRICS, config=config, name=path.name)
    writer.describe(specs)
    signal = 0.5 ** np.arange(depth, -1, -1.0)
    values = np.column_stack([signal, np.full(depth + 1, (weight_var / FAN) ** 0.5), np.full(depth + 1, 0.5)])
    for step in range(0, 50, 10):
        writer.rows(step, np.arange(depth + 1, dtype=np.int32), values, np.ones(values.shape, np.bool_))
        writer.scalars(step, {"loss": 2.3})
    writer.scalars(40, {"test_accuracy": 1.0 / depth})
    writer.close()


@pytest.fixture(scope="module")
def shared(site_of: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("theory")
    for depth in (4, 12):
        for weight_var in (1.0, 2.5):
            write(root / f"{depth},{weight_var}", depth, weight_var, "tanh")
    return site_of(str(root))


def subtitle(page: Page, graph: str) -> Any:
    return page.locator(f"#{graph} .gtitle-subtitle")


def test_the_overlay_is_switched_on_and_stays_in_the_url(site: Any) -> None:
    page = site.open("/flow?run=12,1.0&step=0")
    expect(subtitle(page, "flow-profile")).to_contain_text("decay 0.5 per layer")
    expect(page.locator("#flow-profile .legend")).to_have_count(0)
    page.locator("label[for=flow-theory]").click()
    page.wait_for_url("**&step=0&theory=1")
    expect(subtitle(page, "flow-profile")).to_contain_text("set to the measured value at depth 12")
    expect(page.locator("#flow-profile .legend")).to_contain_text("theory, 95 % band")
    page.reload()
    expect(page.locator("#flow-theory")).to_be_checked()
    expect(page.locator("#flow-profile .legend")).to_contain_text("theory, 95 % band")
    page.locator("label[for=flow-theory]").click()
    page.wait_for_url(lambda url: "theory" not in url)
    expect(page.locator("#flow-profile .legend")).to_have_count(0)


def test_a_finding_marks_its_layers_and_unfolds_its_evidence(site: Any) -> None:
    page = site.open("/flow?run=12,1.0")
    finding = page.locator("#flow-findings .finding", has_text="[vanishing]")
    expect(finding.locator(".mantine-Badge-root")).to_have_text("critical")
    expect(finding).to_contain_text("Remedy: ")
    expect(finding.locator("table")).to_be_hidden()
    finding.locator("summary").click()
    expect(finding.locator("table")).to_be_visible()
    expect(finding.locator("tbody tr")).to_have_count(12)
    finding.get_by_role("link", name="layers 1 to 12").click()
    page.wait_for_url("**/flow?run=12%2C1.0&step=0&layers=1-12")
    expect(page.locator("#flow-marked")).to_contain_text("layers 1 to 12 are marked")
    expect(page.locator("#flow-profile .shapelayer path").first).to_be_attached()
    page.locator("#flow-marked a").click()
    page.wait_for_url("**/flow?run=12%2C1.0&step=0")
    expect(page.locator("#flow-marked")).to_have_count(0)
    expect(page.locator("#flow-profile .shapelayer path")).to_have_count(0)


def test_the_phase_diagram_follows_its_controls(site: Any) -> None:
    page = site.open("/flow?run=12,1.0")
    page.get_by_role("link", name="Theory", exact=True).click()
    page.wait_for_url("**/theory")
    expect(subtitle(page, "theory-phases")).to_contain_text("4,1.0, first step; tanh")
    expect(page.locator("#theory-phases .legend")).to_contain_text("edge of chaos")
    expect(page.locator("#theory-phases .scatterlayer path.point")).to_have_count(4)
    expect(page.locator("#theory-numbers")).to_contain_text("ordered")
    page.locator("#theory-run").click()
    page.get_by_role("option", name="12,2.5").click()
    page.wait_for_url("**/theory?run=12%2C2.5")
    expect(page.locator("#theory-numbers")).to_contain_text("chaotic")
    page.locator("#theory-activation").click()
    page.get_by_role("option", name="relu", exact=True).click()
    page.wait_for_url("**/theory?run=12%2C2.5&activation=relu")
    expect(subtitle(page, "theory-phases")).to_contain_text("12 of 12 hidden layers left out: tanh")
    page.locator("#theory-at label", has_text="last step").click()
    page.wait_for_url("**/theory?run=12%2C2.5&activation=relu&at=last")
    page.reload()
    expect(subtitle(page, "theory-phases")).to_contain_text("12,2.5, step 40; relu")
    expect(page.locator("#theory-run")).to_have_value("12,2.5")


def test_hovering_shows_factor_and_length(site: Any) -> None:
    page = site.open("/theory")
    expect(page.locator("#theory-phases .legend")).to_contain_text("edge of chaos")
    page.locator("#theory-phases .nsewdrag").first.hover()
    expect(page.locator("#theory-phases .hoverlayer")).to_contain_text("per layer")
    expect(page.locator("#theory-phases .hoverlayer")).not_to_contain_text("customdata")


def test_a_click_on_the_map_opens_the_run(site: Any) -> None:
    page = site.open("/theory")
    expect(page.locator("#theory-map .legend")).to_contain_text("of theory")
    area = page.locator("#theory-map .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    assert box is not None
    # Upper right: the deep network of great variance.
    page.mouse.click(box["x"] + box["width"] * 0.95, box["y"] + box["height"] * 0.1)
    page.wait_for_url("**/flow?run=12%2C2.5")
