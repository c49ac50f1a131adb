"""What the information page is about to show: a state settled, and its numbers as tables."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.dashboards.order import fixed
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import InformationState
from gradscope.dashboards.view import unrecorded
from gradscope.errors import unknown_name
from gradscope.figures.values import is_empty, names_by_depth, nearest_step, recorded_steps
from gradscope.runs import Run
from gradscope.spec import MetricSpec

GROUP = "information"
ENDS = ("low", "high")
NOT_THERE = "–"
NO_BREAK = "\N{NO-BREAK SPACE}"
PAIRS = {
    "kde_bounds": ("input_information", "label_information"),
    "binning": ("input_information_binned", "label_information_binned"),
}
"""Estimators of both axes of the plane."""


@dataclass(frozen=True)
class View:
    """A state with everything in it settled.

    Attributes:
        run: The run.
        name: Its name.
        known: Metrics of information that have values, ends of intervals aside.
        estimator: Estimator of the profile and the plane; None where neither was recorded.
        metric: Metric of the heatmap; None where the run has no metric of information.
        steps: Measured steps.
        step: The one to show; None where there is none.
        follow: Whether the page moves on to the newest step.
        remark: What the state asked for and does not get, if anything.
    """

    run: Run
    name: str
    known: tuple[str, ...]
    estimator: str | None
    metric: str | None
    steps: NDArray[np.int64]
    step: int | None
    follow: bool
    remark: str

    @property
    def pair(self) -> tuple[str, ...]:
        """Metrics of the profile that have values."""
        return tuple(one for one in PAIRS.get(self.estimator or "", ()) if one in self.known)


def settle(source: Source, state: InformationState) -> View:
    """Fill in what the state leaves open.

    Raises:
        UnknownNameError: There is no such run, or it has no such estimator or metric.
    """
    name = state.run or first_run(source)
    run = source.run(name)
    known = measured(run)
    estimators = [one for one, (x, _) in PAIRS.items() if x in known]
    if known and state.estimator is not None and state.estimator not in estimators:
        raise unknown_name("estimator", state.estimator, estimators)
    if known and state.metric is not None and state.metric not in known:
        raise unknown_name("metric of information", state.metric, known)
    first = known[0] if known else None
    steps = recorded_steps(run, first) if first else np.zeros(0, np.int64)
    step = None
    if first is not None:
        step = int(steps[-1]) if state.step is None else nearest_step(run, state.step, first)
    remark = unrecorded(state.step, steps, first) if first else ""
    estimator = state.estimator if known and state.estimator else next(iter(estimators), None)
    return View(
        run, name, known, estimator, (state.metric if known else None) or first, steps, step, state.step is None, remark
    )


def first_run(source: Source) -> str:
    """Return the first run that was watched with a sample; where there is none, the first."""
    return next((name for name, run in source.runs.items() if sampled(run)), next(iter(source.runs)))


def measured(run: Run) -> tuple[str, ...]:
    """Return the metrics of information that have values, without the ends of intervals."""
    named = [name for name, spec in run.metrics.items() if spec.group == GROUP]
    ends = {f"{name}_{end}" for name in named for end in ENDS}
    return tuple(name for name in named if name not in ends and not is_empty(run, name))


def sampled(run: Run) -> bool:
    """Tell whether the run was watched with a sample."""
    return any(spec.group == GROUP for spec in run.metrics.values())


def numbers_frame(view: View) -> pd.DataFrame:
    """Return every metric at the step with its interval, a row for each layer call, as texts."""
    run, step = view.run, view.step
    names = names_by_depth(run)
    columns: dict[str, pd.Series[str]] = {}
    for name in view.known:
        spec = run.metrics[name]
        title = spec.label + (f" ({spec.unit})" if spec.unit not in ("", "1") else "")
        columns[title] = _cells(run, name, step)
    frame = pd.DataFrame(columns).fillna(NOT_THERE).sort_index()
    frame.insert(0, "layer", [names.get(int(depth), "?") for depth in frame.index])
    frame.insert(0, "depth", [str(depth) for depth in frame.index])
    return frame.reset_index(drop=True)


def origins_frame(view: View) -> pd.DataFrame:
    """Return how each number came about: metric, what it is, estimator, settings, interval and source."""
    specs = [view.run.metrics[name] for name in view.known]
    return pd.DataFrame(
        {
            "metric": [one.label for one in specs],
            "what it is": [one.doc.rstrip(".") for one in specs],
            "estimator": [_estimator(one) for one in specs],
            "settings": [_settings(one) for one in specs],
            "interval": [_interval(one.name) for one in specs],
            "source": [one.source for one in specs],
        }
    )


def _cells(run: Run, name: str, step: int | None) -> pd.Series[str]:
    values, low, high = (_profile(run, one, step) for one in (name, *(f"{name}_{end}" for end in ENDS)))
    known = values[values.notna()]
    return pd.Series(
        {
            depth: f"{fixed(float(value))}{_span(low.get(depth, math.nan), high.get(depth, math.nan))}"
            for depth, value in known.items()
        },
        dtype=object,
    )


def _profile(run: Run, name: str, step: int | None) -> pd.Series[float]:
    if name not in run.metrics or step not in recorded_steps(run, name):
        return pd.Series(dtype=np.float64)
    return run.profile(name, step)


def _span(low: float, high: float) -> str:
    return "" if math.isnan(low) or math.isnan(high) else f" [{fixed(float(low))},{NO_BREAK}{fixed(float(high))}]"


def _estimator(spec: MetricSpec) -> str:
    return str(spec.parameters.get("estimator", "")) or spec.formula


def _settings(spec: MetricSpec) -> str:
    return ", ".join(f"{key} = {one}" for key, one in spec.parameters.items() if key != "estimator")


def _interval(name: str) -> str:
    if name in PAIRS["kde_bounds"]:
        return "lower and upper bound"
    return "none" if name == "pca_saturation" else "95 %, by sampling"
