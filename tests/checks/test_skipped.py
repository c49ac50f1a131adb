"""Steps that the optimizer skipped: their magnitude raises no alarm, and they are mentioned."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gradscope import checks
from gradscope.checks import Findings, NotApplicable
from gradscope.runs import Run

Record = Callable[..., Run]
PASSAGE = ("non-finite", "vanishing", "exploding")
HEALTHY = [1.0] * 9
GROWING = [2.0**power for power in range(8, 0, -1)] + [1.0]


def diagnose(run: Run) -> Findings:
    """Make the checks of the passage alone: this file is about them."""
    return checks.diagnose(run, PASSAGE)


def test_no_alarm_from_a_skipped_step(record: Record) -> None:
    findings = diagnose(record({0: GROWING, 10: HEALTHY, 20: GROWING}, skipped=[0, 20]))
    assert findings.codes == ()
    assert findings.healthy == ("non-finite", "vanishing", "exploding")


def test_skipped_steps_with_infinity_are_a_note_and_no_alarm(record: Record) -> None:
    values = {(0, depth, "output_grad_norm"): math.inf for depth in range(1, 10)}
    findings = diagnose(record({0: HEALTHY, 10: HEALTHY}, values=values, skipped=[0]))
    assert findings.codes == ("non-finite",)
    assert findings[0].severity == "note"


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_the_loss_of_a_skipped_step_is_a_note_and_no_alarm(record: Record, bad: float) -> None:
    (one,) = diagnose(record({0: HEALTHY, 10: HEALTHY}, loss={0: bad, 10: 1.0}, skipped=[0]))
    assert (one.code, one.severity, one.layers, one.steps) == ("non-finite", "note", (), (0,))
    assert one.title == "NaN or infinity, only in steps that the optimizer skipped"
    assert one.evidence == {"skipped_steps": 1.0, "rows": 0.0}


def test_the_loss_of_a_skipped_step_does_not_date_that_of_a_step_taken(record: Record) -> None:
    (one,) = diagnose(record({0: HEALTHY, 10: HEALTHY}, loss={0: math.inf, 10: math.nan}, skipped=[0]))
    assert (one.severity, one.steps) == ("critical", (10,))
    assert one.cause == "The loss is not finite at step 10."


def test_what_holds_beside_skipped_steps_mentions_them(record: Record) -> None:
    (one,) = diagnose(record({0: HEALTHY, 10: GROWING, 20: HEALTHY, 30: GROWING}, weight_gain=2.0, skipped=[0, 20]))
    assert (one.code, one.steps) == ("exploding", (10, 30))
    assert one.cause.endswith(
        "It was so at the first recorded step, 10, and is so at the last, 30. "
        "2 recorded steps that the optimizer skipped are left out."
    )


def test_where_every_step_was_skipped_nothing_can_be_said(record: Record) -> None:
    findings = diagnose(record({0: GROWING, 10: GROWING}, skipped=[0, 10]))
    reason = NotApplicable("the optimizer took none of the 2 recorded steps")
    assert findings.codes == ()
    assert findings.not_applicable == {"vanishing": reason, "exploding": reason}
