"""The loss stays where knowing nothing of the input leaves it, or rises."""

from __future__ import annotations

import math

from gradscope.checks import rule
from gradscope.checks.course import Course, course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.runs import Run

CODE = "stalled"
_SOURCE = (
    "chance: ln K for K classes, found without knowing the scale of the loss (gradscope.checks.rule); random logits: "
    "Derrida 1981 (random energy model)"
)


def stalled(run: Run) -> list[Finding] | NotApplicable:
    """Find a training that makes no progress after 100 steps, or whose loss rises.

    It needs the scalar ``loss``, and one that is not negative. Chance is what a predictor pays that knows the classes
    and nothing of the input: in units of the loss, whatever its scale, from the first loss and the first outputs of the
    head. It holds where less than a tenth of it has been gained, at the median of the last tenth of the losses; also
    where the loss has fallen, but stays at chance by the error signal of the head, or the outputs do not tell samples
    apart. A loss that is low from the first step on, as in a training that has converged before, is no stall.

    Severity: critical where the loss ends above one and a half times its start, or not finite; else warning: what
    brings it about is another finding's business.
    """
    if not run.scalars["name"].eq("loss").any():
        return NotApplicable('no scalar "loss" was logged (probe.log(loss=loss))')
    going = course(run)
    if going.verdict == "unknown" and going.last < 0.0:
        return NotApplicable("a loss below zero cannot be compared with that of knowing nothing")
    if going.verdict == "unknown":
        return NotApplicable(f"too early to tell: {rule.ENOUGH} steps are needed, not {going.steps}")
    if going.verdict == "learning":
        return []
    return [_finding(run, going)]


def _finding(run: Run, going: Course) -> Finding:
    losses = run.scalars.loc[run.scalars["name"].eq("loss"), "step"]
    numbers = {
        "first_loss": going.first,
        "last_loss": going.last,
        "chance_loss": going.chance,
        "skill": going.skill,
        "surprise": going.surprise,
        "movement": going.movement,
    }
    diverged = going.verdict == "diverged"
    return Finding(
        code=CODE,
        title=_title(going),
        severity="critical" if diverged else "warning",
        layers=(),
        steps=(int(losses.iloc[0]), int(losses.iloc[-1])),
        evidence={name: value for name, value in numbers.items() if math.isfinite(value)},
        cause=_cause(going),
        remedy=(
            "lower the learning rate, and look at the other findings"
            if diverged
            else "look at the other findings for the cause; without one, look at the data: labels that belong to other "
            "inputs leave the loss at chance too"
        ),
        source=_SOURCE,
        remedies=("lower_learning_rate", "clip_gradients") if diverged else (),
    )


def _title(going: Course) -> str:
    if going.verdict != "diverged":
        return "the training makes no progress"
    return "the loss rises" if math.isfinite(going.last) else "the loss ends as NaN or infinity"


def _cause(going: Course) -> str:
    if going.steps == 1:
        return f"The loss of the only step is {going.last:.3g}."
    went = f"In {going.steps} steps the loss went from {going.first:.3g} to {going.last:.3g}"
    if going.verdict == "diverged":
        return f"{went}."
    text = f"{went}; knowing nothing of the input costs about {going.chance:.3g}."
    if abs(going.surprise - 1.0) <= rule.CHANCE:
        text += " By its error signal, the head says the same of every class."
    return text
