"""The waterfall: bars that lead from the head's measured norm to the first layer's."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import synthetic_runs

from gradscope import figures
from gradscope.errors import InvalidTypeError, UnknownNameError
from gradscope.figures.marks import INFINITE, NAN, PLAIN, ZERO
from gradscope.figures.waterfall import MOST_STRETCHES, WIDTH, broken, shared_stretches, summary
from gradscope.figures.window import Window
from gradscope.runs import Run, Writer
from gradscope.runs.factors import KINDS, Totals
from gradscope.spec import LayerSpec, MetricSpec

NORMS = ("output_grad_norm", "input_grad_norm", "input_grad_total_norm", "norm_gain", "phi_gain")


def bars(figure: go.Figure) -> list[go.Bar]:
    return [trace for trace in figure.data if trace.type == "bar"]


def dots(figure: go.Figure) -> go.Scatter:
    (found,) = [trace for trace in figure.data if trace.name == "output gradient norm"]
    return found


def split_run(path: Path, layers: int = 5) -> Run:
    """Write a chain with a batch norm of gain 2, an activation function of gain 0.25, pooling of 0.5."""
    writer = Writer(str(path), metrics=[MetricSpec(name, name) for name in NORMS], name=path.name)
    writer.describe(
        [
            LayerSpec(
                id=place,
                layer=f"layers.{place}",
                call=1,
                depth=place + 1,
                parents=(place - 1,) if place else (),
                activation="tanh",
                norm="batch",
            )
            for place in range(layers)
        ]
    )
    output = 0.125 ** np.arange(layers)[::-1]  # a layer's weights make no difference but by half
    values = np.stack([output, output / 2, output / 2, np.full(layers, 2.0), np.full(layers, 0.25)], axis=1)
    writer.rows(0, np.arange(layers, dtype=np.int32), values, np.ones(values.shape, np.bool_))
    writer.close()
    return synthetic_runs.open_run(path)


def test_the_frame_leads_from_the_head_to_the_first_layer(tmp_path: Path) -> None:
    run = split_run(tmp_path / "split")
    frame = figures.waterfall_frame(run)
    assert frame["depth"].tolist() == [4, 3, 2, 1]
    assert frame["upper"].tolist() == [5, 4, 3, 2]
    assert frame["layer"].tolist() == ["layers.3", "layers.2", "layers.1", "layers.0"]
    gains = {"weights": 0.5, "paths": 1.0, "pooling": 0.5, "activation": 0.25, "normalization": 2.0, "unsplit": 1.0}
    for kind, gain in gains.items():
        np.testing.assert_allclose(frame[kind], math.log10(gain), atol=1e-12)
    np.testing.assert_allclose(frame["start"] + frame[list(KINDS)].sum(axis=1), frame["end"], atol=1e-12)
    assert frame["start"].iloc[0] == 0.0
    assert frame["end"].iloc[-1] == pytest.approx(4 * math.log10(0.125), abs=1e-12)


def test_the_bars_hang_together_and_end_at_the_measured_norm(tmp_path: Path) -> None:
    figure = figures.waterfall(split_run(tmp_path / "split"))
    assert [one.name for one in bars(figure)] == ["weights", "pooling", "activation", "normalization"]
    ends = sorted(
        (-float(x), float(base), float(base + y))
        for one in bars(figure)
        for x, base, y in zip(one.x, one.base, one.y, strict=True)
    )
    assert len(ends) == 16
    for (_, _, end), (_, base, _) in pairwise(ends):
        assert base == pytest.approx(end, abs=1e-12)
    levels = dots(figure)
    assert list(levels.x) == [5, 4, 3, 2, 1]
    assert ends[0][1] == levels.y[0]
    assert ends[-1][2] == pytest.approx(levels.y[-1], abs=1e-12)
    assert figure.layout.xaxis.range[0] > figure.layout.xaxis.range[1]


def test_the_subtitle_says_what_does_most(tmp_path: Path) -> None:
    text = figures.waterfall(split_run(tmp_path / "split")).layout.title.subtitle.text
    assert text == (
        "split, step 0<br>−3.61 decades from head to first layer:<br>"
        "weights −1.20, pooling −1.20, activation −2.41, normalization +1.20"
    )


def test_totals_that_are_none_are_not_summed_up() -> None:
    nothing = Totals(**dict.fromkeys(KINDS, 0.0))
    assert summary(nothing) == "+0.00 decades from head to first layer: no kind of factor does anything"
    opposed = Totals(**(dict.fromkeys(KINDS, 0.0) | {"weights": 2.08, "activation": -1.8}))
    assert summary(opposed) == "+0.28 decades from head to first layer: weights +2.08, activation −1.80"
    broken = Totals(**(dict.fromkeys(KINDS, 0.0) | {"weights": math.nan}))
    assert summary(broken) == "no total: a factor is exactly zero, infinite or undefined"


def test_a_run_of_an_earlier_version_is_drawn_unsplit(plain: Run) -> None:
    figure = figures.waterfall(plain)
    assert [one.name for one in bars(figure)] == ["weights", "activation and all else between"]


def test_of_many_layers_neighbours_are_added_up(deep: Run) -> None:
    frame = figures.waterfall_frame(deep)
    shown = shared_stretches(frame)
    assert (len(frame), len(shown), shown["layers"].sum()) == (99, 33, 99)
    np.testing.assert_allclose(shown["start"] + shown[list(KINDS)].sum(axis=1), shown["end"], atol=1e-12)
    assert (shown["upper"].iloc[0], shown["depth"].iloc[-1]) == (100, 1)
    np.testing.assert_array_equal(shown["depth"][:-1], shown["upper"][1:])
    text = figures.waterfall(deep).layout.title.subtitle.text
    assert text.startswith("deep, step 0; 3 layers to a group of bars<br>")
    near = figures.waterfall(deep, window=Window(x=(20.0, 30.0)))
    assert set(range(20, 31)) <= set(dots(near).x)
    assert max(len(one.x) for one in bars(near)) <= MOST_STRETCHES


def test_what_has_no_place_on_the_axis_is_marked(spoiled: Run, infinite: Run) -> None:
    frame = figures.waterfall_frame(spoiled, 100)
    assert frame["mark"].tolist() == [PLAIN] * 9 + [NAN.code, ZERO.code, ZERO.code]
    figure = figures.waterfall(spoiled, 100)
    assert len(bars(figure)[0].x) == 9
    marked = [trace for trace in figure.data if trace.yaxis == "y2" and trace.x[0] is not None]
    assert [len(trace.x) for trace in marked] == [2, 1]
    assert INFINITE.code in figures.waterfall_frame(infinite, 100)["mark"].tolist()


def test_light_and_dark_differ_in_their_ink(plain: Run) -> None:
    light, dark = (figures.waterfall(plain, theme=theme) for theme in ("light", "dark"))
    assert dots(light).marker.color != dots(dark).marker.color
    assert [one.marker.color for one in bars(light)] == [one.marker.color for one in bars(dark)]


def test_what_cannot_be_drawn_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidTypeError, match=r"^run is a gradscope Run, not str; load it with gs\.load\(path\)$"):
        figures.waterfall(str(folder))  # type: ignore[arg-type]
    synthetic_runs.write(tmp_path / "one", depth=0, steps=range(3))
    (note,) = figures.waterfall(synthetic_runs.open_run(tmp_path / "one")).layout.annotations
    assert note.text == "run 'one' has one layer: there is no way to go"
    synthetic_runs.write(tmp_path / "none", steps=range(0))
    (note,) = figures.waterfall(synthetic_runs.open_run(tmp_path / "none")).layout.annotations
    assert note.text == "run 'none' has no recorded step of metric 'output_grad_norm'<br>yet"
    writer = Writer(str(tmp_path / "few"), metrics=[MetricSpec("output_grad_norm", "Norm")])
    writer.close()
    with pytest.raises(UnknownNameError, match=r"^the ledger needs input_grad_norm and input_grad_total_norm, which"):
        figures.waterfall_frame(synthetic_runs.open_run(tmp_path / "few"))


def test_the_frame_holds_plain_columns(plain: Run) -> None:
    frame = figures.waterfall_frame(plain, 0)
    assert frame.columns.tolist() == ["depth", "upper", "layer", "layers", *KINDS, "start", "end", "mark"]
    assert isinstance(frame.index, pd.RangeIndex)


def test_the_bars_of_the_ledger_are_split_alike(tmp_path: Path, plain: Run) -> None:
    run = split_run(tmp_path / "split")
    assert [one.name for one in bars(figures.ledger(run))] == [
        *("weight gain", "activation function", "normalization", "pooling and the like")
    ]
    frame = figures.ledger_frame(run)
    factors = frame[["phi_gain", "norm_gain", "pool_gain", "join_gain"]]
    np.testing.assert_allclose(factors.sum(axis=1)[:-1], frame["activation_gain"][:-1], atol=1e-12)
    assert factors.iloc[-1].isna().all()
    assert [one.name for one in bars(figures.ledger(plain))] == ["weight gain", "activation gain"]


def test_no_line_of_the_summary_is_wider_than_half_a_page() -> None:
    every = Totals(weights=-10.3, paths=2.1, pooling=-11.0, activation=-1.01, normalization=12.2, unsplit=-10.1)
    text = summary(every)
    lines = broken(text)
    assert len(text) > WIDTH
    assert max(map(len, lines)) <= WIDTH
    assert " ".join(lines) == text
