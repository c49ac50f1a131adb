"""By what each metric is divided to undo a loss scale; numbers in, numbers out."""

from __future__ import annotations

import numpy as np
import pytest

from gradscope.probe.scaling import Scales, divisors, taken_off, unscaled
from gradscope.spec import MetricSpec

ERROR = MetricSpec("error", "E", degree=1, signals=("output_grad_moments",))
APPLIED = MetricSpec("applied", "A", degree=2, signals=("weight_grad",))
BIAS = MetricSpec("bias", "B", degree=1, signals=("bias_grad_moments",))
MIXED = MetricSpec("mixed", "M", degree=0, signals=("output_grad_moments", "weight_grad_moments"))
SHARE = MetricSpec("share", "S", degree=0, signals=("input_grad", "input_grad_total"))
FREE = MetricSpec("free", "F", degree=1, signals=("weight_moments",))
NAMELESS = MetricSpec("nameless", "N", signals=("output_grad_sample",))
SPECS = (ERROR, APPLIED, BIAS, MIXED, SHARE, FREE, NAMELESS)


def test_divisors_follow_signals_and_degree() -> None:
    nan = float("nan")
    found = divisors(
        SPECS,
        [
            Scales(error=8.0, weight=4.0, bias=1.0),
            Scales(error=8.0, weight=8.0, bias=2.0),
            Scales(error=nan, weight=1.0),
            Scales(error=0.0, weight=float("inf")),
            Scales(),
        ],
    )
    np.testing.assert_array_equal(
        found,
        [
            [8.0, 16.0, 1.0, nan, 1.0, 1.0, 1.0],
            [8.0, 64.0, 2.0, 1.0, 1.0, 1.0, 1.0],
            [nan, 1.0, 1.0, nan, 1.0, 1.0, 1.0],
            [nan, nan, 1.0, nan, 1.0, 1.0, 1.0],
            [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        ],
    )


def test_what_cannot_be_unscaled_is_absent_and_infinity_stays() -> None:
    values = np.array([[np.inf, 32.0], [np.nan, 4.0]])
    present = np.array([[True, True], [True, False]])
    found, there = unscaled([ERROR, MIXED], [Scales(error=8.0, weight=8.0), Scales(error=2.0)], values, present)
    np.testing.assert_array_equal(found, [[np.inf, 32.0], [np.nan, 4.0]])
    assert there.tolist() == [[True, True], [True, False]]
    assert unscaled([ERROR], [], np.zeros((0, 1)), np.zeros((0, 1), np.bool_))[0].shape == (0, 1)


@pytest.mark.parametrize(
    ("raw", "applied", "factor"),
    [
        ([2.0, 4.0], [1.0, 2.0], 2.0),
        ([2.0**16, np.nan, 0.0, np.inf], [1.0, 1.0, 0.0, 1.0], 2.0**16),
        ([2.0, 4.0], [1.0, 1.0], None),
        ([1.0, 1.0], [1.0, 1.0], None),
        ([1.0, 1.0], [2.0, 2.0], None),
        ([3.0], [1.0], None),
        ([4.0 * (1 + 1e-8)], [1.0], None),
        ([np.nan], [1.0], None),
        ([1e300], [1e-300], None),
        ([], [], None),
    ],
)
def test_a_scale_shows_as_one_power_of_two(raw: list[float], applied: list[float], factor: float | None) -> None:
    assert taken_off(np.array(raw), np.array(applied)) == factor
