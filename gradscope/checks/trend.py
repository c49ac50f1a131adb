"""What the checks of vanishing and exploding have in common: one looks down, the other up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gradscope.checks.course import Course, course
from gradscope.checks.finding import Advice, Finding, NotApplicable, Severity
from gradscope.checks.passage import (
    UNSAID,
    Passage,
    Split,
    activation_of,
    first_and_last,
    holds_mostly,
    holds_since,
    layer_numbers,
    split,
    unwatched,
)
from gradscope.checks.recent import takes_part
from gradscope.checks.rule import FAR
from gradscope.checks.wording import duration, left_out, not_blamed, numbers, observed
from gradscope.runs import Run

SILENT = "no error signal reaches any layer"


@dataclass(frozen=True)
class Trend:
    """A check of the gradient's passage.

    Attributes:
        code: Name of the check.
        title: Title of its finding.
        holds: Whether a passage shows it, given that of the first step taken, where there is one.
        severe: Whether a passage that shows it is critical.
        remedy: What to try, given the passage, the activation function and the ledger's split.
        general: What to try where it is not known which factor is to blame.
        source: Where thresholds and remedies come from.
    """

    code: str
    title: str
    holds: Callable[[Passage, Passage | None], bool]
    severe: Callable[[Passage], bool]
    remedy: Callable[[Passage, str, Split], Advice]
    general: Advice
    source: str


def examine(trend: Trend, run: Run) -> list[Finding] | NotApplicable:
    """Look at the first and the last step taken; one that cannot be judged does not silence the other.

    The last step shows it where at least half of the `RECENT` last ones do.
    """
    ends = first_and_last(run)
    if isinstance(ends, NotApplicable):
        return ends
    start = ends[0] if isinstance(ends[0], Passage) else None
    holds = partial(_holds, trend, start)
    first, last = (_judgeable(holds, one) for one in ends)
    if isinstance(first, NotApplicable) and isinstance(last, NotApplicable):
        return last
    early = first if isinstance(first, Passage) and holds(first) else None
    late = last if isinstance(last, Passage) and holds(last) and holds_mostly(run, holds) else None
    if late is None and early is None:
        return []
    # What ended in NaN has not recovered from what it began with.
    lasting = late is not None or isinstance(last, NotApplicable)
    return [_finding(trend, run, early, late, holds, lasting)]


def _holds(trend: Trend, start: Passage | None, seen: Passage) -> bool:
    return trend.holds(seen, start)


def _judgeable(holds: Callable[[Passage], bool], seen: Passage | NotApplicable) -> Passage | NotApplicable:
    """Nothing can be said of the passage of a gradient that is zero everywhere, but that it is so."""
    if isinstance(seen, Passage) and seen.silent and not holds(seen):
        return NotApplicable(f"the output gradient is exactly zero in every layer at step {seen.step}")
    return seen


def _finding(
    trend: Trend,
    run: Run,
    early: Passage | None,
    late: Passage | None,
    holds: Callable[[Passage], bool],
    lasting: bool,
) -> Finding:
    seen = late or early
    assert seen is not None
    gaps = () if seen.silent else unwatched(run, seen)
    share = UNSAID if gaps or seen.silent else split(run, seen)
    activation, going = activation_of(run, seen.path), course(run)
    since = holds_since(run, holds) if late and not early else seen.step
    when = duration(early.step if early else None, late.step if late else None, since)
    advice = trend.general if gaps else trend.remedy(seen, activation, share)
    said = [observed(seen, activation, share), *not_blamed(gaps), when, *left_out(len(run.skipped())), *going.said]
    return Finding(
        code=trend.code,
        title=SILENT if seen.silent else trend.title,
        severity=_severity(trend, run, seen, lasting, going),
        layers=seen.path,
        steps=_steps(early, late, since),
        evidence=numbers(seen, share),
        cause=" ".join(said),
        remedy=advice.text,
        source=trend.source,
        remedies=advice.codes,
        by_layer=layer_numbers(run, seen),
    )


def _severity(trend: Trend, run: Run, seen: Passage, lasting: bool, going: Course) -> Severity:
    """What is over weighs only where the training has come to nothing since."""
    if not lasting and going.verdict not in ("stalled", "diverged"):
        return "note"
    if seen.blocked and not seen.silent:
        return "critical"  # a layer that receives an exact zero learns nothing, whatever the others do
    if going.verdict == "unknown" and not seen.blocked and _takes_part(run, seen):
        return "note"
    return going.judge("critical" if trend.severe(seen) else "warning")


def _takes_part(run: Run, seen: Passage) -> bool:
    """Tell whether the end that is left behind learns all the same, within `REACH` steps."""
    return abs(seen.decay.decades) < FAR or (not seen.grows and takes_part(run, seen.path))


def _steps(early: Passage | None, late: Passage | None, since: int) -> tuple[int, ...]:
    shown = {one.step for one in (early, late) if one is not None}
    return tuple(sorted(shown | {since}))
