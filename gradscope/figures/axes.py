"""Axes, colour bars and legends: titles, ranges and ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.figures.wording import power_text
from gradscope.spec import MetricSpec


def colour_bar(title: str) -> dict[str, Any]:
    """Return the settings that colour bars share."""
    heading = {"text": title, "side": "right", "font": {"size": 13}}
    return {"title": heading, "thickness": 14, "outlinewidth": 0}


def legend_columns(names: Sequence[str]) -> dict[str, Any]:
    """Return the legend's layout: two columns where several long names would fill a row each."""
    wide = len(names) > 2 and max(map(len, names)) > 16
    return {"entrywidthmode": "fraction", "entrywidth": 0.49} if wide else {}


def depth_ticks(last: int) -> dict[str, Any]:
    """Return ticks at whole depths only, from 1 on: depths 0 and 2.5 would name layers that do not exist.

    >>> depth_ticks(8), depth_ticks(99)
    ({'tick0': 1, 'dtick': 1}, {'tick0': 1, 'dtick': 10})
    """
    if last <= 20:
        return {"tick0": 1, "dtick": 1}
    powers = (10**power * digit for power in range(9) for digit in (1, 2, 5))
    return {"tick0": 1, "dtick": next(stride for stride in powers if last <= 12 * stride)}


def step_axis(steps: NDArray[Any]) -> dict[str, Any]:
    """Return the settings of an axis of steps, whole numbers: a single one gets a tick alone."""
    settings: dict[str, Any] = {"title": {"text": "Step"}}
    if not len(steps):
        return settings | {"showticklabels": False, "ticks": ""}
    low, high = float(np.min(steps)), float(np.max(steps))
    if low == high:
        return settings | {"range": [low - 1, low + 1], "tickvals": [low]}
    return settings | ({"dtick": 1} if high - low <= 8 else {})


def even(steps: NDArray[np.int64]) -> bool:
    """Tell whether steps lie evenly enough to draw each as wide as the distance to its neighbours.

    No distance may be more than twice another: merging steps into columns alone makes that difference.

    >>> even(np.array([0, 10, 20, 29])), even(np.array([0, 1, 2, 50])), even(np.array([3]))
    (True, False, False)
    """
    gaps = np.diff(steps)
    return bool(len(gaps) and gaps.max() <= 2 * gaps.min())


def depth_axis(last: int) -> dict[str, Any]:
    """Return the settings of an axis of depths from 1 to ``last``."""
    edge = 0.5 + 0.02 * last
    return {"title": {"text": "Depth (1 = first layer)"}, "range": [1 - edge, last + edge], **depth_ticks(last)}


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return the settings of a log axis for values from ``low`` to ``high``: labels at powers of ten.

    Over less than a decade and a half plotly's own ticks (2, 5) are needed.
    """
    decades = math.log10(high / low) if 0 < low <= high < math.inf else 0.0
    if decades < 1.5:
        return {"type": "log"}
    return {"type": "log", "dtick": max(1, math.ceil(decades / 7))}


def log_ticks(low: float, high: float, most: int = 7) -> dict[str, object]:
    """Return ticks at whole powers of ten between two logarithms; plain numbers where fewer than two fit.

    >>> log_ticks(-3.2, 0.1)["ticktext"]
    ['10<sup>−3</sup>', '10<sup>−2</sup>', '10<sup>−1</sup>', '1']
    >>> log_ticks(0.1, 0.35)["ticktext"]
    ['1.26', '1.5', '1.78', '2.24']
    """
    first, last = int(np.ceil(low)), int(np.floor(high))
    if last - first < 1:
        values = [low + (high - low) * share for share in (0.0, 0.3, 0.6, 1.0)]
        return {"tickvals": values, "ticktext": [f"{10**value:.3g}" for value in values]}
    powers = list(range(first, last + 1, -(-(last - first + 1) // most)))
    return {"tickvals": powers, "ticktext": [power_text(power) for power in powers]}


def axis_title(spec: MetricSpec) -> str:
    """Return label and unit as an axis shows them, on two lines where one would be longer than the axis.

    >>> axis_title(MetricSpec("a", "Output gradient norm")), axis_title(MetricSpec("b", "Rate", unit="bit"))
    ('Output gradient norm', 'Rate (bit)')
    """
    if spec.unit in ("", "1"):
        return spec.label
    gap = " " if len(spec.label) + len(spec.unit) < 26 else "<br>"
    return f"{spec.label}{gap}({spec.unit})"


def value_axis(spec: MetricSpec, values: NDArray[np.float64]) -> dict[str, Any]:
    """Return title, scale and range of the axis of a metric; ``values`` are the plain ones to be drawn.

    A metric with two bounds shows its whole range, so that 0.02 and 0.98 look as far apart as they are.
    """
    low, high = spec.bounds
    plain = values[np.isfinite(values)]
    settings: dict[str, Any] = {"type": spec.scale, "title": {"text": axis_title(spec)}}
    if spec.scale == "log" and len(plain):
        settings |= log_axis(float(plain.min()), float(plain.max()))
    if spec.scale == "linear" and low is not None and high is not None:
        margin = 0.03 * (high - low)
        settings["range"] = [low - margin, high + margin]
    return settings
