"""The errors gradscope raises, and the helper that phrases "no such name"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GradscopeError(Exception):
    """Base of every error that gradscope raises on purpose."""

    def __str__(self) -> str:
        # KeyError, a parent of some children, would show the repr of the message.
        return str(self.args[0]) if self.args else ""


class UnknownNameError(GradscopeError, KeyError):
    """A name (metric, layer, run, initialization, ...) that does not exist."""


class InvalidValueError(GradscopeError, ValueError):
    """A value of the right kind that cannot be used."""


class InvalidTypeError(GradscopeError, TypeError):
    """A value of the wrong kind."""


class RunFormatError(GradscopeError):
    """A folder or file that is not a readable run; the message names the file."""


class RunExistsError(GradscopeError, FileExistsError):
    """The output folder already holds a run."""


def unknown_name(what: str, given: object, choices: Iterable[object]) -> UnknownNameError:
    """Build the error for an unknown name; it lists the choices and the nearest one.

    >>> str(unknown_name("metric", "output_nrm", ["output_norm", "weight_norm"]))
    "no metric 'output_nrm'; there are: output_norm, weight_norm (did you mean 'output_norm'?)"
    >>> str(unknown_name("run", "a", []))
    "no run 'a'; there are none"
    """
    names = [str(choice) for choice in choices]
    if not names:
        return UnknownNameError(f"no {what} {str(given)!r}; there are none")
    near = difflib.get_close_matches(str(given), names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UnknownNameError(f"no {what} {str(given)!r}; there are: {', '.join(names)}{hint}")
