"""What the gradient flow page is about to show: a state with everything in it settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.dashboards.blocks import choices, shortened
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import FlowState
from gradscope.figures.gradient_flow import SIGNAL
from gradscope.figures.values import is_empty, nearest_step, recorded_steps
from gradscope.runs import Run

MOST_COMPARED = 11
"""Runs beside the first: with it they are a dozen, as many as colours and dashes tell apart."""


@dataclass(frozen=True)
class View:
    """A state with everything in it settled: what the page is about to show.

    Attributes:
        run: The run in detail.
        name: Its name.
        others: The runs it is compared with.
        metric: Name of the metric.
        steps: Steps at which the run recorded the metric.
        step: The one to show; None where there is none yet.
        follow: Whether the page moves on to the newest step.
        without: Names of the others that have no value of the metric.
        remark: What the state asked for and does not get, if anything.
        theory: Whether what theory predicts is drawn over the profile.
        layers: First and last depth of the layers that are marked, None for none.
    """

    run: Run
    name: str
    others: dict[str, Run]
    metric: str
    steps: NDArray[np.int64]
    step: int | None
    follow: bool
    without: tuple[str, ...] = ()
    remark: str = ""
    theory: bool = False
    layers: tuple[int, int] | None = None


def settle(source: Source, state: FlowState) -> View:
    """Fill in what the state leaves open; UnknownNameError for a run or metric that does not exist."""
    name = state.run or next(iter(source.runs))
    run = source.run(name)
    others = {other: source.run(other) for other in state.compare[:MOST_COMPARED] if other != name}
    metric = state.metric or (SIGNAL if SIGNAL in run.metrics else next(iter(run.metrics), SIGNAL))
    # A run that failed before its first step has no metric at all, and still a reason to show.
    steps = recorded_steps(run, metric) if run.metrics or state.metric else np.zeros(0, np.int64)
    step = None
    if len(steps):
        step = int(steps[-1]) if state.step is None else nearest_step(run, state.step, metric)
    without = tuple(other for other, one in others.items() if metric not in one.metrics or is_empty(one, metric))
    remarks = [unrecorded(state.step, steps, metric), uncompared(len(state.compare))]
    remark = "; ".join(one for one in remarks if one)
    follow = state.step is None
    return View(run, name, others, metric, steps, step, follow, without, remark, state.theory, state.layers)


def uncompared(count: int) -> str:
    """Return what to say of more runs than can be compared.

    >>> uncompared(30), uncompared(3)
    ('of 30 runs to compare with, the first 11 are drawn', '')
    """
    return f"of {count} runs to compare with, the first {MOST_COMPARED} are drawn" if count > MOST_COMPARED else ""


def unrecorded(step: int | None, steps: NDArray[np.int64], metric: str) -> str:
    """Return what to say of a step without a value of the metric; nothing where there is one.

    >>> unrecorded(7, np.array([0, 5, 10]), "saturation")
    'step 7 has no value of saturation; the nearest ones that have are 5 and 10'
    >>> unrecorded(99, np.array([0, 5, 10]), "saturation"), unrecorded(5, np.array([0, 5, 10]), "saturation")
    ('step 99 has no value of saturation; the nearest one that has is 10', '')
    """
    if step is None or not len(steps) or (steps == step).any():
        return ""
    after = int(np.searchsorted(steps, step))
    near = [str(one) for one in steps[max(0, after - 1) : after + 1]]
    which = f"ones that have are {' and '.join(near)}" if len(near) > 1 else f"one that has is {near[0]}"
    return f"step {step} has no value of {metric}; the nearest {which}"


def chosen(state: FlowState, trigger: str | None, values: Mapping[str, Any]) -> FlowState:
    """Return the state after the control ``trigger`` was moved; unchanged for any other trigger."""
    if trigger == "run" and values["run"]:
        compare = tuple(one for one in state.compare if one != values["run"])
        # Marked layers are those of a finding, which is the run's own.
        return replace(state, run=values["run"], compare=compare, layers=None)
    if trigger == "compare":
        return replace(state, compare=tuple(values["compare"] or ()))
    if trigger == "metric" and values["metric"]:
        return replace(state, metric=values["metric"])
    if trigger == "step":
        return replace(state, step=int(values["step"]))
    if trigger == "follow":
        return replace(state, step=None if values["follow"] else int(values["step"]))
    if trigger == "theory":
        return replace(state, theory=bool(values["theory"]))
    return state


def metric_choices(run: Run) -> list[dict[str, Any]]:
    """Return the recorded metrics by group; the ends of an interval are no choices of their own."""
    groups: dict[str, list[dict[str, str]]] = {}
    for name, spec in run.metrics.items():
        if name.removesuffix("_low").removesuffix("_high") != name and spec.group == "information":
            continue
        groups.setdefault(spec.group.capitalize(), []).append({"value": name, "label": shortened(spec.label)})
    return [{"group": group, "items": items} for group, items in groups.items()]


def controls(source: Source, view: View) -> dict[str, Any]:
    """Return the properties of the controls that show a view."""
    names = list(source.runs)
    low, high = (int(view.steps[0]), int(view.steps[-1])) if len(view.steps) else (0, 1)
    count = (
        f"{view.step} of {low} to {high}"
        if len(view.steps)
        else "none recorded yet"
        if view.run.status == "running"
        else "none recorded"
    )
    return {
        "run_data": choices(names),
        "run": view.name,
        "compare_data": choices([name for name in names if name != view.name]),
        "compare": list(view.others),
        "metric_data": metric_choices(view.run),
        "metric": view.metric,
        "min": low,
        "max": max(high, low + 1),
        "by": max(1, view.run.every),
        "disabled": len(view.steps) < 2,
        "step": view.step if view.step is not None else low,
        "step_text": count,
        "follow": view.follow,
        "theory": view.theory,
    }
