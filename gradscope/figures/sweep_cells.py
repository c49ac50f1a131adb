"""The cells of the map of a sweep: which configuration lies where, and its decay."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from gradscope.errors import GradscopeError, unknown_name
from gradscope.figures import marks as mk
from gradscope.figures.values import RunsLike, named, recorded_steps

if TYPE_CHECKING:
    from gradscope.runs import Run

FAILED = mk.Mark(-2, "failed", "failed", "x")
PREFERRED = {"x": "depth", "y": "init", "facet": "activation"}
ASIDE = ("seed",)


def varying(runs: Iterable[Run], aside: Sequence[str] = ASIDE) -> list[str]:
    """Return the configuration keys with more than one value among the runs, those ``aside`` left out."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.config.items():
            values.setdefault(key, set()).add(str(value))
    return sorted(key for key, found in values.items() if len(found) > 1 and key not in aside)


def axes_of(runs: Sequence[Run], chosen: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the configuration keys on x, y and the small multiples, filled in where none was chosen.

    Depth, init and activation come first where they vary, then whatever varies. UnknownNameError names the
    keys there are.
    """
    keys = sorted({key for run in runs for key in run.config})
    taken: dict[str, str | None] = {}
    for axis, key in chosen.items():
        if key is not None and key not in keys:
            raise unknown_name("configuration key", key, keys)
        taken[axis] = key
    free = [key for key in varying(runs) if key not in taken.values()]
    for axis, favourite in PREFERRED.items():
        if taken.get(axis) is None and favourite in free:
            taken[axis] = favourite
            free.remove(favourite)
    for axis in PREFERRED:
        if taken.get(axis) is None:
            taken[axis] = free.pop(0) if free else None
    return {axis: taken[axis] for axis in PREFERRED}


def sweep_map_frame(
    runs: RunsLike,
    *,
    x: str | None = None,
    y: str | None = None,
    facet: str | None = None,
    last: bool = False,
) -> pd.DataFrame:
    """Return one row per cell of the map.

    Returns:
        Columns x, y, facet (values of the configuration keys that ``frame.attrs["axes"]`` names), rate
        (median decay per layer over the runs of the cell), mark (a rate of exactly zero, one that is not a
        number, or -2 where a run failed before its first recorded step and no other has a rate), runs (how
        many have a rate, of which it is the median), total (how many there are, those that failed or have no rate
        included) and run (the name of the one whose decay is the median, for a click).
        ``frame.attrs["pooled"]`` lists the configuration keys that vary within cells.
    """
    listed = named(runs)
    axes = axes_of([run for _, run in listed], {"x": x, "y": y, "facet": facet})
    rows = [
        {axis: _value(run, key) for axis, key in axes.items()}
        | {"run": name, "rate": decay_rate(run, last), "failed": _failed(run), "place": place}
        for place, (name, run) in enumerate(listed)
    ]
    table = pd.DataFrame(rows, columns=[*axes, "run", "rate", "failed", "place"])
    groups = list(table.groupby(list(axes), sort=False))
    cells = [_cell(key, group) for key, group in groups]
    frame = pd.DataFrame(cells, columns=[*axes, "rate", "mark", "runs", "total", "run"])
    frame.attrs["axes"] = axes
    # A key on an axis varies within a cell at most in type, such as 4 and "4".
    within = {key for _, group in groups for key in varying([listed[row][1] for row in group["place"]], ())}
    frame.attrs["pooled"] = sorted(within - set(axes.values()))
    return frame


def _value(run: Run, key: str | None) -> Any:
    return config_value(run.config.get(key, "—")) if key else ""


def config_value(value: Any) -> int | float | str:
    """Return a value of a configuration as it is sorted and told apart: a number where it reads as one, else text.

    >>> config_value("8"), config_value(8), config_value("1e-3"), config_value("nan"), config_value(True)
    (8, 8, 0.001, 'nan', 'True')
    """
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        return text
    read = float(text)
    if not math.isfinite(read):
        return text
    return int(text) if text.lstrip("+-").isdigit() else int(read) if read.is_integer() and abs(read) < 1e6 else read


def _failed(run: Run) -> bool:
    """Tell whether a run failed before it recorded anything."""
    return run.status == "failed" and not run.steps()


def decay_rate(run: Run, last: bool = False) -> float:
    """Return the decay of a run at its first or last recorded step; NaN where it has none."""
    try:
        step = int(recorded_steps(run, "output_grad_norm")[-1]) if last else None
        return run.decay(step).rate
    except IndexError:  # nothing recorded
        return math.nan
    except GradscopeError:
        return math.nan


def _cell(key: Any, group: pd.DataFrame) -> dict[str, Any]:
    ordered = group.sort_values(["rate", "run"], na_position="last", ignore_index=True)
    known = int(ordered["rate"].notna().sum())
    below = (max(known, 1) - 1) // 2
    rates = ordered["rate"].to_numpy(np.float64)
    # Of an even number the geometric mean of the middle two: rates are factors.
    rate = float(rates[below] if known % 2 else np.sqrt(rates[below] * rates[known // 2 % len(rates)]))
    mark = FAILED.code if not known and group["failed"].any() else int(mk.classify(np.array([rate]), log=True)[0])
    axes = dict(zip(("x", "y", "facet"), key, strict=True))
    return axes | {"rate": rate, "mark": mark, "runs": known, "total": len(group), "run": ordered["run"][below]}


def in_order(values: Iterable[Any]) -> list[Any]:
    """Return distinct values, numbers before words, each in their order.

    >>> in_order([8, "relu", 2, 8, "elu"])
    [2, 8, 'elu', 'relu']
    """
    return sorted(set(values), key=lambda one: (isinstance(one, str), 0 if isinstance(one, str) else one, str(one)))
