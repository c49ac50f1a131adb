"""Rows of ``layers/`` gathered in memory between two flushes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.runs.format import layer_schema
from gradscope.runs.given import flags_of, steps_of
from gradscope.spec import MetricSpec


class LayerBuffer:
    """Columns that grow by doubling and are reused after every flush, so memory stays flat."""

    def __init__(self, metrics: Sequence[MetricSpec], rank: int) -> None:
        self._schema = layer_schema(metrics)
        self._metrics = tuple(metrics)
        self._rank = rank
        self._size = 0
        self._reserve(256)

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> int:
        """Number of values held."""
        return self._size * len(self._metrics)

    def add(
        self,
        step: int | NDArray[np.int64],
        ids: NDArray[np.int32],
        values: NDArray[np.float64],
        present: NDArray[np.bool_],
        skipped: bool | NDArray[np.bool_],
    ) -> None:
        """Append rows of one step, or of several; see `Writer.rows`."""
        expected = (len(ids), len(self._metrics))
        if values.shape != expected or present.shape != expected:
            raise InvalidValueError(
                f"values and present must have the shape (rows, metrics) = {expected}, "
                f"not {values.shape} and {present.shape}"
            )
        step, skipped = steps_of(step, len(ids)), flags_of("skipped", skipped, len(ids))
        end = self._size + len(ids)
        if end > len(self._step):
            self._grow(end)
        rows = slice(self._size, end)
        self._step[rows] = step
        self._id[rows] = ids
        self._skipped[rows] = skipped
        self._values[:, rows] = values.T
        self._present[:, rows] = present.T
        self._size = end

    def table(self) -> pa.Table:
        """Return the rows as an Arrow table: absent values null, NaN and infinity as such."""
        size = self._size
        columns = [self._column(index) for index in range(len(self._metrics))]
        nonfinite = (~np.isfinite(self._values[:, :size]) & self._present[:, :size]).sum(axis=0, dtype=np.int32)
        key = [self._step[:size], np.full(size, self._rank, np.int32), self._id[:size], self._skipped[:size]]
        return pa.table([*(pa.array(one) for one in [*key, nonfinite]), *columns], schema=self._schema)

    def clear(self) -> None:
        """Forget the rows."""
        self._size = 0

    def _column(self, index: int) -> pa.Array:
        values = self._values[index, : self._size]
        with np.errstate(over="ignore"):  # beyond float32 a float32 column holds infinity
            typed = values.astype(self._metrics[index].dtype)
        return pa.array(typed, mask=~self._present[index, : self._size])

    def _reserve(self, rows: int) -> None:
        shape = (len(self._metrics), rows)
        self._step = np.zeros(rows, np.int64)
        self._id = np.zeros(rows, np.int32)
        self._skipped = np.zeros(rows, np.bool_)
        self._values = np.zeros(shape, np.float64)
        self._present = np.zeros(shape, np.bool_)

    def _grow(self, rows: int) -> None:
        size = self._size
        step, id_, skipped = self._step, self._id, self._skipped
        values, present = self._values, self._present
        self._reserve(max(rows, 2 * len(step)))
        self._step[:size], self._id[:size], self._skipped[:size] = step[:size], id_[:size], skipped[:size]
        self._values[:, :size], self._present[:, :size] = values[:, :size], present[:, :size]
