"""The plane of variances: its edge of chaos, and where the layers of a run lie."""

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

from gradscope import figures, theory
from gradscope.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.runs import Run, Writer
from gradscope.spec import LayerSpec, MetricSpec

RMS = MetricSpec("weight_rms", "Weight RMS", group="weights", scale="log", bounds=(0.0, None))
BIAS = MetricSpec("bias_rms", "Bias RMS", group="weights", bounds=(0.0, None))


def write(
    path: Path, *, activations: str = "tanh tanh tanh", biases: bool = False, norm: str = "none", **config: object
) -> Run:
    """Write a chain whose hidden layers have weight variance 1.5 and, where recorded, bias variance 0.04."""
    names = [*activations.split(), "identity"]
    specs = [
        LayerSpec(id=place, layer=f"hidden.{place}", call=1, depth=place + 1, parents=(place - 1,) if place else (),
                  activation=name, norm=norm if place == 1 else "none", fan_in=50, fan_out=50)
        for place, name in enumerate(names)
    ]  # fmt: skip
    metrics = (RMS, BIAS) if biases else (RMS,)
    writer = Writer(str(path), metrics=metrics, config=config, name=path.name)
    writer.describe(specs)
    values = np.tile([np.sqrt(1.5 / 50), 0.2][: len(metrics)], (len(names), 1))
    writer.rows(0, np.arange(len(names), dtype=np.int32), values, np.ones(values.shape, np.bool_))
    writer.close()
    return Run(str(path))


def traces(figure: go.Figure, mode: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.type == "scatter" and trace.mode == mode]


@pytest.mark.parametrize(
    ("bias_var", "critical"), [(0.001, 1.189190), (0.01, 1.424205), (0.05, 1.760955), (0.1, 1.986073)]
)
def test_the_edge_of_chaos_is_where_theory_has_it(bias_var: float, critical: float) -> None:
    edge = figures.edge_frame("tanh", (0.5, 4.0), (0.0, 0.2))
    assert set(edge["branch"]) == {0}
    assert np.interp(bias_var, edge["bias_var"], edge["weight_var"]) == pytest.approx(critical, abs=1e-3)


def test_the_edge_of_relu_is_a_vertical_line() -> None:
    edge = figures.edge_frame("relu", (0.5, 4.0), (0.0, 0.2))
    np.testing.assert_allclose(edge["weight_var"], 2.0, rtol=1e-6)
    assert len(edge) == 60


def test_layers_lie_at_their_variances(tmp_path: Path) -> None:
    frame = figures.layer_points_frame(write(tmp_path / "a", biases=True))
    assert frame["depth"].tolist() == [1, 2, 3]
    np.testing.assert_allclose(frame["weight_var"], 1.5)
    np.testing.assert_allclose(frame["bias_var"], 0.04)
    assert frame["known"].all()


@pytest.mark.parametrize(
    ("config", "given", "bias_var", "known"),
    [
        ({}, None, 0.0, False),
        ({}, 0.3, 0.3, True),
        ({"bias_var": 0.05, "init": "default"}, None, 0.05, True),
        ({"init": "default"}, None, 1 / 150, True),
        ({"init": "default", "weight_var": 1.5}, None, 0.0, True),
        ({"init": "xavier"}, None, 0.0, True),
        ({"init": "default", "bias": False}, None, 0.0, True),
    ],
)
def test_a_bias_variance_that_was_not_recorded_comes_from_what_is_said_of_it(
    tmp_path: Path, config: dict[str, object], given: float | None, bias_var: float, known: bool
) -> None:
    frame = figures.layer_points_frame(write(tmp_path / "a", **config), bias_var=given)
    assert frame[["bias_var", "known"]].drop_duplicates().values.tolist() == [[pytest.approx(bias_var), known]]


def test_the_diagram_shows_the_layers_and_the_edge(tmp_path: Path) -> None:
    run = write(tmp_path / "a", biases=True)
    figure = figures.phase_diagram(run)
    (points,), (_, edge) = traces(figure, "markers"), traces(figure, "lines")
    np.testing.assert_allclose(points.x, 1.5)
    np.testing.assert_allclose(points.y, 0.04)
    assert edge.name == "edge of chaos, χ = 1"
    assert figure.layout.title.subtitle.text == "a, first step; tanh, chains without normalization"
    assert figure.layout.xaxis.type is None
    assert len(figure.to_json()) < 120_000


def test_the_colour_is_the_factor_per_layer() -> None:
    figure = figures.phase_diagram(activation="tanh", weight_var=(1.0, 2.5), bias_var=(0.05, 0.2))
    cells = next(trace for trace in figure.data if trace.type == "heatmap")
    assert cells.customdata[0, 0, 0] == pytest.approx(0.871224, rel=1e-5)
    assert cells.customdata[0, -1, 0] == pytest.approx(1.064667, rel=1e-5)
    assert cells.customdata[0, -1, 1] == pytest.approx(1.063958, rel=1e-5)
    assert (cells.zmin, cells.zmax) == (-cells.zmax, cells.zmax)


def test_layers_far_off_make_the_axis_logarithmic() -> None:
    figure = figures.phase_diagram(activation="relu", weight_var=(0.01, 4.0))
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.range) == pytest.approx([-2.0, np.log10(4.0)])


def test_the_edge_of_sigmoid_is_shown() -> None:
    figure = figures.phase_diagram(activation="sigmoid")
    edge, name = traces(figure, "lines")
    assert (min(edge.x), max(edge.x)) == (pytest.approx(103.0076, rel=1e-4), pytest.approx(103.4895, rel=1e-4))
    assert name.showlegend
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.xaxis.range[1] > np.log10(150)
    assert list(figure.layout.xaxis.ticktext) == ["1", "3", "10", "30", "100"]


@pytest.mark.parametrize("activation", ["tanh", "selu", "softsign", "gelu"])
def test_the_edge_lies_within_the_axis(activation: str) -> None:
    figure = figures.phase_diagram(activation=activation)
    ends = figure.layout.xaxis.range
    ends = np.power(10.0, ends) if figure.layout.xaxis.type == "log" else ends
    assert ends[0] < theory.critical(activation, 0.2) < ends[1]


def test_layers_in_one_place_are_rings_and_have_room_below(tmp_path: Path) -> None:
    figure = figures.phase_diagram(write(tmp_path / "a", init="xavier"))
    (points,) = traces(figure, "markers")
    assert list(points.y) == [0.0, 0.0, 0.0]
    assert list(points.marker.size) == [16.0, 12.0, 8.0]
    assert list(points.marker.color) == [3, 2, 1]
    assert figure.layout.yaxis.range == pytest.approx((-0.014, 0.2))


def test_layers_of_another_kind_are_counted(tmp_path: Path) -> None:
    run = write(tmp_path / "a", activations="tanh tanh relu", norm="batch", init="xavier")
    figure = figures.phase_diagram(run)
    assert figure.layout.title.subtitle.text.split("<br>")[1] == "2 of 3 hidden layers left out: batch norm, relu"
    assert len(traces(figure, "markers")[0].x) == 1


def test_an_unknown_bias_is_said(tmp_path: Path) -> None:
    lines = figures.phase_diagram(write(tmp_path / "a")).layout.title.subtitle.text.split("<br>")
    assert lines[1] == "bias variance not recorded: these layers are drawn at 0"


def test_unknown_activations_are_said(tmp_path: Path) -> None:
    figure = figures.phase_diagram(write(tmp_path / "a", activations="? ?"))
    assert "the activation functions of this run were not recognised" in figure.layout.annotations[0].text


def test_what_cannot_be_drawn_is_an_error(tmp_path: Path, plain: Run) -> None:
    with pytest.raises(UnknownNameError, match="no metric 'weight_rms'"):
        figures.phase_diagram(plain)
    with pytest.raises(UnknownNameError, match="'tahn'"):
        figures.phase_diagram(activation="tahn")
    with pytest.raises(InvalidValueError) as caught:
        figures.phase_diagram(bias_var=(0.2, 0.1))
    assert str(caught.value) == "bias_var must go from a number of at least 0 to a greater one, not (0.2, 0.1)"
    with pytest.raises(InvalidTypeError, match=r"load it with gs\.load"):
        figures.phase_diagram(str(tmp_path))


def test_skips_are_said(tmp_path: Path) -> None:
    specs = [
        LayerSpec(id=0, layer="a", call=1, depth=1, activation="relu", fan_in=50),
        LayerSpec(id=1, layer="b", call=1, depth=2, parents=(0,), activation="relu", fan_in=50),
        LayerSpec(id=2, layer="c", call=1, depth=3, parents=(0, 1), activation="identity", fan_in=50),
    ]
    writer = Writer(str(tmp_path / "a"), metrics=(RMS,), config={"init": "xavier"}, name="a")
    writer.describe(specs)
    writer.rows(0, np.arange(3, dtype=np.int32), np.full((3, 1), 0.1), np.ones((3, 1), np.bool_))
    writer.close()
    lines = figures.phase_diagram(Run(str(tmp_path / "a"))).layout.title.subtitle.text.split("<br>")
    assert lines[1] == "this run has skips or branches: its gradient meets other factors"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_edge_has_one_colour_in_plot_and_legend(theme: str) -> None:
    """And one that its background, the white of the plane and the paper of the legend, does not swallow."""
    lines = traces(figures.phase_diagram(activation="tanh", theme=theme), "lines")
    (colour,) = {trace.line.color for trace in lines}
    assert any(trace.showlegend for trace in lines)
    assert any(trace.showlegend is False for trace in lines)
    for ground in ("#ffffff", figures.template(theme).layout.paper_bgcolor):
        dark, bright = sorted(map(luminance, (colour, ground)))
        assert (bright + 0.05) / (dark + 0.05) > 3


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 has it."""
    parts = np.array([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
