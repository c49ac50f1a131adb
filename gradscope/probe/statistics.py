"""Statistics of tensors on the host, with numpy: of one large tensor in its hook, or of many small ones at once.

All functions take ``rows``, shape (k, entries), and return one number for each row. Numpy reads a tensor's memory
without a copy, and its calls cost a third of torch's; comparisons and counts are five to ten times faster.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_SIZE = 16_384
UNIT_ENTRIES = 8_192
LEAST_UNITS = 16
ROW = 512
Array = NDArray[np.float64]
Rows = NDArray[np.float32] | NDArray[np.float64]
# A float32 sum of squares below this, an entry, may have lost small squares even where subnormal numbers are flushed to
# zero; one above the other is close to overflow. Between them it is right to a relative error of 1e-6.
_LOW, _HIGH = 2e-32, 1e37
# What brings vanishing gradients into that range: a power of two, so that nothing is rounded.
_RAISE = np.float32(2.0**60)
# Below this share of the sum of squares the deviations have cancelled away.
_CANCELLED = 0.1
_ONES = np.ones(ROW, np.float32)


def squares(rows: Rows) -> Array:
    """Sum of squares of every row.

    A float32 pass; where its result leaves the safe range, one of the entries raised by a power of two, or in float64.
    """
    if len(rows) == 1:
        return np.asarray([square_sum(rows[0])])
    if rows.dtype == np.float64:
        return np.asarray(np.vecdot(rows, rows), dtype=np.float64)
    found = _in_pieces(rows, None)
    for row in np.flatnonzero(~((found > _LOW * rows.shape[1]) & (found < _HIGH))):
        found[row] = _careful_square_sum(rows[row])
    return found


def sums(rows: Rows) -> Array:
    """Sum of every row."""
    if rows.dtype == np.float64:
        return np.asarray(rows.sum(1), dtype=np.float64)
    found = _in_pieces(rows, _ONES)
    if not np.isfinite(found).all():
        found = rows.sum(1, dtype=np.float64)
    return found


def square_sum(vector: Rows) -> float:
    """Sum of squares of one vector: what `squares` does, with fewer calls."""
    if vector.dtype == np.float64:
        return float(np.vecdot(vector, vector))
    found = _square_sum(vector)
    return found if _LOW * len(vector) < found < _HIGH else _careful_square_sum(vector)


def _square_sum(vector: Rows) -> float:
    pieces = _cut(vector)
    if pieces is None:
        return float(_in_pieces(vector[None], None)[0])
    return float(np.add.reduce(np.vecdot(pieces, pieces), dtype=np.float64))


def _careful_square_sum(vector: Rows) -> float:
    """The same of a float32 vector whose squares leave the range of float32, or come close."""
    raised = np.multiply(vector, _RAISE, out=scratch(vector, 2))
    found = _square_sum(raised)
    if _LOW * len(vector) < found < _HIGH:
        return found / float(_RAISE) ** 2
    wide = vector.astype(np.float64)
    return float(np.vecdot(wide, wide))


def entry_sum(vector: Rows) -> float:
    """Sum of one vector: what `sums` does, with fewer calls."""
    pieces = _cut(vector)
    if pieces is None:
        return float(sums(vector[None])[0])
    found = float(np.add.reduce(np.vecdot(pieces, _ONES[: pieces.shape[1]]), dtype=np.float64))
    return found if math.isfinite(found) else float(vector.sum(dtype=np.float64))


def deviation_sum(vector: Rows, total: float, power: float) -> float:
    """Sum of squared deviations of one vector."""
    mean = total / len(vector)
    found = power - total * mean
    if found < _CANCELLED * power:
        centred = vector - vector.dtype.type(mean)
        found = square_sum(centred) - entry_sum(centred) ** 2 / len(vector)
    return found if not found < 0 else 0.0


def _cut(vector: Rows) -> Rows | None:
    """A float32 vector in short pieces of one length; None where that does not come out even."""
    count = len(vector)
    if vector.dtype != np.float32 or count == 0:
        return None
    size = _piece(count)
    return None if count % size else vector.reshape(-1, size)


def deviations(rows: Rows, total: Array, power: Array) -> Array:
    """Sum of squared deviations from the mean, around the mean where they would cancel away otherwise."""
    mean = total / rows.shape[1]
    found: Array = power - total * mean
    cancelled = found < _CANCELLED * power
    if cancelled.any():
        centred = rows[cancelled] - mean[cancelled, None].astype(rows.dtype)
        found[cancelled] = squares(centred) - sums(centred) ** 2 / rows.shape[1]
    return np.maximum(found, 0.0)


def _in_pieces(rows: Rows, ones: NDArray[np.float32] | None) -> Array:
    """Sum of squares, or of entries, in float32 over short pieces, these added up in float64.

    One float32 dot product over 1e7 entries is off by up to 1e-3, over a piece of 512 by 3e-7 at worst.
    """
    k, count = rows.shape
    size = _piece(count)
    if size == count:
        return np.asarray(np.vecdot(rows, rows if ones is None else ones[:count]), dtype=np.float64)
    whole = count // size * size
    pieces = (rows if whole == count else rows[:, :whole]).reshape(k, -1, size)
    found = np.add.reduce(np.vecdot(pieces, pieces if ones is None else ones[:size]), axis=1, dtype=np.float64)
    if whole < count:
        tail = rows[:, whole:]
        found += np.vecdot(tail, tail if ones is None else ones[: count - whole])
    return np.asarray(found)


@lru_cache(maxsize=4096)
def _piece(count: int) -> int:
    """Length of the pieces of a row: one that divides it, if there is one between 128 and 512.

    >>> _piece(100), _piece(4096), _piece(640), _piece(1021)
    (100, 512, 320, 512)
    """
    if count <= ROW:
        return count
    return next((size for size in range(ROW, 127, -1) if count % size == 0), ROW)


def count_rows(which: NDArray[np.bool_]) -> Array:
    """Number of true entries in every row."""
    if len(which) == 1:
        return np.asarray([float(np.count_nonzero(which))])
    # Row by row: along an axis count_nonzero adds up integers, ten times slower.
    return np.asarray([np.count_nonzero(row) for row in which], dtype=np.float64)


def zeros(rows: Rows) -> Array:
    """Number of exact zeros in every row."""
    return count_rows(rows == 0)


def small(rows: Rows, threshold: float, strictly: bool, nothing: Array | None = None) -> Array:
    """Number of small entries in every row.

    Args:
        rows: The rows.
        threshold: What is small.
        strictly: Count |x| < threshold, zeros included; else 0 < |x| <= threshold.
        nothing: Number of zeros, where known.
    """
    magnitude = np.abs(rows, out=scratch(rows))
    limit = rows.dtype.type(threshold)
    if strictly:
        return count_rows(magnitude < limit)
    return count_rows(magnitude <= limit) - (zeros(rows) if nothing is None else nothing)


def spread(blocks: Rows) -> Array:
    """Mean over columns of the standard deviation over samples.

    Taken around the first sample, so that nothing cancels however far the mean lies from zero.

    Args:
        blocks: Shape (k, samples, columns), two samples at least.
    """
    count = blocks.shape[1]
    moved = np.subtract(blocks, blocks[:, :1], out=scratch(blocks))
    total = np.add.reduce(moved, axis=1)
    np.multiply(moved, moved, out=moved)
    power = np.add.reduce(moved, axis=1)
    if blocks.dtype == np.float32 and not _LOW * count < float(power.max()) < _HIGH:
        return spread(blocks.astype(np.float64))
    variance = (power - total * total / count) / (count - 1)
    deviation = np.sqrt(np.maximum(variance, 0.0, out=variance), out=variance)
    return np.asarray(np.add.reduce(deviation, axis=1, dtype=np.float64) / max(deviation.shape[1], 1))


_memory = threading.local()


def scratch(like: Rows, number: int = 0) -> Any:
    """Memory for a passing result of the shape of an array, used again and again: fresh memory costs page faults.

    Args:
        like: The array.
        number: Tells results that are wanted at the same time apart.
    """
    held: dict[Any, Any] = _memory.__dict__
    key = number, like.dtype
    found = held.get(key)
    if found is None or found.size < like.size:
        found = held[key] = np.empty(like.size, like.dtype)
    return found[: like.size].reshape(like.shape)


def slope_of_tanh(value: Rows) -> Any:
    """1 - y^2, in memory that the next call uses again."""
    found = scratch(value, 1)
    np.multiply(value, value, out=found)
    return np.subtract(1, found, out=found)


def slope_of_sigmoid(value: Rows) -> Any:
    """Y (1 - y), in memory that the next call uses again."""
    found = scratch(value, 1)
    np.subtract(1, value, out=found)
    return np.multiply(value, found, out=found)


def overlap(first: Rows, second: Rows) -> float:
    """Scalar product of two vectors, in float32 over short pieces, in float64 where that leaves the safe range."""
    narrow = first.dtype == np.float32 and second.dtype == np.float32
    if narrow and not all(_LOW * len(one) < square_sum(one) < _HIGH for one in (first, second)):
        first, second = first.astype(np.float64), second.astype(np.float64)
    if first.dtype == np.float64 or second.dtype == np.float64:
        return float(np.vecdot(first, second))
    size = _piece(len(first))
    whole = len(first) // size * size
    pieces = np.vecdot(first[:whole].reshape(-1, size), second[:whole].reshape(-1, size))
    return float(pieces.sum(dtype=np.float64)) + float(np.vecdot(first[whole:], second[whole:]))


@lru_cache(maxsize=4096)
def unit_step(count: int, rows: int) -> int:
    """Every how many units one is taken: all of them while rows x units stays small, 16 at least.

    >>> unit_step(512, 16), unit_step(512, 1024), unit_step(10, 10**6)
    (1, 32, 1)
    """
    wanted = min(count, max(UNIT_ENTRIES // max(rows, 1), LEAST_UNITS))
    return max(count // max(wanted, 1), 1)


@lru_cache(maxsize=4096)
def odd_stride(entries: int, features: int, wanted: int = SAMPLE_SIZE) -> int:
    """Greatest odd stride that leaves a full sample and does not fall into step with the rows.

    >>> odd_stride(16384 * 9, 64), odd_stride(1000, 10), odd_stride(16384 * 16, 15)
    (9, 1, 13)
    """
    stride = max(entries // wanted, 1)
    stride -= stride % 2 == 0
    while stride > 1 and math.gcd(stride, max(features, 1)) != 1:
        stride -= 2
    return stride
