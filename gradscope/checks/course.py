"""The course of a training: does it make progress? Most signs matter only where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.checks import rule
from gradscope.checks.finding import NotApplicable, Severity
from gradscope.checks.head import Head, head_of, heads_of
from gradscope.checks.recent import relative_change
from gradscope.runs import Run

Verdict = Literal["learning", "stalled", "diverged", "unknown"]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """How a training goes.

    Attributes:
        verdict: ``learning``; ``stalled``: no skill after enough steps; ``diverged``: the loss ends above where it
            began, or not finite; ``unknown``: too early, or nothing to tell it by.
        steps: Optimizer steps from the first to the last that is known.
        skill: 1 - L / L_chance at the end; NaN where it is not known.
        first: Loss at the start; NaN where none was logged.
        last: Median loss of the last tenth.
        chance: Loss of knowing nothing of the input.
        surprise: Surprise per error relative to chance: 1 at chance.
        movement: Sum over steps of the largest u: how far the updates could have moved a layer's output, relatively.
    """

    verdict: Verdict
    steps: int = 0
    skill: float = math.nan
    first: float = math.nan
    last: float = math.nan
    chance: float = math.nan
    surprise: float = math.nan
    movement: float = math.nan

    def judge(self, severity: Severity) -> Severity:
        """Return the severity of a sign: a note where the training makes progress all the same."""
        return "note" if self.verdict == "learning" else severity

    @property
    def said(self) -> list[str]:
        """A sentence where the course weighs on what a sign means; none where it is unknown."""
        if self.verdict == "learning":
            return [f"The training makes progress all the same{self._numbers}."]
        if self.verdict == "stalled":
            return ["The training makes no progress."]
        return ["The training diverges."] if self.verdict == "diverged" else []

    @property
    def _numbers(self) -> str:
        if math.isnan(self.last):
            return ""
        return f": the loss went from {self.first:.3g} to {self.last:.3g}"


def course(run: Run) -> Course:
    """Say whether a training makes progress, from the scalar ``loss`` and the head's output gradient; see `rule`."""
    losses, head, moved = _losses(run), head_of(run), movement(run)
    if losses.empty and head is None:
        return Course("unknown", movement=moved)
    if losses.empty and head is not None:
        return _of_error(head, moved)
    return _of_loss(losses, head, moved, heads_of(run) if head is None else ())


def movement(run: Run) -> float:
    """Return the sum over all steps of the largest u = update_ratio * sqrt(fan_in) of a step; NaN if not recorded."""
    frame = relative_change(run)
    if isinstance(frame, NotApplicable):
        return math.nan
    largest = frame.max(axis=1)
    apart = np.diff(np.append(frame.index.to_numpy(np.float64), frame.index[-1] + run.every))
    return float(np.nansum(largest.to_numpy(np.float64) * apart))


def _losses(run: Run) -> pd.Series[float]:
    """Return the loss by step, of the steps that the optimizer took."""
    scalars = run.scalars
    chosen = scalars[scalars["name"].eq("loss") & ~scalars["step"].isin(run.skipped())]
    return pd.Series(chosen["value"].to_numpy(np.float64), index=chosen["step"].to_numpy(np.int64))


def _of_loss(losses: pd.Series[float], head: Head | None, moved: float, several: Sequence[Head] = ()) -> Course:
    steps = int(losses.index[-1] - losses.index[0]) + 1
    values = _values(losses)
    first, last = float(values[0]), _end(values)
    if not last >= 0.0 and math.isfinite(last):
        return _of_any(head, steps, first, last, moved)
    chance = first if head is None else _chance(first, head)
    surprise = math.nan if head is None else _surprise(losses, head)
    if not math.isfinite(last):
        return Course("diverged", steps, -math.inf, first, last, chance, surprise, moved)
    skill = 1.0 - last / chance if chance > 0.0 else 0.0
    # What began with wild outputs may have come down to chance, where its error signal is at least 1/sqrt(2) of it.
    at_chance = abs(surprise - 1.0) <= rule.CHANCE and head is not None and _skill_of_error(head) < rule.HALF
    learns = skill > rule.SKILL and not at_chance
    if head is not None:
        learns = _corrected(learns, chance - last, surprise, losses, head)
    elif several:
        learns = learns and _told_apart(several, chance - last)
    verdict = _verdict(learns, steps, len(values))
    if verdict == "stalled" and last > 1.5 * max(first, chance):
        verdict = "diverged"
    return Course(verdict, steps, skill, first, last, chance, surprise, moved)


def _of_any(head: Head | None, steps: int, first: float, last: float, moved: float) -> Course:
    """Judge a loss below zero, which has no chance to compare it with: the error signal may show that it learns."""
    found = Course("unknown") if head is None else _of_error(head, moved)
    verdict: Verdict = "learning" if found.verdict == "learning" else "unknown"
    return Course(verdict, steps, found.skill, first, last, movement=moved)


def _chance(first: float, head: Head) -> float:
    """Return the loss at chance: from the first loss, and where wild outputs made that, from the first error."""
    found = rule.chance_loss(first, head.deviation, head.outputs)
    if not head.deviation > rule.edge(head.outputs):
        return found
    error = rule.chance_error(float(head.errors.iloc[0]), head.deviation, head.outputs)
    return min(first, max(found, rule.chance_surprise(head.outputs) * error))


def _corrected(learns: bool, gained: float, surprise: float, losses: pd.Series[float], head: Head) -> bool:
    """Look at the predictions as well: a loss may fall to that of a constant, and one that is low need not fall."""
    together = head.errors.index.intersection(losses.index)
    error, loss = _values(head.errors.loc[together]), _values(losses.loc[together])
    known = len(loss) > 0 and not math.isnan(head.spread)
    share = rule.explained(head.spread, _end(loss), _end(error), head.outputs) if known else math.nan
    # What telling samples apart cannot have gained, a constant has.
    told = not known or gained <= rule.most_gained(head.spread, _largest(error), head.outputs)
    if known and _squared(loss, error):
        return (learns and (told or share > rule.SKILL)) or share > 1.0 - rule.SKILL
    apart = head.spread > rule.least_spread(head.outputs)
    if not (told or apart or share > rule.SKILL):
        return False
    judged = _skill_of_error(head) > rule.SKILL and losses.iloc[-1] < losses.iloc[0]
    return learns or (apart and (surprise < 1.0 - rule.SKILL or judged))


def _told_apart(heads: Sequence[Head], gained: float) -> bool:
    """Tell whether several heads may have earned by telling samples apart what their common loss has fallen.

    The bound of one head, summed: a loss is convex in the outputs of all of them. Beyond it one of them has to show it.
    """
    if any(math.isnan(one.spread) for one in heads):
        return True
    most = sum(rule.most_gained(one.spread, _largest(_values(one.errors)), one.outputs) for one in heads)
    return gained <= most or any(one.spread > rule.least_spread(one.outputs) for one in heads)


def _squared(loss: Array, error: Array) -> bool:
    """Tell whether this is a squared error: L / e^2 is the same at every step, while the loss is not."""
    there = (loss > 0.0) & (error > 0.0)
    if there.sum() < 3:
        return False
    ratio = np.log(loss[there]) - 2.0 * np.log(error[there])
    return bool(np.ptp(ratio) < 0.01 * np.ptp(np.log(loss[there])))


def _of_error(head: Head, moved: float) -> Course:
    """Judge by the head's output gradient alone."""
    steps = int(head.errors.index[-1] - head.errors.index[0]) + 1
    skill = _skill_of_error(head)
    least = rule.least_spread(head.outputs)
    learns = skill > rule.SKILL and head.spread > min(least, rule.spread_for(skill, head.outputs))
    # What tells samples apart from the start may have learnt before: an error that stays says nothing.
    verdict = "unknown" if not learns and head.spread_before > least else _verdict(learns, steps, steps)
    return Course(verdict, steps, skill, movement=moved)


def _verdict(learns: bool, steps: int, count: int) -> Verdict:
    if learns:
        return "learning"
    return "stalled" if steps >= rule.ENOUGH and count >= rule.FEWEST else "unknown"


def _skill_of_error(head: Head) -> float:
    values = _values(head.errors)
    chance = rule.chance_error(float(values[0]), head.deviation, head.outputs)
    return 1.0 - (_end(values) / chance) ** 2 if chance > 0.0 else 0.0


def _surprise(losses: pd.Series[float], head: Head) -> float:
    """Return L / e of the same steps, relative to that at chance; NaN where there are none."""
    ratio = (losses.reindex(head.errors.index) / head.errors.where(head.errors > 0.0)).dropna()
    return _end(_values(ratio)) / rule.chance_surprise(head.outputs) if len(ratio) else math.nan


def _values(series: pd.Series[float]) -> Array:
    return np.asarray(series, np.float64)


def _largest(values: Array) -> float:
    """Return the larger of the medians of the first and the last values."""
    return max(float(np.median(values[: rule.RECENT])), _end(values))


def _end(values: Array) -> float:
    """Return the median of the last tenth, at least `RECENT`."""
    return float(np.median(values[-max(rule.RECENT, len(values) // 10) :]))
