"""What the figures take from a run: its metric, and the recorded values as arrays."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import InvalidTypeError, InvalidValueError, unknown_name
from gradscope.spec import MetricSpec

if TYPE_CHECKING:
    from gradscope.runs import Run, Runs

RunsLike: TypeAlias = "Run | Runs | Mapping[str, Run] | Iterable[Run]"


def metric_of(run: Run, metric: str) -> MetricSpec:
    """Return the description of a recorded metric; UnknownNameError names the choices."""
    one_run(run)
    if metric not in run.metrics:
        raise unknown_name("metric", metric, run.metrics)
    return run.metrics[metric]


def no_path(run: object) -> None:
    """Raise InvalidTypeError for the path of a run in place of the run."""
    if isinstance(run, str | os.PathLike):
        raise InvalidTypeError(f"run is a gradscope Run, not {type(run).__name__}; load it with gs.load(path)")


def one_run(run: object) -> None:
    """Raise InvalidTypeError for what is no run, such as a path, several runs, or a number."""
    no_path(run)
    if hasattr(run, "specs") and hasattr(run, "metrics"):
        return
    several = isinstance(run, Mapping | list | tuple) or hasattr(run, "items")
    hint = "; choose one of them, such as runs[name]" if several else ""
    raise InvalidTypeError(f"run is a gradscope Run, not {'None' if run is None else type(run).__name__}{hint}")


def names_by_depth(run: Run) -> dict[int, str]:
    """Return the name of every layer call; a second call of a layer says so."""
    return {one.depth: one.layer if one.call == 1 else f"{one.layer} (call {one.call})" for one in run.specs}


def nearest_step(run: Run, step: int | None, metric: str) -> int:
    """Return the recorded step of the metric nearest to ``step``; without a step, the first."""
    steps = recorded_steps(run, metric)
    if not len(steps):
        raise InvalidValueError(f"run {run.name!r} has no recorded step of metric {metric!r} yet")
    if step is None:
        return int(steps[0])
    after = int(np.searchsorted(steps, step))
    near = [int(one) for one in steps[max(0, after - 1) : after + 1]]
    return min(near, key=lambda one: (abs(one - step), one))


def recorded_steps(run: Run, metric: str) -> NDArray[np.int64]:
    """Return the steps at which the metric was recorded, ascending."""
    return run.column(metric).steps


def is_empty(run: Run, metric: str) -> bool:
    """Tell whether no value of the metric has been recorded."""
    return not len(run.column(metric).step)


def named(runs: RunsLike) -> list[tuple[str, Run]]:
    """Return runs with names that tell them apart: a collection's, else their own, numbered if need be."""
    no_path(runs)
    if hasattr(runs, "items"):
        pairs = list(runs.items())
        for _, run in pairs:
            one_run(run)
        return pairs
    listed: list[Run] = list(runs) if isinstance(runs, Iterable) else [runs]
    for run in listed:
        one_run(run)
    seen: Counter[str] = Counter()
    pairs = []
    for run in listed:
        seen[run.name] += 1
        pairs.append((run.name if seen[run.name] == 1 else f"{run.name} ({seen[run.name]})", run))
    return pairs


def at_least_one(runs: RunsLike) -> list[tuple[str, Run]]:
    """Return runs with their names; InvalidValueError for none."""
    pairs = named(runs)
    if not pairs:
        raise InvalidValueError("a figure needs at least one run, and none was given")
    return pairs
