"""The decay against scipy, known rates, and simulated random walks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradscope.errors import InvalidValueError
from gradscope.runs import Decay, Run, Writer
from gradscope.runs.decay import decay
from gradscope.spec import MetricSpec


def norms(values: Any, depths: Any = None) -> pd.Series[float]:
    index = range(1, len(values) + 1) if depths is None else depths
    return pd.Series(np.asarray(values, dtype=np.float64), index=pd.Index(index, name="depth"))


def check(found: Decay, rate: float, low: float, high: float, decades: float, layers: int) -> None:
    got = (found.rate, found.low, found.high, found.decades)
    np.testing.assert_allclose(got, (rate, low, high, decades), rtol=1e-12)
    assert found.layers == layers


def test_a_constant_rate_has_an_interval_of_no_width() -> None:
    found = decay(range(1, 6), norms(0.25 ** np.arange(4, -1, -1)))
    check(found, 0.25, 0.25, 0.25, 4 * math.log10(0.25), 5)


@given(st.lists(st.floats(1e-10, 1e10), min_size=4, max_size=40))
def test_the_interval_is_that_of_scipy(values: list[float]) -> None:
    found = decay(range(1, len(values) + 1), norms(values))
    increments = -np.diff(np.log(values))
    mean = increments.mean()
    error = stats.sem(increments)
    low, high = (mean, mean) if error == 0 else stats.t.interval(0.95, len(increments) - 1, mean, error)
    np.testing.assert_allclose(np.log([found.rate, found.low, found.high]), [mean, low, high], rtol=1e-7, atol=1e-10)
    assert found.decades == pytest.approx(math.log10(values[0]) - math.log10(values[-1]), abs=1e-9)


@given(st.lists(st.floats(1e-10, 1e10), min_size=2, max_size=20), st.floats(1e-20, 1e20))
def test_the_scale_of_the_loss_does_not_matter(values: list[float], scale: float) -> None:
    trunk = range(1, len(values) + 1)
    plain, scaled = decay(trunk, norms(values)), decay(trunk, norms(np.array(values) * scale))
    np.testing.assert_allclose(scaled.decades, plain.decades, atol=1e-9)


def test_under_three_increments_there_is_a_rate_but_no_interval() -> None:
    check(decay([1, 2, 3], norms([0.01, 0.1, 1.0])), 0.1, math.nan, math.nan, -2.0, 3)
    check(decay([1, 2], norms([0.1, 1.0])), 0.1, math.nan, math.nan, -1.0, 2)
    check(decay([1], norms([0.1])), math.nan, math.nan, math.nan, math.nan, 1)
    check(decay([], norms([])), math.nan, math.nan, math.nan, math.nan, 0)


def test_zeros() -> None:
    nan = math.nan
    check(decay(range(1, 6), norms([0, 0, 0.1, 1, 1])), 0.0, nan, nan, -math.inf, 5)
    check(decay(range(1, 6), norms([1, 1, 0.1, 1, 0])), math.inf, nan, nan, math.inf, 5)
    check(decay(range(1, 6), norms([0, 1, 1, 1, 0])), nan, nan, nan, nan, 5)
    # A dead branch within, with the signal coming past it by a skip: the total is known, its spread is not.
    check(decay(range(1, 6), norms([0.01, 1, 0, 1, 100])), 0.1, nan, nan, -4.0, 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_nan_and_infinity_anywhere_leave_nothing(bad: float, place: int) -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    values[place] = bad
    check(decay(range(1, 6), norms(values)), math.nan, math.nan, math.nan, math.nan, 5)


def test_beyond_float64_the_ends_are_zero_and_infinity() -> None:
    found = decay(range(1, 6), norms([1e-300, 1e300, 1e-300, 1e300, 1e-300]))
    assert (found.rate, found.low, found.high) == (1.0, 0.0, math.inf)


def test_a_missing_layer_is_spanned() -> None:
    values = 0.5 ** np.arange(6, -1, -1)
    kept = [0, 1, 3, 4, 6]
    found = decay(range(1, 8), norms(values[kept], [one + 1 for one in kept]))
    check(found, 0.5, 0.5, 0.5, 6 * math.log10(0.5), 5)


def test_spanned_increments_weigh_by_their_span() -> None:
    """Generalised least squares of the log-norms, whose covariance is that of a random walk: by matrices."""
    rng = np.random.default_rng(5)
    places = np.array([0, 1, 4, 5, 7, 8])
    logs = np.cumsum(rng.normal(0.3, 1.0, 9))[places]
    spans = np.diff(places)
    y, x, inverse = -np.diff(logs), spans.astype(float), np.diag(1.0 / spans)
    slope = (x @ inverse @ y) / (x @ inverse @ x)
    residual = y - slope * x
    error = math.sqrt(residual @ inverse @ residual / (len(y) - 1) / (x @ inverse @ x))
    half = stats.t.ppf(0.975, len(y) - 1) * error
    found = decay(range(1, 10), norms(np.exp(logs), places + 1))
    np.testing.assert_allclose(
        [found.rate, found.low, found.high], np.exp([slope, slope - half, slope + half]), rtol=1e-12
    )


def test_the_interval_covers_the_drift_of_a_random_walk() -> None:
    """Nominal 95 %; the regression of levels on depth, for comparison, is far from it (theory: 23 %)."""
    rng = np.random.default_rng(0)
    drift, trials, layers = -0.02, 2000, 31
    covered = regression = 0
    depth = np.arange(layers)
    for _ in range(trials):
        logs = np.concatenate([[0.0], np.cumsum(rng.normal(drift, 0.145, layers - 1))])[::-1]
        found = decay(range(1, layers + 1), norms(np.exp(logs)))
        covered += found.low <= math.exp(drift) <= found.high
        line = stats.linregress(depth, logs)
        half = stats.t.ppf(0.975, layers - 2) * line.stderr
        regression += abs(-line.slope - drift) <= half
    assert covered / trials == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / trials))
    assert regression / trials < 0.5


def test_the_head_is_excluded_unless_asked_for(recorded: Callable[..., Run]) -> None:
    ones = [1.0] * 6
    run = recorded([1.0, 2.0, 4.0, 8.0, 16.0, 160.0], ones, ones)
    check(run.decay(), 0.5, 0.5, 0.5, -4 * math.log10(2), 5)
    assert run.decay() == run.decay(step=0)
    assert run.decay(head=True).layers == 6
    assert run.decay(head=True).decades == pytest.approx(-math.log10(160))


def test_it_runs_along_the_trunk(recorded: Callable[..., Run]) -> None:
    ones = [1.0] * 4
    run = recorded([1.0, 77.0, 10.0, 100.0], ones, ones, [(), (), (0,), (2,)])
    check(run.decay(), 0.1, math.nan, math.nan, -1.0, 2)


def test_a_run_without_layers(tmp_path: Any) -> None:
    Writer(str(tmp_path / "run"), metrics=[MetricSpec("output_grad_norm", "n")], name="mine").close()
    with pytest.raises(InvalidValueError) as error:
        Run(str(tmp_path / "run")).decay()
    assert str(error.value) == "run 'mine' has recorded no layers"
