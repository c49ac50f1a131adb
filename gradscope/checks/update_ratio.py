"""Updates too small to change anything, or so large that they replace what was learnt."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from gradscope.checks import rule
from gradscope.checks.course import Course, course
from gradscope.checks.exploding import exploding
from gradscope.checks.finding import Finding, NotApplicable, Severity
from gradscope.checks.passage import METRIC
from gradscope.checks.recent import by_depth, last_steps, late, relative_change, seen
from gradscope.checks.saturation import saturation
from gradscope.checks.vanishing import vanishing
from gradscope.runs import Run

CODE = "update-ratio"
_SOURCE = (
    "Yang and Hu 2021; Yang, Simon and Bernstein 2023: an update changes the output of a layer relatively by "
    "rms(Delta W)/rms(W) sqrt(fan_in) at most; CS231n: a ratio of about 1e-3 is usual"
)


def update_ratio(run: Run) -> list[Finding] | NotApplicable:
    """Find updates whose size, relative to the weights, is out of any useful band.

    With r = rms(Delta W) / rms(W), u = r sqrt(fan_in) is the most by which a step can change the output of a layer,
    relative to it; u does not depend on the width, and is judged by the layer that moves most.

    Too large: u > 1 at most of the last five recorded steps; in a training without progress one of the first five is
    enough, for one such step undoes a network. Too small: in a training without progress, the sum of u over all steps
    is below 1; where it is too early to tell, u < 1e-4: ten thousand steps for one layer to change. A training that
    makes progress is never too slow: updates of a converged one are small.

    Severity: where the gradient vanishes or explodes at the first step, or has exact zeros, or where activation
    functions are saturated by then, the updates follow from that: note. Else critical for updates that are too large in
    a training without progress, and for those that are too small by two decades more; else warning. Note where the
    training makes progress.
    """
    frame, moves = seen(run, "update_ratio"), relative_change(run)
    if isinstance(frame, NotApplicable):
        return frame
    assert not isinstance(moves, NotApplicable)
    going, last = course(run), late(moves)
    if going.verdict == "learning":
        return _too_large(frame, moves, last, going, "note") if last.max() > 1.0 else []
    if going.verdict == "unknown":
        return _too_early(run, frame, moves, last, going)
    first = moves.head(rule.RECENT).max()
    largest = first if first.max() > last.max() else last
    if largest.max() > 1.0:
        return _too_large(frame, moves, largest, going, "note" if _explained(run) else "critical")
    slow = going.verdict == "stalled" and going.movement < 1.0  # what diverges has moved
    return _too_small(frame, moves, going, _slow(run, going.movement)) if slow else []


def _too_early(
    run: Run, frame: pd.DataFrame, moves: pd.DataFrame, last: pd.Series[float], going: Course
) -> list[Finding]:
    if last.max() > 1.0 and len(moves) >= rule.RECENT:
        return _too_large(frame, moves, last, going, "note" if _explained(run) else "warning")
    part = float(last.max()) / rule.SLOWEST
    return _too_small(frame, moves, going, _slow(run, part)) if part < 1.0 else []


def _slow(run: Run, part: float) -> Severity:
    if _explained(run):
        return "note"
    return "critical" if part < 1.0 / rule.WORSE else "warning"


def _explained(run: Run) -> bool:
    """Tell whether something else is to blame from the start: a gradient that vanishes, explodes or is exactly zero.

    Or weights so large that activation functions are saturated: beside them every update is small.
    """
    signal = seen(run, METRIC)
    if isinstance(signal, NotApplicable):
        return False
    if bool((signal.iloc[0] == 0.0).any()):
        return True
    first = int(signal.index[0])
    others = [one for one in (vanishing(run), exploding(run), saturation(run)) if isinstance(one, list)]
    return any(first in finding.steps for found in others for finding in found)


def _too_large(
    frame: pd.DataFrame, moves: pd.DataFrame, shown: pd.Series[float], going: Course, severity: Severity
) -> list[Finding]:
    worst = _largest(shown)
    said = (
        f"In layer {worst} a step can change the output by {float(shown[worst]):.2g} of its size: it replaces what the "
        f"layer did before."
    )
    return [
        Finding(
            code=CODE,
            title="the updates are too large",
            severity=severity,
            layers=tuple(int(depth) for depth in shown.index[shown > 1.0]),
            steps=tuple(sorted({int(moves.index[0]), int(moves.index[-1])})),
            evidence={"largest_change": float(shown[worst]), "update_ratio": _ratio(frame, moves, shown, worst)},
            cause=" ".join([said, *going.said]),
            remedy="lower the learning rate, warm it up, or clip the gradient; normalize where the gradient explodes",
            source=_SOURCE,
            remedies=("lower_learning_rate", "clip_gradients", "critical_init", "normalize"),
            by_layer={"largest_change": by_depth(shown)},
        )
    ]


def _too_small(frame: pd.DataFrame, moves: pd.DataFrame, going: Course, severity: Severity) -> list[Finding]:
    shown = late(moves)
    worst = _largest(shown)
    said = (
        f"Even layer {worst}, whose weights move most, changes its output by its own size once in "
        f"{1.0 / float(shown[worst]):.2g} steps at most."
        if shown[worst] > 0.0
        else "No weight changes at all."
    )
    known = {"movement": going.movement} if math.isfinite(going.movement) else {}
    return [
        Finding(
            code=CODE,
            title="the updates are too small to change anything",
            severity=severity,
            layers=tuple(int(depth) for depth in shown.index),
            steps=last_steps(moves),
            evidence={"largest_change": float(shown[worst]), "update_ratio": float(late(frame)[worst])} | known,
            cause=" ".join(
                [
                    said,
                    "Either the learning rate is too small, or hardly a gradient reaches the weights.",
                    *going.said,
                ]
            ),
            remedy="raise the learning rate, unless the gradient vanishes on its way or is clipped to nothing",
            source=_SOURCE,
            remedies=("raise_learning_rate", "critical_init"),
            by_layer={"update_ratio": by_depth(late(frame)), "largest_change": by_depth(shown)},
        )
    ]


def _ratio(frame: pd.DataFrame, moves: pd.DataFrame, shown: pd.Series[float], depth: int) -> float:
    """Return the update ratio of a layer that belongs to its largest change."""
    return float(shown[depth]) * float((frame[depth] / moves[depth]).median())


def _largest(values: pd.Series[float]) -> int:
    return int(values.index[int(np.nanargmax(values.to_numpy(np.float64)))])
