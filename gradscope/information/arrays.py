"""Arrays as the estimators take them: (samples, features), finite, of one length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gradscope.errors import InvalidTypeError, InvalidValueError

Array = NDArray[np.float64]
FLAT = 4.0
"""Deviation between samples that is rounding: so many units of the precision of their size."""
ROUNDING = "constant but for rounding"


def samples(name: str, given: ArrayLike, least: int = 2) -> Array:
    """Return an array of shape (samples, features) in float64; one dimension is one feature, more are flattened.

    A tensor of torch is taken as it is, whatever its device and precision, also where it requires a gradient.

    Raises:
        InvalidTypeError: It holds no numbers.
        InvalidValueError: It is empty, holds NaN or infinity, or has too few samples.
    """
    raw = plain(given)
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


def by_name(given: object) -> Mapping[str, ArrayLike]:
    """Return layers as they were given, where that is by name.

    Raises:
        InvalidTypeError: It is no mapping of names to arrays.
    """
    if not isinstance(given, Mapping):
        raise InvalidTypeError(f"layers are arrays by name, such as {{'fc1': activations}}, not {type(given).__name__}")
    return given


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
        InvalidValueError: There are not as many as samples, or one is NaN or infinite.
    """
    raw = plain(given)
    raw = raw.reshape(len(raw), -1) if raw.ndim else raw.reshape(1, 1)
    if len(raw) != count:
        raise InvalidValueError(f"{name} has {len(raw)} labels for {count} samples")
    if raw.dtype.kind == "f" and not np.isfinite(raw).all():
        raise InvalidValueError(
            f"{name} holds NaN or infinity in {int((~np.isfinite(raw)).sum())} of {raw.size} labels"
        )
    _, found = np.unique(raw, axis=0, return_inverse=True)
    return np.asarray(found, np.intp).reshape(-1)


def plain(given: Any) -> NDArray[Any]:
    """Return an array of numpy, of a tensor or a list of tensors too; what numpy has no name for becomes float32."""
    if isinstance(given, list | tuple) and any(hasattr(one, "detach") for one in given):
        return np.stack([plain(one) for one in given])
    if not hasattr(given, "detach"):
        return np.asarray(given)
    tensor = given.detach().cpu()
    try:
        return np.asarray(tensor.numpy())
    except TypeError:  # bfloat16, and the kinds of eight bits
        return np.asarray(tensor.float().numpy())


def centred(x: Array) -> Array:
    """Take the mean of every feature away; of a constant feature nothing is left, not even rounding."""
    shifted: Array = x - x.mean(axis=0)
    shifted[:, (x == x[:1]).all(axis=0)] = 0.0
    return shifted


def shrunk(x: Array) -> Array:
    """Return features centred and divided by the largest entry: what looks at ratios only is safe from overflow."""
    shifted = centred(x)
    most = float(np.abs(shifted).max(initial=0.0))
    return shifted / most if most > 0.0 else shifted


def precision(given: ArrayLike) -> float:
    """Return the relative precision of the numbers in an array as it was given."""
    raw = plain(given)
    return float(np.finfo(raw.dtype if raw.dtype.kind == "f" else np.float64).eps)


def flat(values: Array, eps: float) -> str:
    """Say where samples differ by no more than rounding at this precision; empty where they differ by more."""
    most = float(np.abs(values).max(initial=0.0)) or 1.0
    spread, size = (float(np.linalg.norm(one)) for one in (centred(values / most), values / most))
    if spread == 0.0:
        return "constant"
    return ROUNDING if spread <= FLAT * eps * size else ""


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


def by_parts(estimate: Callable[[NDArray[np.intp]], float], count: int, parts: int, seed: int) -> tuple[float, float]:
    """Return the mean of an estimate over disjoint parts of its sample, and the standard error of that of the whole.

    The variance of most estimators falls as 1/n: with v the variance over the parts, of n/parts samples each, that of
    the whole is v / parts (Holmes and Nemenman 2019). NaN where a part would have fewer than 20 samples.

    Args:
        estimate: The estimate from these samples.
        count: How many samples there are.
        parts: How many parts to make.
        seed: Of the random split.
    """
    if count // parts < 20:
        return float("nan"), float("nan")
    order = np.random.default_rng(seed).permutation(count)
    values = [estimate(np.sort(part)) for part in np.array_split(order, parts)]
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(parts))
