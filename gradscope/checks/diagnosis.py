"""Make every check on a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradscope.checks import (
    dead_units,
    depth_scale,
    exploding,
    forward_collapse,
    information_collapse,
    no_gradient,
    non_finite,
    norm_explosion,
    rank_collapse,
    saturation,
    sparse,
    stalled,
    underflow,
    update_ratio,
    vanishing,
)
from gradscope.checks.custom import Check, own_checks, tried
from gradscope.checks.finding import Findings, NotApplicable, by_urgency
from gradscope.errors import InvalidTypeError, unknown_name
from gradscope.runs import Run

# A new check: one file with its function, one line here. Causes stand before what they bring about: of findings of one
# severity and one onset, the first is the one to treat first.
CHECKS: dict[str, Check] = {
    non_finite.CODE: non_finite.non_finite,
    underflow.CODE: underflow.underflow,
    update_ratio.CODE: update_ratio.update_ratio,
    dead_units.CODE: dead_units.dead_units,
    saturation.CODE: saturation.saturation,
    no_gradient.CODE: no_gradient.no_gradient,
    norm_explosion.CODE: norm_explosion.norm_explosion,
    vanishing.CODE: vanishing.vanishing,
    exploding.CODE: exploding.exploding,
    forward_collapse.CODE: forward_collapse.forward_collapse,
    information_collapse.CODE: information_collapse.information_collapse,
    rank_collapse.CODE: rank_collapse.rank_collapse,
    depth_scale.CODE: depth_scale.depth_scale,
    sparse.CODE: sparse.sparse_gradients,
    stalled.CODE: stalled.stalled,
}


def diagnose(run: Run, checks: Iterable[str] | None = None) -> Findings:
    """Make every check on a run: what is wrong, what is not, and what could not be told.

    Args:
        run: A recorded run, finished or not.
        checks: Codes of those to make, of `CHECKS` or the user's own; None makes all.

    Returns:
        The findings, worst first: critical before warning before note, then by onset, then causes before what they
        bring about. As a string, a letter. `healthy` and `not_applicable` account for every other check, a user's own
        included.

    Raises:
        InvalidTypeError: It is not given one run.
        UnknownNameError: There is no such check.
    """
    if not isinstance(run, Run):
        raise InvalidTypeError(
            f"diagnose takes one run, not {type(run).__name__}; "
            "for several: {name: gradscope.diagnose(run) for name, run in runs.items()}"
        )
    own = own_checks()
    chosen = [*CHECKS, *own] if checks is None else _chosen(checks, [*CHECKS, *own])
    results = {code: CHECKS[code](run) if code in CHECKS else tried(own[code], run) for code in chosen}
    empty = _unrecorded(run)
    if empty:  # what found nothing had nothing to look at
        results = {code: result or NotApplicable("no layer was recorded") for code, result in results.items()}
    found = [one for result in results.values() if isinstance(result, list) for one in result]
    return Findings(
        run=run.name,
        findings=tuple(sorted(found, key=by_urgency)),
        healthy=tuple(code for code, result in results.items() if result == []),
        not_applicable={code: result for code, result in results.items() if isinstance(result, NotApplicable)},
        unrecorded=empty,
    )


def _unrecorded(run: Run) -> str:
    """Say why a run holds no rows of layers; empty where it holds some."""
    if any(run.steps(rank=rank) for rank in run.ranks):
        return ""
    if run.specs:
        return "run.json lists layers, but the run's layers/ folder holds no rows"
    if run.error:
        return f"the run {run.status}: {run.error.strip().splitlines()[-1]}"
    events = run.events
    told = events.loc[events["kind"] == "probe", "text"]
    return str(told.iloc[-1]) if len(told) else f"the run is {run.status}, and its events give no reason"


def _chosen(codes: Iterable[str], known: Sequence[str]) -> list[str]:
    wanted = {codes} if isinstance(codes, str) else set(codes)
    for code in sorted(wanted - set(known)):
        raise unknown_name("check", code, known)
    return [code for code in known if code in wanted]
