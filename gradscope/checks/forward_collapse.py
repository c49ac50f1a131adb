"""The samples look more and more alike on their way up."""

from __future__ import annotations

import math

import pandas as pd

from gradscope.checks import rule
from gradscope.checks.course import Course, course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, early, hidden, last_steps, late, of_depths, seen, since, takes_part
from gradscope.runs import Run

CODE = "forward-collapse"
_SOURCE = (
    "Schoenholz et al. 2017: the correlation of samples converges at the rate of the gradient; Du et al. 2019 and "
    "Xiao et al. 2020 (condition number of the tangent kernel); steps = 1 / (layers * spread^2): gradscope.checks.rule"
)


def forward_collapse(run: Run) -> list[Finding] | NotApplicable:
    """Find a network whose last hidden layer puts out nearly the same for every sample.

    s_l = sample_spread / output_rms, the standard deviation between samples relative to the size of the output. With H
    hidden layers, kappa = 1 / (H s_H^2) steps are needed to tell samples apart (`gradscope.checks.rule`). It holds
    where kappa is above the steps taken by a training that makes no progress, or above 1,000 where it is too early to
    tell, at most of the last recorded steps or, without progress, of the first. A ratio: neither width nor batch size
    nor loss scale matters. Where it is too early to tell and the updates of the lowest and the highest hidden layer are
    alike, as an optimizer makes them that divides by the size of the gradient, sqrt(kappa) is taken.

    Not applicable where batch normalization follows: it takes away what samples have in common.

    Severity: critical at 100 times that number of steps, else warning; note where the training makes progress.
    """
    above, below = seen(run, "sample_spread"), seen(run, "output_rms")
    for one in (above, below):
        if isinstance(one, NotApplicable):
            return one
    layers = hidden(run)
    if not layers:
        return NotApplicable("no hidden layer")
    if of_depths(run, layers[-1:])[0].norm == "batch":
        return NotApplicable("batch normalization after the last hidden layer takes away what samples have in common")
    spread = _relative(above, below).reindex(columns=list(layers))  # type: ignore[arg-type]
    spread = spread.dropna(how="all")
    if spread.empty or spread[layers[-1]].isna().all():
        return NotApplicable("the spread between samples is not known in the last hidden layer")
    going = course(run)
    limit = float(going.steps) if going.verdict == "stalled" else rule.REACH
    power = 0.5 if going.verdict == "unknown" and takes_part(run, layers) else 1.0
    return _judge(spread, going, limit, power)


def _relative(above: pd.DataFrame, below: pd.DataFrame) -> pd.DataFrame:
    # An output of exactly zero has no spread either.
    return (above / below).where(below > 0.0, 0.0).where(above.notna() & below.notna())


def _judge(spread: pd.DataFrame, going: Course, limit: float, power: float) -> list[Finding]:
    top, count = int(spread.columns[-1]), len(spread.columns)
    begun, now = early(spread), late(spread)
    steps_now = rule.condition(float(now[top]), count) ** power
    steps_begun = rule.condition(float(begun[top]), count) ** power
    began = since(spread, lambda row: rule.condition(float(row[top]), count) ** power > limit)
    shown, needed, steps = now, steps_now, tuple(sorted({began, *last_steps(spread)[-1:]}))
    if steps_now <= limit and going.verdict in ("stalled", "diverged"):
        shown, needed, steps = begun, steps_begun, (int(spread.index[0]),)
    if needed <= limit:
        return []
    severity = going.judge("critical" if needed > rule.WORSE * limit else "warning")
    bottom = int(shown.first_valid_index() or top)  # type: ignore[arg-type]
    return [
        Finding(
            code=CODE,
            title="all samples look alike to the head",
            severity=severity,
            layers=tuple(int(depth) for depth in spread.columns),
            steps=steps,
            evidence={
                "spread_first_layer": float(shown[bottom]),
                "spread_last_hidden": float(shown[top]),
                "steps_needed": needed,
                **({"steps_taken": float(going.steps)} if going.steps else {}),
            },
            cause=" ".join([_cause(shown, bottom, top, needed, going), *going.said]),
            remedy=(
                "keep samples apart: initialize at the edge of chaos (weights larger, biases zero), centre and scale "
                "each unit on a batch, normalize before the activation function, add skip connections, or take fewer "
                "layers"
            ),
            source=_SOURCE,
            remedies=("critical_init", "centered_lsuv", "normalize", "add_skips", "shallower", "change_activation"),
            by_layer={"relative_spread": by_depth(shown)},
        )
    ]


def _cause(shown: pd.Series[float], bottom: int, top: int, needed: float, going: Course) -> str:
    text = (
        f"Between samples, the output of layer {bottom} varies by {float(shown[bottom]):.2g} of its size, that of "
        f"layer {top}, the last hidden one, by {float(shown[top]):.2g}: the head sees "
    )
    text += "a constant" if not math.isfinite(needed) else f"nearly a constant, and would need about {needed:.2g} steps"
    text += " to tell samples apart" if math.isfinite(needed) else ""
    taken = going.verdict == "stalled" and math.isfinite(needed)
    return text + (f"; {going.steps} were taken." if taken else ".")
