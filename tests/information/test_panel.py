"""The panel gives what its estimators give alone, from matrices that it shares."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import ThreadpoolController

from gradscope import information
from gradscope.errors import GradscopeError, InvalidValueError, UnknownNameError
from gradscope.information import spectrum
from gradscope.information.estimate import Estimate
from gradscope.information.panel import ESTIMATORS, Layer

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((200, 6))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
WIDE = np.tanh(X @ RANDOM.standard_normal((6, 300)))
LAYERS = {"a": np.tanh(X @ RANDOM.standard_normal((6, 8))), "wide": WIDE, "flat": np.full((200, 4), 0.5)}


def value(frame: pd.DataFrame, layer: str, metric: str) -> float:
    (found,) = frame.loc[(frame["layer"] == layer) & (frame["metric"] == metric), "value"]
    return float(found)


def test_the_panel_is_its_estimators_on_all_rows() -> None:
    frame = information.panel(LAYERS, X, Y, rows=200, metrics="all")
    onehot = np.eye(3)[Y]
    for name in ("a", "wide"):
        t = LAYERS[name]
        expected = {
            "effective_rank": information.effective_rank(t),
            "participation_ratio": information.participation_ratio(t),
            "cka_input": information.cka(t, X),
            "cka_label": information.cka(t, onehot),
            "input_information": information.kde_bounds(t, noise_var=0.1),
            "label_information": information.kde_bounds(t, Y, noise_var=0.1),
            "pca_saturation": information.pca_saturation(t),
            "input_information_binned": information.binning(t),
            "label_information_binned": information.binning(t, Y),
            "label_information_sliced": information.sliced(t, onehot, slices=50),
            "input_reconstruction": information.reconstruction(t, X),
            "label_accuracy": information.probe_accuracy(t, Y),
        }
        rows = frame[frame["layer"] == name].set_index("metric")
        assert set(rows.index) == set(expected)
        for metric, one in expected.items():
            assert rows.loc[metric, "value"] == pytest.approx(one.value, rel=1e-6, abs=1e-9), metric
            assert rows.loc[metric, ["estimator", "n", "bound", "unit"]].tolist() == [
                one.estimator,
                one.n,
                one.bound,
                one.unit,
            ]


@pytest.mark.parametrize("metrics", ["default", "all"])
def test_every_layer_has_one_spectrum_and_one_matrix_of_pairs(monkeypatch: pytest.MonkeyPatch, metrics: str) -> None:
    """Of the smaller side, whatever the number of metrics that look at them; and one matrix of the sampled inputs."""
    shapes: dict[str, list[tuple[int, ...]]] = {"eigh": [], "gram_of": []}

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(given: np.ndarray) -> Any:
            shapes[name].append(given.shape)
            return function(given)

        monkeypatch.setattr(module, name, call)

    counted(spectrum, "eigh")
    counted(sys.modules["gradscope.information.panel"], "gram_of")
    information.panel(LAYERS, X, Y, rows=64, metrics=metrics)
    assert sorted(shapes["eigh"]) == [(4, 4), (8, 8), (200, 200)]
    assert sorted(shapes["gram_of"]) == [(64, 3), (64, 4), (64, 6), (64, 8), (64, 300)]


def test_a_layer_that_tells_no_samples_apart_holds_nothing() -> None:
    frame = information.panel(LAYERS, X, Y)
    nothing = ["effective_rank", "participation_ratio", "input_information", "label_information"]
    assert [value(frame, "flat", metric) for metric in nothing] == pytest.approx([0.0] * 4, abs=1e-12)
    assert math.isnan(value(frame, "flat", "cka_input"))


def test_pairs_are_compared_on_some_rows_and_ranks_on_all() -> None:
    frame = information.panel(LAYERS, X, Y, rows=64).set_index(["layer", "metric"])
    assert frame.loc[("a", "input_information"), "n"] == 64
    assert frame.loc[("a", "effective_rank"), "n"] == 200
    assert frame.loc[("a", "input_information"), "parameters"] == "noise_var=0.1"


def test_the_same_seed_gives_the_same_panel() -> None:
    one, two = (information.panel(LAYERS, X, Y, rows=50, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one, two)
    assert value(information.panel(LAYERS, X, Y, rows=50, seed=4), "a", "input_information") != value(
        one, "a", "input_information"
    )


def test_a_continuous_target_has_no_labels() -> None:
    """CKA and sliced information take it as it is; for the rest every sample would be a label of its own."""
    target = X[:, :2] + 0.1
    frame = information.panel(LAYERS, X, target, rows=200, metrics="all")
    assert value(frame, "a", "cka_label") == pytest.approx(information.cka(LAYERS["a"], target).value, rel=1e-6)
    sliced = information.sliced(LAYERS["a"], target, slices=50).value
    assert value(frame, "a", "label_information_sliced") == pytest.approx(sliced, rel=1e-6)
    refused = frame[frame["metric"].isin(["label_information", "label_information_binned", "label_accuracy"])]
    assert refused["value"].isna().all()
    assert set(refused["warning"]) == {"y holds continuous values, not labels"}
    whole = information.panel(LAYERS, X, Y.astype(float))
    pd.testing.assert_frame_equal(whole, information.panel(LAYERS, X, Y))


def test_without_labels_what_needs_them_is_left_out() -> None:
    metrics = set(information.panel({"a": X}, X)["metric"])
    assert metrics == {"effective_rank", "participation_ratio", "cka_input", "input_information"}


def test_progress_goes_to_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    information.panel({"a": X}, X, metrics="effective_rank", progress=True)
    streams = capsys.readouterr()
    assert "information" in streams.err
    assert streams.out == ""


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"layers": {"a": X[:9]}}, InvalidValueError, "layer 'a' has 9 samples and x has 200"),
        (
            {"layers": {"a": np.where(X[0, 0] == X, math.nan, X)}},
            InvalidValueError,
            "layer 'a' holds NaN or infinity in 1 of 1200 entries",
        ),
        (
            {"metrics": "effectiv_rank"},
            UnknownNameError,
            "no information metric 'effectiv_rank'; there are: default, all, effective_rank, participation_ratio, "
            "cka_input, cka_label, input_information, label_information, pca_saturation, input_information_binned, "
            "label_information_binned, label_information_sliced, input_reconstruction, label_accuracy "
            "(did you mean 'effective_rank'?)",
        ),
        ({"rows": 3}, InvalidValueError, "rows is a whole number from 4 on, not 3"),
    ],
)
def test_bad_input_is_named(given: dict[str, Any], kind: type[GradscopeError], message: str) -> None:
    with pytest.raises(kind) as no:
        information.panel(**({"layers": {"a": X}, "x": X} | given))
    assert str(no.value) == message


@pytest.mark.parametrize("threads", [1, 2])
def test_the_numbers_do_not_depend_on_threads(threads: int) -> None:
    """And the threads of linear algebra come back, also where a layer fails."""
    libraries = ThreadpoolController().select(user_api="blas")
    with libraries.limit(limits=threads):
        frame = information.panel(LAYERS, X, Y, metrics="all")
        assert {one["num_threads"] for one in libraries.info()} == {threads}
    with libraries.limit(limits=1):
        pd.testing.assert_frame_equal(frame, information.panel(LAYERS, X, Y, metrics="all"))


def test_an_error_in_one_of_the_threads_is_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(layer: Layer) -> Estimate:
        raise ZeroDivisionError("of a reader")

    monkeypatch.setitem(ESTIMATORS, "effective_rank", fail)
    before = ThreadpoolController().info()
    with pytest.raises(ZeroDivisionError, match=r"^of a reader$"):
        information.panel(LAYERS, X, Y)
    assert ThreadpoolController().info() == before


def test_what_the_sample_does_not_allow_has_a_reason_instead_of_a_value() -> None:
    """One sample of a label are fewer than the folds: all else is estimated."""
    labels = np.r_[2, np.arange(199) % 2]
    frame = information.panel(LAYERS, X, labels, metrics=["effective_rank", "label_accuracy"])
    assert math.isnan(value(frame, "a", "label_accuracy"))
    (warning,) = set(frame.loc[frame["metric"] == "label_accuracy", "warning"])
    assert warning == "a label of y has 1 samples, fewer than the 5 folds"
    assert value(frame, "a", "effective_rank") == information.effective_rank(LAYERS["a"]).value
