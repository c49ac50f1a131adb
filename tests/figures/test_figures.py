from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import synthetic_runs

from gradscope import figures
from gradscope.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.runs import Run, Runs, Writer
from gradscope.spec import LayerSpec, MetricSpec

OVER_METRICS: dict[str, Callable[..., go.Figure]] = {
    "gradient_flow": lambda run, metric, **rest: figures.gradient_flow(run, metric=metric, **rest),
    "heatmap": figures.heatmap,
    "timeline": figures.timeline,
}


def legend(figure: go.Figure) -> list[str]:
    return [trace.name for trace in figure.data if trace.showlegend]


@pytest.mark.parametrize("draw", OVER_METRICS.values(), ids=OVER_METRICS)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("which", ["plain", "spoiled", "infinite", "deep"])
def test_every_figure_over_every_metric(
    draw: Callable[..., go.Figure], theme: str, which: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(which)
    for name, spec in run.metrics.items():
        figure = draw(run, name, theme=theme)
        assert spec.label in figure.layout.title.text
        assert figure.data
        figure.to_json()


def test_units_and_scales_come_from_the_metric(plain: Run) -> None:
    figure = figures.gradient_flow(plain, metric="information")
    assert figure.layout.yaxis.title.text == "Information (bit)"
    assert figure.layout.yaxis.type == "linear"
    figure = figures.gradient_flow(plain)
    assert figure.layout.yaxis.title.text == "Output gradient norm"
    assert figure.layout.yaxis.type == "log"


def test_the_decay_is_in_the_subtitle(plain: Run, spoiled: Run) -> None:
    text = figures.gradient_flow(plain).layout.title.subtitle.text
    assert text == "plain, step 0<br>decay 0.5 per layer [0.5, 0.5], −2.11 decades over 8 layers"
    text = figures.gradient_flow(spoiled).layout.title.subtitle.text
    assert text == "spoiled, step 0<br>the output gradient of the lowest layer is exactly zero"
    text = figures.gradient_flow(spoiled, 100).layout.title.subtitle.text
    assert text == "spoiled, step 100<br>no decay rate (too few or undefined values)"


@pytest.mark.parametrize("draw", OVER_METRICS.values(), ids=OVER_METRICS)
def test_zero_and_nan_have_a_legend_entry(draw: Callable[..., go.Figure], spoiled: Run, plain: Run) -> None:
    kwargs: dict[str, Any] = {"step": 100} if draw is OVER_METRICS["gradient_flow"] else {}
    assert legend(draw(spoiled, "output_grad_norm", **kwargs)) == ["exact zero", "not a number"]
    assert legend(draw(plain, "output_grad_norm", **kwargs)) == []


def test_marks_lie_in_a_strip_of_their_own(spoiled: Run) -> None:
    figure = figures.gradient_flow(spoiled, 100)
    assert list(figure.layout.yaxis2.ticktext) == ["0", "NaN"]
    strip = [trace for trace in figure.data if trace.yaxis == "y2" and trace.x[0] is not None]
    assert [(trace.name, list(trace.x), trace.y[0]) for trace in strip] == [
        ("exact zero", [1, 2], 0),
        ("not a number", [3], 1),
    ]
    assert figure.layout.yaxis.domain[0] > figure.layout.yaxis2.domain[1]


def test_runs_are_overlaid_with_their_decay(plain: Run, spoiled: Run, sweep: Runs) -> None:
    figure = figures.gradient_flow([plain, spoiled])
    assert [trace.name for trace in figure.data if trace.mode == "lines+markers"] == ["plain · 0.5", "spoiled · 0"]
    figure = figures.gradient_flow(sweep.select(depth=8, seed=0, activation="relu"))
    names = [trace.name.split(" · ")[0] for trace in figure.data if trace.mode == "lines+markers"]
    assert names == ["default", "kaiming", "xavier"]


def test_further_runs_use_their_nearest_step(plain: Run, sweep: Runs) -> None:
    other = next(iter(sweep))
    figure = figures.gradient_flow([plain, other], 100)
    assert " · step 50" in figure.data[-1].name
    assert " (nearest recorded); decay per layer" in figure.layout.title.subtitle.text


def test_one_mark_per_column_whatever_the_length(folder: Path) -> None:
    synthetic_runs.write(folder / "zeros", steps=range(0, 4000, 2), spoil="zero")
    figure = figures.timeline(synthetic_runs.open_run(folder / "zeros"))
    (strip,) = [trace for trace in figure.data if trace.yaxis == "y2" and trace.x[0] is not None]
    assert len(strip.x) == 150


def test_the_mode_bar_cannot_upload() -> None:
    assert "sendChartToCloud" in figures.CONFIG["modeBarButtonsToRemove"]
    assert figures.CONFIG["displaylogo"] is False


def test_dark_and_light_templates(plain: Run) -> None:
    light, dark = (figures.ledger(plain, theme=theme) for theme in ("light", "dark"))
    assert light.layout.template.layout.paper_bgcolor == "#ffffff"
    assert dark.layout.template.layout.paper_bgcolor == "#242424"
    with pytest.raises(InvalidValueError) as caught:
        figures.ledger(plain, theme="solarized")
    assert str(caught.value) == "theme must be 'light' or 'dark', not 'solarized'"


@pytest.mark.parametrize("draw", OVER_METRICS.values(), ids=OVER_METRICS)
def test_an_unknown_metric_is_named_with_the_choices(draw: Callable[..., go.Figure], plain: Run) -> None:
    with pytest.raises(UnknownNameError) as caught:
        draw(plain, "output_grad_nrm")
    names = ", ".join(synthetic_runs.NAMES)
    assert str(caught.value) == (f"no metric 'output_grad_nrm'; there are: {names} (did you mean 'output_grad_norm'?)")


def test_the_sweep_map_knows_its_runs(sweep: Runs) -> None:
    figure = figures.sweep_map(sweep)
    assert [one.text for one in figure.layout.annotations] == ["relu", "sigmoid", "tanh"]
    first = next(trace for trace in figure.data if trace.type == "heatmap")
    assert list(figure.layout.xaxis.ticktext) == ["2", "8", "32"]
    assert list(figure.layout.yaxis.ticktext) == ["default", "kaiming", "xavier"]
    assert all(cell in sweep for row in first.customdata for cell in row)
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    assert "exact zero in the lowest layer" in legend(figure)


def test_a_sweep_without_runs_says_so() -> None:
    figure = figures.sweep_map([])
    assert figure.layout.annotations[0].text == "there is no run to show"


def test_loss_of_several_runs(plain: Run, spoiled: Run) -> None:
    figure = figures.loss([plain, spoiled])
    assert [trace.name for trace in figure.data] == ["plain", "spoiled"]
    assert figure.layout.yaxis.title.text == "Loss"


def test_a_constant_fraction_keeps_the_colours_of_its_bounds(tmp_path: Path) -> None:
    spec = MetricSpec("saturation", "Saturation", unit="fraction", bounds=(0.0, 1.0))
    writer = Writer(str(tmp_path / "run"), metrics=[spec])
    writer.describe([LayerSpec(id=place, layer=str(place), call=1, depth=place + 1) for place in range(3)])
    for step in range(4):
        writer.rows(step, np.arange(3, dtype=np.int32), np.zeros((3, 1)), np.ones((3, 1), dtype=np.bool_))
    writer.close()
    cells = next(one for one in figures.heatmap(Run(str(tmp_path / "run")), "saturation").data if one.type == "heatmap")
    assert (cells.zmin, cells.zmax) == (0.0, 1.0)


@pytest.mark.parametrize("draw", ["gradient_flow", "heatmap", "ledger", "loss", "sweep_map", "timeline"])
def test_a_path_is_no_run(draw: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidTypeError) as caught:
        getattr(figures, draw)(str(tmp_path))
    assert str(caught.value) == "run is a gradscope Run, not str; load it with gs.load(path)"
    with pytest.raises(InvalidTypeError, match=r"^run is a gradscope Run, not \w*Path; load it with gs\.load\(path\)$"):
        getattr(figures, draw)(tmp_path)


def test_cells_of_a_heatmap_show_their_values(plain: Run, tmp_path: Path) -> None:
    cells = next(one for one in figures.heatmap(plain).data if one.type == "heatmap")
    np.testing.assert_allclose(cells.customdata, 10.0 ** np.asarray(cells.z), rtol=1e-5)
    assert "%{customdata:.3~g}" in cells.hovertemplate
    # What four bytes do not hold stays a power of ten, rather than zero.
    synthetic_runs.write(tmp_path / "tiny", rate=1e-6)
    cells = next(
        one for one in figures.heatmap(synthetic_runs.open_run(tmp_path / "tiny")).data if one.type == "heatmap"
    )
    assert cells.customdata is None
    assert "10<sup>%{z:.2f}</sup>" in cells.hovertemplate
