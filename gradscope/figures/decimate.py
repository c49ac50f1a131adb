"""Fewer points, same picture: what the browser gets never grows with the number of recorded steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tsdownsample import MinMaxLTTBDownsampler

from gradscope.figures.marks import PLAIN

# tsdownsample says it is typed, but not in its constructors.
_DOWNSAMPLER: Any = MinMaxLTTBDownsampler
LINE_POINTS = 300
COLUMNS = 500
ROWS = 100
_MEDIAN_OF = 4001


def line_points(steps: NDArray[Any], heights: NDArray[np.float64], points: int = LINE_POINTS) -> NDArray[np.intp]:
    """Choose the indices of at most ``points`` values that keep a line's shape, extremes included.

    Values that are not finite are never chosen; ``heights`` are as drawn, so logarithms for a log axis.
    Source: Van Der Donckt et al., MinMaxLTTB, IEEE VIS 2023.
    """
    plain = np.flatnonzero(np.isfinite(heights))
    if len(plain) <= points:
        return plain
    x = np.ascontiguousarray(steps[plain], dtype=np.int64)
    y = np.ascontiguousarray(heights[plain], dtype=np.float64)
    chosen = np.asarray(_DOWNSAMPLER().downsample(x, y, n_out=points), dtype=np.intp)
    extremes = np.array([y.argmin(), y.argmax()], dtype=np.intp)
    return plain[np.union1d(chosen, extremes)]


def spread(count: int, most: int) -> NDArray[np.intp]:
    """Choose at most ``most`` of ``count`` places, evenly, the first and the last among them.

    >>> spread(10, 4).tolist(), spread(3, 5).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round()).astype(np.intp)


def compact(values: NDArray[np.float64]) -> NDArray[Any]:
    """Return values in half the bytes where a picture cannot show the difference: 24 bits of each remain.

    >>> compact(np.array([0.1, np.nan])).dtype, compact(np.array([1e-60])).dtype, compact(np.array([2.0**30])).dtype
    (dtype('float32'), dtype('float64'), dtype('float32'))
    """
    sizes = np.abs(values[np.isfinite(values) & (values != 0)])
    fits = not len(sizes) or (sizes.min() > 1e-37 and sizes.max() < 1e38)
    return values.astype(np.float32) if fits else values


def broken(chosen: NDArray[np.intp], codes: NDArray[np.int8]) -> NDArray[np.intp]:
    """Return the places in ``chosen`` after which a line must break, for a marked value lies in between.

    Values that were not recorded do not break a line.

    >>> broken(np.array([0, 2, 3]), np.array([0, 1, 0, 0], dtype=np.int8)).tolist()
    [0]
    """
    marked = np.cumsum(codes > PLAIN)
    return np.asarray(np.flatnonzero(np.diff(marked[chosen])), dtype=np.intp)


def lonely(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which values of a broken line have no neighbour, so that a line alone would not show them.

    >>> lonely(np.array([1.0, np.nan, 2.0, 3.0])).tolist()
    [True, False, False, False]
    """
    missing = np.concatenate([[True], np.isnan(values), [True]])
    return np.asarray(~missing[1:-1] & missing[:-2] & missing[2:], dtype=np.bool_)


def point_style(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return mode and marker sizes of a line whose lonely values are shown as points."""
    alone = lonely(values)
    if not alone.any():
        return {"mode": "lines"}
    return {"mode": "lines+markers", "marker_size": np.where(alone, 6, 0)}


def column_of(steps: int, columns: int = COLUMNS) -> NDArray[np.intp]:
    """Return the column of each recorded step when at most ``columns`` are drawn, as even as can be.

    >>> column_of(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    wanted = min(steps, columns)
    return np.asarray(np.arange(steps) * wanted // max(steps, 1), dtype=np.intp)


def bin_columns(
    heights: NDArray[np.float64], codes: NDArray[np.int8], columns: int = COLUMNS
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.intp]]:
    """Merge neighbouring steps so that at most ``columns`` remain, keeping what stands out.

    Of the steps in a column the height farthest from the layer's median is kept, and the gravest mark
    (not a number before infinite, negative, zero); a column without any recorded value stays absent.

    Args:
        heights: Values as drawn (logarithms for a log colour), shape (layers, steps).
        codes: Codes of the marks, same shape.
        columns: Greatest number of columns.

    Returns:
        Heights (float32, NaN where marked or absent), codes, and the first step index of each column.
    """
    steps = heights.shape[1]
    if steps == 0:
        return heights.astype(np.float32), codes, np.zeros(0, dtype=np.intp)
    starts = np.unique(column_of(steps, columns), return_index=True)[1]
    plain = np.where(codes == PLAIN, heights, np.nan)
    grave = np.maximum.reduceat(codes, starts, axis=1)
    kept = _farthest(plain, starts)
    kept[grave > PLAIN] = np.nan
    return kept.astype(np.float32), grave, starts


def bin_rows(
    heights: NDArray[np.float32], codes: NDArray[np.int8], rows: int = ROWS
) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.intp]]:
    """Merge neighbouring layers so that at most ``rows`` remain, keeping what stands out.

    Of the layers in a row the height farthest from its own layer's median is kept, and the gravest mark.

    Args:
        heights: Shape (layers, columns), NaN where marked or absent.
        codes: Codes of the marks, same shape.
        rows: Greatest number of rows.

    Returns:
        Heights, codes, and the first layer's index of each row.
    """
    layers, columns = heights.shape
    starts = np.unique(column_of(layers, rows), return_index=True)[1]
    if len(starts) == layers or not columns:
        return heights[starts], codes[starts], starts
    away = np.abs(heights - _median(heights))
    away[np.isnan(away)] = -1.0
    kept = np.empty((len(starts), columns), np.float32)
    for row, (first, end) in enumerate(zip(starts, np.append(starts[1:], layers), strict=True)):
        farthest = away[first:end].argmax(axis=0)
        kept[row] = heights[first + farthest, np.arange(columns)]
    grave = np.maximum.reduceat(codes, starts, axis=0)
    kept[grave > PLAIN] = np.nan
    return kept, grave, starts


def _median(plain: NDArray[Any]) -> NDArray[Any]:
    """Return the median of each row, 0 for one of NaN alone; that of many columns, by a sample of them."""
    some = plain[:, :: max(1, plain.shape[1] // _MEDIAN_OF) | 1]
    empty = np.isnan(some).all(axis=1, keepdims=True)
    return np.asarray(np.nanmedian(np.where(empty, 0.0, some), axis=1, keepdims=True))


def _farthest(plain: NDArray[np.float64], starts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return per row and column the value farthest from the row's median; NaN where all are NaN."""
    middle = _median(plain)
    least = np.fmin.reduceat(plain, starts, axis=1)
    greatest = np.fmax.reduceat(plain, starts, axis=1)
    return np.where(np.abs(least - middle) > np.abs(greatest - middle), least, greatest)
