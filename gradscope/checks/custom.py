"""Checks of the user's own: a decorator and a registry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from gradscope.checks.finding import Finding, NotApplicable
from gradscope.errors import InvalidTypeError, InvalidValueError, unknown_name
from gradscope.runs import Run

Check = Callable[[Run], list[Finding] | NotApplicable]
F = TypeVar("F", bound=Callable[[Run], Any])

_LOG = logging.getLogger(__name__)
_own: dict[str, tuple[str, Callable[[Run], Any]]] = {}


def check(*, code: str) -> Callable[[F], F]:
    """Register a function as a check: `diagnose` makes it on every run from then on.

    The function takes a run and returns a finding, several, none (None or an empty list), or `NotApplicable` with the
    reason. It reads the run only. An error in it is reported as `NotApplicable` and never ends a diagnosis. Registering
    a code again from the same module replaces the check (a notebook cell run twice).

    Args:
        code: Name of the check, such as ``heavy-head``.

    Raises:
        InvalidTypeError: `code` is no text, or what is decorated cannot be called.
        InvalidValueError: `code` is empty, or taken by a check of gradscope's or another module's.

    >>> from gradscope.checks import Finding, unregister
    >>> @check(code="no-clock")
    ... def no_clock(run):
    ...     if "seconds" in set(run.scalars["name"]):
    ...         return None
    ...     return Finding("no-clock", "nobody logs the time", "note", (), (), {}, "No scalar is called seconds.",
    ...                    "log it with probe.log(seconds=...)", "")
    >>> unregister("no-clock")
    """
    if not isinstance(code, str):
        raise InvalidTypeError(f"code of a check is a name such as 'heavy-head', not {code!r}")
    if not code.strip():
        raise InvalidValueError("code of a check is a name such as 'heavy-head', not an empty one")

    def register(function: F) -> F:
        if not callable(function):
            raise InvalidTypeError(f"check {code!r} decorates a function of a run, not {function!r}")
        from gradscope.checks.diagnosis import CHECKS

        module = function.__module__
        if code in CHECKS or (code in _own and _own[code][0] != module):
            by = "gradscope" if code in CHECKS else _own[code][0]
            raise InvalidValueError(f"check {code!r} of {module} is already registered by {by}")
        _own[code] = (module, function)
        return function

    return register


def unregister(code: str) -> None:
    """Forget a check of the user's own.

    Raises:
        UnknownNameError: There is none of that code.
    """
    if code not in _own:
        raise unknown_name("check of your own", code, _own)
    del _own[code]


def own_checks() -> dict[str, Callable[[Run], Any]]:
    """Return the checks that were registered, by code, in order."""
    return {code: function for code, (_, function) in _own.items()}


def tried(function: Callable[[Run], Any], run: Run) -> list[Finding] | NotApplicable:
    """Make a check that may fail, or return something else than it should: both are said, and end nothing."""
    try:
        found = function(run)
    except Exception as error:
        _LOG.exception("a check of the user's own failed on run %r", run.name)
        return NotApplicable(f"the check failed: {type(error).__name__}: {error}")
    if found is None or isinstance(found, NotApplicable):
        return [] if found is None else found
    several = list(found) if isinstance(found, Iterable) else [found]
    strange = next((one for one in several if not isinstance(one, Finding)), None)
    if strange is not None:
        return NotApplicable(f"the check returned {type(strange).__name__}, not findings")
    return several
