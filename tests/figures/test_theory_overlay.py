"""What theory predicts over what was measured: where it is anchored, how wide its band is, and why there is none."""

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from gradscope import figures
from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.figures.prediction import predicted
from gradscope.runs import Run, Writer
from gradscope.spec import LayerSpec, MetricSpec

SIGNAL = MetricSpec("output_grad_norm", "Output gradient norm", scale="log", bounds=(0.0, None))
METRICS = (SIGNAL, *(MetricSpec(name, name, scale="log") for name in ("weight_rms", "output_rms", "sample_spread")))
WIDTH = 64


def write(
    path: Path, *, activation: str = "relu", layers: int = 6, metrics: int = 4, kind: str = "Linear", **config: object
) -> Run:
    """Write a chain of weight variance 1 whose gradient is halved in mean square by every layer, as relu has it."""
    specs = [
        LayerSpec(id=place, layer=f"hidden.{place}", call=1, depth=place + 1, parents=(place - 1,) if place else (),
                  activation="identity" if place == layers - 1 else activation, kind=kind, fan_in=WIDTH, fan_out=WIDTH)
        for place in range(layers)
    ]  # fmt: skip
    writer = Writer(str(path), metrics=METRICS[:metrics], config={"init": "xavier"} | config, name=path.name)
    writer.describe(specs)
    signal = 3.0 * 0.5 ** (0.5 * np.arange(layers - 1, -1, -1.0))
    values = np.column_stack([signal, *np.tile([[WIDTH**-0.5], [1.0], [0.5]], layers)])[:, :metrics]
    for step in (0, 10):
        writer.rows(step, np.arange(layers, dtype=np.int32), values, np.ones(values.shape, np.bool_))
    writer.close()
    return Run(str(path))


def frame(values: list[float], relative: bool = True, **changes: object) -> pd.DataFrame:
    """Return predictions of the output gradient with a band that widens with the distance from the last layer."""
    half = np.exp(0.1 * np.sqrt(np.arange(len(values) - 1, -1, -1.0)))
    given = {
        "step": 0, "depth": np.arange(1, len(values) + 1), "layer": "?", "metric": "output_grad_norm",
        "value": values, "low": values / half, "high": values * half, "source": "theory", "status": "",
    }  # fmt: skip
    rows = pd.DataFrame(given | changes)
    rows.attrs["relative"] = ("output_grad_norm",) if relative else ()
    return rows


def dashed(figure: go.Figure) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.line.dash == "dash"]


def subtitle(figure: go.Figure) -> list[str]:
    return figure.layout.title.subtitle.text.split("<br>")


def test_theory_of_a_relu_chain_lies_on_its_measured_profile(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    figure = figures.gradient_flow(run, theory=True)
    (line,) = dashed(figure)
    measured = run.profile("output_grad_norm", 0).to_numpy()
    # The typical net is a little below the mean over nets, by kappa / 4N per layer.
    np.testing.assert_allclose(line.y, measured, rtol=0.1)
    assert line.y[4] == pytest.approx(measured[4])
    assert line.name == "theory, 95 % band"
    assert subtitle(figure)[2] == "theory (dashed): 0.693 per layer; set to the measured value at depth 5"
    assert figure.layout.showlegend


def test_values_known_up_to_a_factor_are_anchored_in_the_last_hidden_layer(tmp_path: Path) -> None:
    found = predicted(write(tmp_path / "run"), 0, "output_grad_norm", frame([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert found.anchor == 5
    measured = 3.0 * 0.5**0.5
    np.testing.assert_allclose(found.frame["value"], measured * 2.0 ** np.arange(-4, 2))
    # Widths are those of the ratio to the anchor: none there, and that of one layer on either side.
    half = np.log(found.frame["high"] / found.frame["value"])
    np.testing.assert_allclose(half, 0.1 * np.sqrt([4, 3, 2, 1, 0, 1]), atol=1e-12)


def test_absolute_values_are_drawn_as_they_are(tmp_path: Path) -> None:
    given = frame([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], relative=False)
    figure = figures.gradient_flow(write(tmp_path / "run"), theory=given)
    assert list(dashed(figure)[0].y) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert subtitle(figure)[2] == "theory (dashed): from the variances of the weights"


def test_a_layer_of_which_theory_says_nothing_breaks_line_and_band(tmp_path: Path) -> None:
    values = [1.0, 2.0, np.nan, 8.0, 16.0, 32.0]
    given = frame(values, status=["", "", "a product is not watched", "", "", ""])
    figure = figures.gradient_flow(write(tmp_path / "run"), theory=given)
    band = next(trace for trace in figure.data if trace.fill == "toself")
    assert np.isnan(band.x).sum() == 2
    assert np.isnan(dashed(figure)[0].y).tolist() == [False, False, True, False, False, False]
    assert subtitle(figure)[3] == "no theory for depth 3: a product is not watched"


def test_a_step_after_the_first_says_what_is_compared(tmp_path: Path) -> None:
    text = " ".join(subtitle(figures.gradient_flow(write(tmp_path / "run"), 10, theory=True)))
    assert "for random weights of these variances" in text


def test_without_theory_there_is_a_reason_and_the_decay(tmp_path: Path) -> None:
    cases = {
        "no theory: no metric 'weight_rms'; there are: output_grad_norm": write(tmp_path / "few", metrics=1),
        "no theory for depth 1–6: a run does not hold the geometry of Conv2d 'hidden.0': predict from the model": write(
            tmp_path / "conv", kind="Conv2d"
        ),
    }
    for text, run in cases.items():
        figure = figures.gradient_flow(run, theory=True)
        assert " ".join(subtitle(figure)[2:]) == text
        assert not dashed(figure)
        assert any(trace.line.dash == "dot" for trace in figure.data)
    figure = figures.gradient_flow(write(tmp_path / "run"), metric="sample_spread", theory=frame([1.0] * 6))
    assert subtitle(figure)[1] == "theory says nothing of sample_spread"


def test_biases_of_which_nothing_is_known_are_said(tmp_path: Path) -> None:
    run = write(tmp_path / "run", init=None)
    assert subtitle(figures.gradient_flow(run, theory=True))[3] == "taken without biases, of which the run says nothing"


def test_the_last_prediction_before_the_step_counts(tmp_path: Path) -> None:
    early, late = frame([1.0] * 6, relative=False), frame([2.0] * 6, relative=False, step=5)
    given = pd.concat([early, late])
    run = write(tmp_path / "run")
    assert predicted(run, 0, "output_grad_norm", given).frame["value"].tolist() == [1.0] * 6
    assert predicted(run, 10, "output_grad_norm", given).frame["value"].tolist() == [2.0] * 6


def test_only_the_first_of_several_runs_gets_theory(tmp_path: Path) -> None:
    runs = [write(tmp_path / name) for name in ("a", "b")]
    figure = figures.gradient_flow(runs, theory=True)
    assert len(dashed(figure)) == 1
    assert subtitle(figure)[1].endswith("set to the measured value at depth 5")


def test_a_deep_prediction_stays_small(tmp_path: Path) -> None:
    run = write(tmp_path / "run", layers=3000)
    figure = figures.gradient_flow(run, theory=frame([1.0] * 3000))
    assert len(figure.to_json()) < 120_000
    assert len(dashed(figure)[0].x) == 300


def test_what_is_no_prediction_is_an_error(tmp_path: Path) -> None:
    run = write(tmp_path / "run")
    with pytest.raises(InvalidTypeError) as caught:
        figures.gradient_flow(run, theory="yes")
    assert str(caught.value) == "theory is True or a frame of predictions, not str"
    with pytest.raises(InvalidValueError) as failed:
        figures.gradient_flow(run, theory=frame([1.0] * 6).drop(columns=["low", "high"]))
    assert str(failed.value) == "the frame of predictions lacks the columns low, high"
