"""Axes, colour bars and legends: titles, ranges and ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.figures.decimate import spread
from gradscope.figures.window import Range
from gradscope.figures.wording import label, number, power_text, shorten, wrap
from gradscope.spec import MetricSpec

# With more entries than this the legend is drawn beside the plot.
BESIDE = 5
AXIS_LETTERS = 28
# Recorded steps that get a tick each.
FEW = 8
# Numbers closer together than this have no round ones of few digits between them.
LEAST_DECADES = 1e-5
# An axis without a value has no range: plotly would invent ticks from -1 to 6.
NO_TICKS: dict[str, Any] = {"range": [0, 1], "showticklabels": False, "ticks": "", "showgrid": False}


def colour_bar(title: str) -> dict[str, Any]:
    """Return the settings that colour bars share."""
    heading = {"text": title, "side": "right", "font": {"size": 13}}
    return {"title": heading, "thickness": 14, "outlinewidth": 0}


def legend(names: Sequence[str]) -> dict[str, Any]:
    """Return the legend's layout: two columns for several long names, to the right of the plot for many.

    Below the plot, many rows would leave it no height; on the right the legend scrolls.
    """
    if len(names) > BESIDE:
        return {"orientation": "v", "x": 1.02, "y": 1.0, "yref": "paper", "yanchor": "top"}
    wide = len(names) > 2 and max(map(len, names)) > 16
    return {"entrywidthmode": "fraction", "entrywidth": 0.49} if wide else {}


def name_limit(names: Sequence[str]) -> int:
    """Return how many characters of a run's name a legend has room for."""
    return 20 if len(names) > BESIDE else 34


def depth_ticks(last: int, seen: Range | None = None) -> dict[str, Any]:
    """Return ticks at whole depths only, from 1 on: depths 0 and 2.5 would name layers that do not exist.

    Where a part of them is seen alone, the ticks are those of as many layers.

    >>> depth_ticks(8), depth_ticks(99), depth_ticks(99, (40.2, 47.5))
    ({'tick0': 1, 'dtick': 1}, {'tick0': 1, 'dtick': 10}, {'tick0': 1, 'dtick': 1})
    """
    count = last if seen is None else min(last, math.ceil(seen[1] - seen[0]))
    if count <= 20:
        return {"tick0": 1, "dtick": 1}
    powers = (10**power * digit for power in range(9) for digit in (1, 2, 5))
    return {"tick0": 1, "dtick": next(stride for stride in powers if count <= 12 * stride)}


def column_axis(steps: NDArray[np.int64], places: NDArray[np.intp], seen: Range | None) -> dict[str, Any]:
    """Return the settings of an axis that counts recorded steps and names them.

    Args:
        steps: All recorded steps.
        places: Places among them of those that are drawn.
        seen: Range of places that is seen.
    """
    first, last = (0, len(steps) - 1) if seen is None else np.clip(np.round(seen), 0, len(steps) - 1).astype(int)
    ticks = first + spread(last - first + 1, 8)
    return {
        "tickvals": ticks.tolist(),
        "ticktext": [f"{step:,}" for step in steps[ticks].tolist()],
        "labelalias": {str(place): f"{steps[place]:,}" for place in places.tolist()},
        "separatethousands": False,
    }


def few_steps(steps: NDArray[np.int64]) -> dict[str, Any]:
    """Return ticks at the steps themselves where they are few: cells reach beyond them, ticks do not.

    >>> few_steps(np.array([0, 40, 80]))["tickvals"], few_steps(np.arange(100))
    ([0, 40, 80], {})
    """
    return {"tickvals": steps.tolist()} if len(steps) <= FEW else {}


def step_axis(steps: NDArray[Any], seen: Range | None = None) -> dict[str, Any]:
    """Return the settings of an axis of steps, whole numbers: a single one gets a tick alone."""
    settings: dict[str, Any] = {"title": {"text": "Step"}}
    if not len(steps):
        return settings | {"showticklabels": False, "ticks": ""}
    low, high = float(np.min(steps)), float(np.max(steps))
    if low == high:
        return settings | {"range": [low - 1, low + 1], "tickvals": [low]}
    low, high = seen or (low, high)
    return settings | ({"dtick": 1} if high - low <= 8 else {})


def even(steps: NDArray[np.int64]) -> bool:
    """Tell whether steps lie evenly enough to draw each as wide as the distance to its neighbours.

    No distance may be more than twice another: merging steps into columns alone makes that difference.

    >>> even(np.array([0, 10, 20, 29])), even(np.array([0, 1, 2, 50])), even(np.array([3]))
    (True, False, False)
    """
    gaps = np.diff(steps)
    return bool(len(gaps) and gaps.max() <= 2 * gaps.min())


def depth_axis(last: int, seen: Range | None = None) -> dict[str, Any]:
    """Return the settings of an axis of depths from 1 to ``last``."""
    edge = 0.5 + 0.02 * last
    return {"title": {"text": "Depth (1 = first layer)"}, "range": [1 - edge, last + edge], **depth_ticks(last, seen)}


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return the settings of a log axis for values from ``low`` to ``high``, with ticks of our own.

    Plotly's pile up digits (9 8 7 6) over a decade and a half, and write powers of ten larger than the rest.
    """
    if not 0 < low <= high < math.inf:
        return {"type": "log"}
    first, last = math.log10(low), math.log10(high)
    if last - first < 1e-6:
        return {"type": "log", "range": [first - 0.5, last + 0.5], **log_axis_ticks(first - 0.5, last + 0.5)}
    edge = 0.07 * (last - first)
    return {"type": "log", **log_axis_ticks(first - edge, last + edge)}


def log_axis_ticks(low: float, high: float) -> dict[str, Any]:
    """Return the ticks between two logarithms as a log axis takes them, which wants values."""
    ticks = log_ticks(low, high)
    return {"tickvals": [10.0**value for value in ticks["tickvals"]], "ticktext": ticks["ticktext"]}


def log_axis_threes(low: float, high: float) -> dict[str, Any]:
    """Return the ticks between two logarithms: 1, 3, 10 and so on where few powers of ten lie between them.

    >>> log_axis_threes(0.0, 2.2)["ticktext"]
    ['1', '3', '10', '30', '100']
    """
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [digit * 10.0**power for power in powers for digit in (1, 3)]
    fitting = [one for one in values if low <= math.log10(one) <= high]
    if not 4 <= len(fitting) <= 8:
        return log_axis_ticks(low, high)
    return {"tickvals": fitting, "ticktext": [f"{one:g}" for one in fitting]}


def log_ticks(low: float, high: float, most: int = 7) -> dict[str, list[Any]]:
    """Return ticks between two logarithms: powers of ten, 1-2-5 where few of those fit, else even numbers.

    >>> log_ticks(-3.2, 0.1)["ticktext"]
    ['10<sup>−3</sup>', '10<sup>−2</sup>', '10<sup>−1</sup>', '1']
    >>> log_ticks(-0.8, 0.35)["ticktext"]
    ['0.2', '0.5', '1', '2']
    >>> log_ticks(0.1, 0.25)["ticktext"]
    ['1.3', '1.4', '1.5', '1.6', '1.7']
    """
    first, last = max(-300, math.ceil(low)), min(300, math.floor(high))
    if last - first >= 2 or (last - first == 1 and high - low > 2):
        stride = -(-(last - first + 1) // most)
        powers = list(range(-(-first // stride) * stride, last + 1, stride))
        return {"tickvals": powers, "ticktext": [power_text(power) for power in powers]}
    digits = [(digit, power) for power in range(math.floor(low), last + 1) for digit in (1, 2, 5)]
    fitting = [(digit, power) for digit, power in digits if low <= math.log10(digit) + power <= high]
    if len(fitting) >= 3:
        return {
            "tickvals": [math.log10(digit) + power for digit, power in fitting],
            "ticktext": [number(digit * 10.0**power) for digit, power in fitting],
        }
    return _even_ticks(10.0**low, 10.0**high)


def _even_ticks(low: float, high: float) -> dict[str, list[Any]]:
    """Return the logarithms of four to seven round numbers between two values close together."""
    rough = (high - low) / 7
    power = math.floor(math.log10(rough)) if rough > 0 else 0
    step = next(digit * 10.0**power for digit in (1, 2, 5, 10) if digit * 10.0**power >= rough * 0.999)
    first = math.ceil(low / step)
    values = [index * step for index in range(first, math.floor(high / step) + 1)]
    figures = max(1, math.floor(math.log10(high)) - math.floor(math.log10(step)) + 1)
    return {
        "tickvals": [math.log10(value) for value in values if value > 0],
        "ticktext": [number(value, figures) for value in values if value > 0],
    }


def axis_title(spec: MetricSpec) -> str:
    """Return label and unit as an axis shows them, on two lines where one would be longer than the axis.

    >>> axis_title(MetricSpec("a", "Output gradient norm")), axis_title(MetricSpec("b", "Rate", unit="bit"))
    ('Output gradient norm', 'Rate (bit)')
    """
    lines = [label(line, AXIS_LETTERS) for line in wrap(shorten(spec.label, 44), AXIS_LETTERS)]
    if spec.unit in ("", "1"):
        return "<br>".join(lines)
    gap = " " if lines and len(lines[-1]) + len(spec.unit) < AXIS_LETTERS - 2 else "<br>"
    return f"{'<br>'.join(lines)}{gap}({label(spec.unit, 20)})"


def value_axis(spec: MetricSpec, values: NDArray[np.float64], seen: Range | None = None) -> dict[str, Any]:
    """Return title, scale and range of the axis of a metric; ``values`` are the plain ones to be drawn.

    Ticks of our own do not follow a browser that zooms: they are made for the range that is ``seen``, on a log axis
    one of exponents. A metric with two bounds shows its whole range, so that 0.02 and 0.98 look as far apart as
    they are.
    """
    low, high = spec.bounds
    plain = values[np.isfinite(values)]
    settings: dict[str, Any] = {"type": spec.scale, "title": {"text": axis_title(spec)}}
    if not len(plain):
        return settings | NO_TICKS | {"type": "linear"}
    if spec.scale == "log":
        settings |= log_axis(float(plain.min()), float(plain.max()))
        settings |= log_axis_ticks(*seen) if seen is not None and seen[1] - seen[0] > LEAST_DECADES else {}
    if spec.scale == "linear" and low is not None and high is not None:
        margin = 0.03 * (high - low)
        settings["range"] = [low - margin, high + margin]
    return settings
