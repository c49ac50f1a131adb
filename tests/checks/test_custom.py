"""Checks of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import gradscope as gs
from gradscope.checks import CHECKS, Finding, NotApplicable, check, diagnose, unregister
from gradscope.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.runs import Run

Record = Callable[..., Run]
MINE = Finding("mine", "a finding of my own", "warning", (1,), (0,), {"x": 1.0}, "because", "do", "me")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    for code in ("mine", "other"):
        try:
            unregister(code)
        except UnknownNameError:
            continue


def test_a_check_of_ones_own_is_made_with_the_others(record: Record) -> None:
    @gs.check(code="mine")
    def mine(run: Run) -> list[Finding]:
        assert run.name == "patient"
        return [MINE]

    findings = diagnose(record({0: [1.0] * 6}))
    assert findings.codes == ("mine",)
    assert findings[0] == MINE


@pytest.mark.parametrize(
    ("returned", "codes", "healthy"), [(MINE, ("mine",), ()), (None, (), ("mine",)), ([], (), ("mine",))]
)
def test_one_finding_or_none(
    record: Record, returned: object, codes: tuple[str, ...], healthy: tuple[str, ...]
) -> None:
    check(code="mine")(lambda run: returned)
    findings = diagnose(record({0: [1.0] * 6}), "mine")
    assert (findings.codes, findings.healthy) == (codes, healthy)


def test_an_error_is_reported_and_ends_nothing(record: Record) -> None:
    @check(code="mine")
    def mine(run: Run) -> list[Finding]:
        raise KeyError("no such thing")

    sick = record({0: [0.3**7, 0.3**6, 0.3**5, 0.3**4, 0.3**3, 0.3**2, 0.3, 1.0, 1.0]})
    findings = diagnose(sick)
    assert "vanishing" in findings.codes
    assert findings.not_applicable["mine"] == NotApplicable("the check failed: KeyError: 'no such thing'")


def test_what_is_no_finding_is_reported(record: Record) -> None:
    check(code="mine")(lambda run: ["sick"])
    assert diagnose(record({0: [1.0]}), "mine").not_applicable["mine"] == NotApplicable(
        "the check returned str, not findings"
    )


def test_not_applicable_passes(record: Record) -> None:
    check(code="mine")(lambda run: NotApplicable("no clock"))
    assert diagnose(record({0: [1.0]}), "mine").not_applicable["mine"] == NotApplicable("no clock")


def test_a_code_that_is_taken(record: Record) -> None:
    with pytest.raises(InvalidValueError) as error:
        check(code="vanishing")(lambda run: None)
    assert str(error.value) == f"check 'vanishing' of {__name__} is already registered by gradscope"
    check(code="mine")(lambda run: None)
    check(code="mine")(lambda run: MINE)
    assert diagnose(record({0: [1.0]}), "mine").codes == ("mine",)


def test_what_cannot_be_registered() -> None:
    with pytest.raises(InvalidTypeError) as error:
        check(code=3)  # type: ignore[arg-type]
    assert str(error.value) == "code of a check is a name such as 'heavy-head', not 3"
    with pytest.raises(InvalidValueError) as empty:
        check(code=" ")
    assert str(empty.value) == "code of a check is a name such as 'heavy-head', not an empty one"


def test_forgetting_what_was_never_registered() -> None:
    with pytest.raises(UnknownNameError) as error:
        unregister("mine")
    assert str(error.value) == "no check of your own 'mine'; there are none"


def test_some_checks_alone(record: Record) -> None:
    findings = diagnose(record({0: [1.0] * 6}), ["vanishing", "exploding"])
    assert findings.healthy == ("vanishing", "exploding")
    assert findings.not_applicable == {}
    with pytest.raises(UnknownNameError) as error:
        diagnose(record({0: [1.0] * 6}, name="other"), "vanish")
    choices = ", ".join(CHECKS)
    assert str(error.value) == f"no check 'vanish'; there are: {choices} (did you mean 'vanishing'?)"
