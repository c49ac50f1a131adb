"""What a metric may say of itself."""

from __future__ import annotations

import math
from typing import Any

import pytest

import gradscope as gs
from gradscope.errors import InvalidValueError
from gradscope.metrics.registry import registered
from gradscope.spec import MetricSpec

BOUNDS = "bounds of metric 'a' are a pair (least, greatest) of finite numbers, None where unbounded, not "


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": "logg"}, "scale of metric 'a' is one of linear, log, not 'logg'"),
        ({"scale": None}, "scale of metric 'a' is one of linear, log, not None"),
        ({"combine": "sum"}, "combine of metric 'a' is one of mean, rms, rss, max, not 'sum'"),
        ({"dtype": "float16"}, "dtype of metric 'a' is one of float64, float32, not 'float16'"),
        ({"group": ""}, "group of metric 'a' is a name such as 'custom', not ''"),
        ({"group": None}, "group of metric 'a' is a name such as 'custom', not None"),
        ({"bounds": 3}, f"{BOUNDS}3"),
        ({"bounds": (0.0,)}, f"{BOUNDS}(0.0,)"),
        ({"bounds": (1.0, 0.0)}, f"{BOUNDS}(1.0, 0.0)"),
        ({"bounds": (math.nan, None)}, f"{BOUNDS}(nan, None)"),
        ({"bounds": (0, math.inf)}, f"{BOUNDS}(0, inf)"),
        ({"bounds": ("0", "1")}, f"{BOUNDS}('0', '1')"),
    ],
)
def test_a_value_out_of_its_choices_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError) as error:
        MetricSpec("a", "A", **wrong)
    assert str(error.value) == message


@pytest.mark.parametrize("bounds", [(None, None), (0, None), (None, 1.0), (0.0, 1), (1.0, 1.0)])
def test_bounds_may_be_open(bounds: tuple[float | None, float | None]) -> None:
    assert MetricSpec("a", "A", bounds=bounds).bounds == bounds


def test_a_metric_of_ones_own_is_refused_where_it_is_defined() -> None:
    wrong: Any = "logg"
    with pytest.raises(InvalidValueError) as error:

        @gs.metric(label="Largest", scale=wrong)
        def largest_of_mine(weight_grad: Any) -> Any:
            return weight_grad.abs().max()

    assert str(error.value) == "scale of metric 'largest_of_mine' is one of linear, log, not 'logg'"
    assert "largest_of_mine" not in registered()
