"""What the figures take from a run: its metric, and the recorded values as arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError, unknown_name
from gradscope.figures.marks import classify
from gradscope.spec import MetricSpec

if TYPE_CHECKING:
    from gradscope.runs import Run, Runs

RunsLike: TypeAlias = "Run | Runs | Mapping[str, Run] | Iterable[Run]"


@dataclass(frozen=True)
class Grid:
    """A metric over layers and steps.

    Attributes:
        steps: Recorded steps, ascending, shape (steps,).
        depths: Depth of every layer call of the run, ascending, recorded or not, shape (layers,).
        names: Name of the layer call at each depth.
        values: Values as recorded, shape (layers, steps); NaN also where nothing was recorded.
        present: Whether a value was recorded, same shape.
    """

    steps: NDArray[np.int64]
    depths: NDArray[np.int64]
    names: list[str]
    values: NDArray[np.float64]
    present: NDArray[np.bool_]

    def codes(self, log: bool) -> NDArray[np.int8]:
        """Return the mark of each value, -1 where nothing was recorded."""
        return classify(self.values, log, self.present)


def metric_of(run: Run, metric: str) -> MetricSpec:
    """Return the description of a recorded metric; UnknownNameError names the choices."""
    if metric not in run.metrics:
        raise unknown_name("metric", metric, run.metrics)
    return run.metrics[metric]


def names_by_depth(run: Run) -> dict[int, str]:
    """Return the name of every layer call; a second call of a layer says so."""
    layers = run.layers
    rows = zip(layers["depth"], layers["layer"], layers["call"], strict=True)
    return {int(depth): str(layer) if call == 1 else f"{layer} (call {call})" for depth, layer, call in rows}


def grid(run: Run, metric: str) -> Grid:
    """Return the values of a metric over layers and steps, recorded NaN and absent values kept apart."""
    metric_of(run, metric)
    rows = run.rows(metric)
    steps, columns = np.unique(rows["step"].to_numpy(np.int64), return_inverse=True)
    recorded = rows["depth"].to_numpy(np.int64)
    names = names_by_depth(run)
    # A metric that some layers lack (saturation has no sense after a plain sum) leaves their rows empty.
    depths = np.union1d(recorded, np.array(sorted(names), dtype=np.int64)).astype(np.int64)
    lines = np.searchsorted(depths, recorded)
    values = np.full((len(depths), len(steps)), np.nan)
    present = np.zeros(values.shape, dtype=np.bool_)
    values[lines, columns] = rows["value"].to_numpy(np.float64, na_value=np.nan)
    present[lines, columns] = True
    return Grid(steps, depths, [names.get(int(depth), "?") for depth in depths], values, present)


def nearest_step(run: Run, step: int | None, metric: str) -> int:
    """Return the recorded step of the metric nearest to ``step``; without a step, the first."""
    steps = recorded_steps(run, metric)
    if not steps:
        raise InvalidValueError(f"run {run.name!r} has no recorded step of metric {metric!r} yet")
    return steps[0] if step is None else min(steps, key=lambda one: (abs(one - step), one))


def recorded_steps(run: Run, metric: str | None = None) -> list[int]:
    """Return the steps at which the metric, or any, was recorded."""
    return [int(step) for step in run.steps(metric)]


def named(runs: RunsLike) -> list[tuple[str, Run]]:
    """Return runs with names that tell them apart: a collection's, else their own, numbered if need be."""
    if hasattr(runs, "items"):
        return list(runs.items())
    listed: list[Run] = list(runs) if isinstance(runs, Iterable) else [runs]
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
