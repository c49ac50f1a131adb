"""What most of the last recorded steps say, layer by layer: what checks compare with thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.checks.finding import NotApplicable
from gradscope.checks.rule import FAR, REACH, RECENT
from gradscope.runs import Run
from gradscope.spec import LayerSpec

MOST = 400
"""Recorded steps looked at."""


def seen(run: Run, metric: str) -> pd.DataFrame | NotApplicable:
    """Return a metric by step and depth, of the steps that the optimizer took; NaN where absent or not finite.

    Of more than `MOST` recorded steps, the first and last ones and `MOST` evenly spaced between.
    """
    if metric not in run.metrics:
        return NotApplicable(f"the metric {metric} was not recorded")
    column = run.column(metric)
    taken = np.setdiff1d(column.steps, np.asarray(run.skipped(), np.int64))
    rows = np.isin(column.step, _thinned(taken)) & np.isfinite(column.value)
    if not rows.any():
        return NotApplicable(f"the metric {metric} has no value at any step that the optimizer took")
    steps, down = np.unique(column.step[rows], return_inverse=True)
    depths, across = np.unique(column.depth[rows], return_inverse=True)
    values = np.full((len(steps), len(depths)), math.nan)
    values[down, across] = column.value[rows]
    return pd.DataFrame(values, index=pd.Index(steps, name="step"), columns=pd.Index(depths, name="depth"))


def relative_change(run: Run) -> pd.DataFrame | NotApplicable:
    """Return u = update_ratio sqrt(fan_in) by step and depth: the most by which a step can change a layer's output."""
    frame = seen(run, "update_ratio")
    if isinstance(frame, NotApplicable):
        return frame
    roots = pd.Series({one.depth: math.sqrt(max(one.fan_in, 1)) for one in run.specs})
    return frame * roots.reindex(frame.columns)


def takes_part(run: Run, path: Sequence[int]) -> bool:
    """Tell whether the lowest and the highest layer of a path learn alike, and within `REACH` steps.

    The sum of u needs to be 1: the slower of the two moves by more than 1/`REACH` a step, and by no less than 10^-1.5
    of the other. False where updates were not recorded.
    """
    frame = relative_change(run)
    if isinstance(frame, NotApplicable):
        return False
    moves = late(frame).reindex([path[0], path[-1]])
    return bool(moves.min() > 1.0 / REACH and moves.max() < 10.0**FAR * moves.min())


def _thinned(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return all of a few steps; of many the first, the last, and some evenly spaced.

    >>> len(_thinned(np.arange(100))), len(_thinned(np.arange(100_000)))
    (100, 408)
    """
    if len(steps) <= MOST + 2 * RECENT:
        return steps
    places = np.linspace(0, len(steps) - 1, MOST).astype(np.int64)
    ends = np.concatenate([np.arange(RECENT), np.arange(len(steps) - RECENT, len(steps))])
    chosen: NDArray[np.int64] = steps[np.union1d(places, ends)]
    return chosen


def late(frame: pd.DataFrame) -> pd.Series[float]:
    """Return the median over the last recorded steps: beyond a threshold if and only if most of them are.

    >>> frame = pd.DataFrame({1: [0.0, 0.1, 0.1, 0.1, 9.0, 0.2]}, index=[0, 10, 20, 30, 40, 50])
    >>> float(late(frame)[1])
    0.1
    """
    return frame.tail(RECENT).median()


def early(frame: pd.DataFrame) -> pd.Series[float]:
    """Return the median over the first recorded steps."""
    return frame.head(RECENT).median()


def last_steps(frame: pd.DataFrame) -> tuple[int, ...]:
    """Return the first and the last of the steps that `late` looks at."""
    steps = [int(one) for one in frame.index[-RECENT:]]
    return tuple(sorted({steps[0], steps[-1]}))


def since(frame: pd.DataFrame, holds: Callable[[pd.Series[float]], bool]) -> int:
    """Return the first recorded step from which on, up to the last, `holds` is true of the median of `RECENT` steps.

    The step is in the middle of those and `holds` of it alone, too: what sets in at a step is said to.

    >>> frame = pd.DataFrame({1: [0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0]}, index=range(0, 80, 10))
    >>> since(frame, lambda row: row[1] > 0.5)
    30
    """
    smooth = frame.rolling(RECENT, min_periods=1, center=True).median()
    found = int(frame.index[-1])
    for place in range(len(frame) - 1, -1, -1):
        if not holds(smooth.iloc[place]):
            break
        if holds(frame.iloc[place]):
            found = int(frame.index[place])
    return found


def hidden(run: Run) -> tuple[int, ...]:
    """Return the depths of the trunk without the head."""
    return run.trunk[:-1]


def of_depths(run: Run, depths: Iterable[int]) -> list[LayerSpec]:
    """Return the layer calls of these depths, in depth order."""
    wanted = set(depths)
    return [one for one in run.specs if one.depth in wanted]


def named(run: Run, depths: Sequence[int]) -> str:
    """Name layers in words, by depth and qualified name; the first three of many."""
    names = {one.depth: one.layer for one in run.specs}
    shown = [f"{depth} ({names.get(depth, '?')})" for depth in depths[:3]]
    more = f" and {len(depths) - 3} more" if len(depths) > 3 else ""
    return f"layer{'s' if len(depths) > 1 else ''} {', '.join(shown)}{more}"


def by_depth(values: pd.Series[float]) -> dict[int, float]:
    """Return the finite values by depth, as a finding keeps them."""
    return {int(depth): float(value) for depth, value in values.items() if np.isfinite(value)}  # type: ignore[call-overload]
