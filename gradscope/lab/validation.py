"""Checks of arguments that several parts of the laboratory share."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable

from gradscope.errors import InvalidTypeError, InvalidValueError, UnknownNameError, unknown_name


def whole(name: str, value: object, least: int = 1) -> int:
    """Return a whole number that is at least ``least``.

    Raises:
        InvalidTypeError: It is no whole number.
        InvalidValueError: It is too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InvalidTypeError(f"{name} must be a whole number, not {value!r}")
    number = int(value.__index__())
    if number < least:
        raise InvalidValueError(f"{name} must be at least {least}, not {number}")
    return number


def number(name: str, value: object, *, least: float = -math.inf, above: bool = False) -> float:
    """Return a finite number that is at least ``least``, or above it.

    Raises:
        InvalidTypeError: It is no number.
        InvalidValueError: It is not finite, or too small.
    """
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise InvalidTypeError(f"{name} must be a number, not {value!r}")
    real = float(value.__float__())
    if not math.isfinite(real):
        raise InvalidValueError(f"{name} must be finite, not {real}")
    if real < least or (above and real == least):
        raise InvalidValueError(f"{name} must be {'above' if above else 'at least'} {least:g}, not {real:g}")
    return real


def no_such(said: str, given: str, choices: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name, where it takes more words than `unknown_name` has.

    >>> str(no_such("no function 'trian' in mine.py", "trian", ["train"]))
    "no function 'trian' in mine.py; there are: train (did you mean 'train'?)"
    """
    names = list(choices)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    known = f": {', '.join(names)}" if names else " none"
    return UnknownNameError(f"{said}; there are{known}{hint}")


def choice(what: str, value: object, choices: Iterable[str]) -> str:
    """Return ``value`` if it is one of the choices.

    Raises:
        UnknownNameError: It is not; the message lists the choices.
    """
    names = list(choices)
    if value not in names:
        raise unknown_name(what, value, names)
    return str(value)
