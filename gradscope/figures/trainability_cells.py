"""The cells of the map of trainable depths: which run lies where, what it reached, and what the runs share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.figures import wording
from gradscope.figures.sweep_cells import config_value
from gradscope.figures.values import RunsLike, named
from gradscope.theory import ACTIVATIONS

if TYPE_CHECKING:
    from gradscope.runs import Run

VALUES = ("test_accuracy", "accuracy")
PROGRESS = "progress"
COLUMNS = ("weight_var", "depth", "value", "runs", "run")


class Setting(NamedTuple):
    """What theory needs to know of a sweep over depth and weight variance."""

    activation: str
    bias_var: float


def trainability_frame(runs: RunsLike, value: str | None = None) -> pd.DataFrame:
    """Return one row per depth and weight variance of a sweep.

    Args:
        runs: Runs whose configuration holds ``depth`` and ``weight_var`` as numbers; others are left out.
        value: Name of a scalar, whose last value counts, or ``progress``: 1 - last loss / first loss. Without it,
            ``test_accuracy`` or ``accuracy`` where every run has it, else ``progress``.

    Returns:
        Columns weight_var, depth, value (median over the runs of the cell, NaN where none has one), runs (how many)
        and run (the name of one). ``frame.attrs`` holds ``value``, its name, and ``left_out``, how many runs.
    """
    listed = [(name, run, *_place(run)) for name, run in named(runs)]
    placed = [one for one in listed if all(math.isfinite(number) for number in one[2:])]
    chosen = value or _usual([run for _, run, *_ in placed])
    rows = [
        {"weight_var": variance, "depth": int(depth), "value": reached(run, chosen), "run": name}
        for name, run, depth, variance in placed
    ]
    table = pd.DataFrame(rows, columns=["weight_var", "depth", "value", "run"])
    cells = table.groupby(["depth", "weight_var"], as_index=False)
    frame = cells.agg(value=("value", "median"), runs=("run", "size"), run=("run", "first"))[list(COLUMNS)]
    frame.attrs = {"value": chosen, "left_out": len(listed) - len(placed)}
    return frame


def _place(run: Run) -> tuple[float, float]:
    found = (config_value(run.config.get(key)) for key in ("depth", "weight_var"))
    depth, variance = (math.nan if isinstance(one, str) else float(one) for one in found)
    return depth, variance


def has_place(run: Run) -> bool:
    """Tell whether the configuration of a run holds a depth and a weight variance."""
    return all(math.isfinite(number) for number in _place(run))


def _usual(runs: Sequence[Run]) -> str:
    known = [set(run.scalars["name"]) for run in runs]
    return next((name for name in VALUES if known and all(name in one for one in known)), PROGRESS)


def reached(run: Run, value: str) -> float:
    """Return the last value of a scalar, or of ``progress`` the share of the first loss that was overcome; else NaN."""
    rows = run.scalars
    numbers = rows.loc[rows["name"] == ("loss" if value == PROGRESS else value), "value"].to_numpy(np.float64)
    if not len(numbers):
        return math.nan
    return float(1.0 - numbers[-1] / numbers[0]) if value == PROGRESS else float(numbers[-1])


def edges(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the borders of cells around ascending places: midway between them, and as far beyond the ends.

    >>> edges(np.array([1.0, 2.0, 4.0])).tolist(), edges(np.array([3.0])).tolist()
    ([0.5, 1.5, 3.0, 5.0], [2.5, 3.5])
    """
    if len(places) == 1:
        return np.array([places[0] - 0.5, places[0] + 0.5])
    middle = (places[1:] + places[:-1]) / 2
    first, last = max(0.0, 2 * places[0] - middle[0]), 2 * places[-1] - middle[-1]
    return np.concatenate([[first], middle, [last]])


def shared_settings(runs: Sequence[Run]) -> Iterator[str]:
    """Return the data, the number of steps and the width where all runs have them in common."""
    configs = [run.config for run in runs]
    for key, unit in (("data", ""), ("steps", " steps"), ("width", " units wide")):
        found = {str(config.get(key, "")) for config in configs}
        if len(found) == 1 and found != {""}:
            yield wording.label(f"{found.pop()}{unit}", 24)


def common_setting(runs: Sequence[Run]) -> tuple[Setting | None, str]:
    """Return activation and bias variance that all runs share, or None and why theory has no one line for them."""
    configs = [run.config for run in runs]
    if any(config.get("norm", "none") != "none" or config.get("residual") for config in configs):
        return None, "no depth scale is drawn: it is that of plain chains, without normalization and skips"
    found = {(str(config.get("activation", "?")), _bias_var(config)) for config in configs}
    activation, bias_var = next(iter(found)) if len(found) == 1 else ("?", math.nan)
    if activation == "?" or math.isnan(bias_var):
        return None, "no depth scale is drawn: the runs do not share one activation and one bias variance"
    if activation not in ACTIVATIONS:
        return None, f"no depth scale is drawn: theory knows no activation {wording.short(activation)!r}"
    return Setting(activation, bias_var), ""


def _bias_var(config: dict[str, Any]) -> float:
    """Return the bias variance of a configuration; NaN where it is no number."""
    value = config_value(config.get("bias_var") or 0.0)
    return math.nan if isinstance(value, str) else float(value)
