"""Arrays as the estimators take them: (samples, features), finite, of one length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.errors import InvalidTypeError, InvalidValueError

Array = NDArray[np.float64]


def samples(name: str, given: ArrayLike, least: int = 2) -> Array:
    """Return an array of shape (samples, features) in float64; one dimension is one feature, more are flattened.

    Raises:
        InvalidTypeError: It holds no numbers.
        InvalidValueError: It is empty, holds NaN or infinity, or has too few samples.
    """
    raw = np.asarray(given)
    if raw.dtype.kind not in "fiub":
        raise InvalidTypeError(f"{name} is an array of real numbers, not of {raw.dtype}")
    if raw.ndim == 0 or raw.shape[0] < least:
        count = raw.shape[0] if raw.ndim else 0
        raise InvalidValueError(f"{name} has {count} samples, and at least {least} are needed")
    found = np.asarray(raw, np.float64).reshape(raw.shape[0], -1)
    if not found.shape[1]:
        raise InvalidValueError(f"{name} has no features: its shape is {raw.shape}")
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).sum())
        raise InvalidValueError(f"{name} holds NaN or infinity in {bad} of {found.size} entries")
    return found


def pair(x: ArrayLike, y: ArrayLike, names: tuple[str, str] = ("x", "y"), least: int = 2) -> tuple[Array, Array]:
    """Return two arrays with as many samples each.

    Raises:
        InvalidTypeError: One holds no numbers.
        InvalidValueError: One is empty, holds NaN or infinity, has too few samples, or their lengths differ.
    """
    first, second = samples(names[0], x, least), samples(names[1], y, least)
    if len(first) != len(second):
        raise InvalidValueError(f"{names[0]} has {len(first)} samples and {names[1]} has {len(second)}")
    return first, second


def labels(name: str, given: ArrayLike, count: int) -> NDArray[np.intp]:
    """Return labels as numbers from 0 on, one for each sample.

    Raises:
        InvalidValueError: There are not as many as samples.
    """
    raw = np.asarray(given)
    raw = raw.reshape(len(raw), -1) if raw.ndim else raw.reshape(1, 1)
    if len(raw) != count:
        raise InvalidValueError(f"{name} has {len(raw)} labels for {count} samples")
    _, found = np.unique(raw, axis=0, return_inverse=True)
    return np.asarray(found, np.intp).reshape(-1)


def centred(x: Array) -> Array:
    """Take the mean of every feature away."""
    shifted: Array = x - x.mean(axis=0)
    return shifted


def whole(name: str, given: Any, least: int = 1) -> int:
    """Return a whole number.

    Raises:
        InvalidValueError: It is none, or too small.
    """
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < least:
        raise InvalidValueError(f"{name} is a whole number from {least} on, not {given!r}")
    return int(given)


def positive(name: str, given: Any) -> float:
    """Return a positive finite number.

    Raises:
        InvalidValueError: It is none.
    """
    number = isinstance(given, int | float | np.floating | np.integer) and not isinstance(given, bool)
    if not number or not 0.0 < float(given) < np.inf:
        raise InvalidValueError(f"{name} is a positive number, not {given!r}")
    return float(given)


def spread_of_parts(estimate: Callable[[NDArray[np.intp]], float], count: int, parts: int, seed: int) -> float:
    """Return the standard error of an estimate from disjoint parts of its sample.

    The variance of most estimators falls as 1/n: with v the variance over the parts, of n/parts samples each, that of
    the whole is v / parts (Holmes and Nemenman 2019). NaN where a part would have fewer than 20 samples.

    Args:
        estimate: The estimate from these samples.
        count: How many samples there are.
        parts: How many parts to make.
        seed: Of the random split.
    """
    if count // parts < 20:
        return float("nan")
    order = np.random.default_rng(seed).permutation(count)
    values = [estimate(np.sort(part)) for part in np.array_split(order, parts)]
    return float(np.std(values, ddof=1) / np.sqrt(parts))
