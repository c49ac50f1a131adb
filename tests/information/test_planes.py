"""The information plane by several estimators: each is the estimator itself, and the bins' share is plain to see."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from gradscope import information
from gradscope.errors import GradscopeError, InvalidValueError

# All patterns of 10 bits, and whether more than half of them are set.
BITS = np.array(list(itertools.product((-1.0, 1.0), repeat=10)))
LABELS = (BITS.sum(axis=1) > 0).astype(int)
RANDOM = np.random.default_rng(0)
FIRST = np.tanh(BITS @ RANDOM.standard_normal((10, 6)) / math.sqrt(10))
LAYERS = {"first": FIRST, "second": np.tanh(FIRST @ RANDOM.standard_normal((6, 2)) / math.sqrt(6))}


def test_every_point_is_what_the_estimator_says() -> None:
    frame = information.planes(LAYERS, LABELS, bins=(5, 30), bounds=(-1, 1), noise_var=0.2, rows=2000)
    assert frame[["depth", "layer", "setting"]].to_numpy().tolist() == [
        [depth, layer, setting]
        for depth, layer in ((1, "first"), (2, "second"))
        for setting in ("5 bins", "30 bins", "noise of variance 0.2")
    ]
    binned = information.binning(LAYERS["second"], LABELS, bins=30, bounds=(-1, 1))
    chosen = frame[(frame["layer"] == "second") & (frame["setting"] == "30 bins")]
    assert chosen[["y", "y_low", "y_high"]].to_numpy().tolist() == [[binned.value, binned.low, binned.high]]
    noisy = information.kde_bounds(LAYERS["first"], noise_var=0.2)
    (row,) = frame.loc[2:2, ["x", "x_low", "x_high"]].to_numpy().tolist()
    assert row == pytest.approx([noisy.value, noisy.low, noisy.high])
    assert (frame["n"] == 1024).all()
    assert (frame["unit"] == "nats").all()


def test_finer_bins_find_all_there_is_whatever_the_layer() -> None:
    """The truth is ln n and H(Y) for every layer: the coarse bins' lower numbers are the bins'."""
    frame = information.planes(LAYERS, LABELS, bins=(3, 30, 10**6), noise_var=None)
    second = frame[frame["layer"] == "second"]
    assert second["x"].is_monotonic_increasing
    finest = second.iloc[-1]
    share = LABELS.mean()
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert finest["x"] == pytest.approx(finest["x_most"], rel=0.01) == pytest.approx(math.log(1024), rel=0.01)
    assert finest["y"] == pytest.approx(finest["y_most"], rel=0.01) == pytest.approx(entropy, rel=0.01)
    assert second["x"].iloc[0] < 0.6 * finest["x"]


def test_bits_are_nats_over_ln_2() -> None:
    nats, bits = (information.planes(LAYERS, LABELS, bins=(10,), unit=unit) for unit in ("nats", "bits"))
    numbers = ["x", "x_low", "x_high", "y", "y_low", "y_high", "x_most", "y_most"]
    assert (bits["unit"] == "bits").all()
    np.testing.assert_allclose(nats[numbers] / math.log(2), bits[numbers], rtol=1e-12)


def test_bounds_by_noise_look_at_a_random_choice_of_rows() -> None:
    frame = information.planes(LAYERS, LABELS, bins=(10,), rows=100)
    noisy = frame[frame["setting"] == "noise of variance 0.1"]
    assert noisy["n"].tolist() == [100, 100]
    assert noisy["x_most"].tolist() == pytest.approx([math.log(100)] * 2)
    assert (noisy["x"] <= noisy["x_most"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "dits"}, "unit is nats or bits, not 'dits'"),
        ({"noise_var": 0.0}, "noise_var is a positive number, not 0.0"),
        ({"rows": 2}, "rows is a whole number from 4 on, not 2"),
        ({"bins": (1,)}, "bins is a whole number from 2 on, not 1"),
        ({"y": LABELS[:9]}, "y has 9 labels for 1024 samples"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GradscopeError) as no:
        information.planes(LAYERS, **({"y": LABELS} | options))
    assert isinstance(no.value, InvalidValueError)
    assert str(no.value) == message
