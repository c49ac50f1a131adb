"""Make every check on a run."""

from __future__ import annotations

from collections.abc import Callable

from gradscope.checks import exploding, non_finite, vanishing
from gradscope.checks.finding import Finding, Findings, NotApplicable, severity_order
from gradscope.errors import InvalidTypeError
from gradscope.runs import Run

Check = Callable[[Run], list[Finding] | NotApplicable]

# A new check: one file with its function, one line here.
CHECKS: dict[str, Check] = {
    non_finite.CODE: non_finite.non_finite,
    vanishing.CODE: vanishing.vanishing,
    exploding.CODE: exploding.exploding,
}


def diagnose(run: Run) -> Findings:
    """Make every check on a run: what is wrong, what is not, and what could not be told.

    Args:
        run: A recorded run, finished or not.

    Returns:
        The findings, worst first: critical before warning before note, then by the decades lost or gained.
        As a string, a letter. `healthy` and `not_applicable` account for every other check.

    Raises:
        InvalidTypeError: It is not given one run.
    """
    if not isinstance(run, Run):
        raise InvalidTypeError(
            f"diagnose takes one run, not {type(run).__name__}; "
            "for several: {name: gradscope.diagnose(run) for name, run in runs.items()}"
        )
    results = {code: check(run) for code, check in CHECKS.items()}
    found = [one for result in results.values() if isinstance(result, list) for one in result]
    return Findings(
        run=run.name,
        findings=tuple(sorted(found, key=severity_order)),
        healthy=tuple(code for code, result in results.items() if result == []),
        not_applicable={code: result for code, result in results.items() if isinstance(result, NotApplicable)},
    )
