"""One metric of one rank as flat arrays, and the shapes that views give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.runs.given import whole
from gradscope.spec import LayerSpec


@dataclass(frozen=True)
class Keys:
    """Which rows of a table belong to a rank, by step and then depth, and what they belong to.

    Attributes:
        rows: Places of the rows in the table, or all of them as a slice.
        step: Their steps.
        depth: Their depths.
        count: Number of rows of the whole table.
    """

    rows: Any
    step: NDArray[np.int64]
    depth: NDArray[np.int32]
    count: int


@dataclass(frozen=True, eq=False)
class Column:
    """The recorded values of a metric by step, then depth: absent ones left out, NaN and infinity kept."""

    metric: str
    step: NDArray[np.int64]
    depth: NDArray[np.int32]
    value: NDArray[np.float64]

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Steps with any value, ascending."""
        return self.step[self._starts]

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        """Place of the first value of each step."""
        new = np.ones(len(self.step), np.bool_)
        np.not_equal(self.step[1:], self.step[:-1], out=new[1:])
        return np.flatnonzero(new)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.step.nbytes + self.depth.nbytes + self.value.nbytes

    def rows(self, layers: Mapping[int, LayerSpec]) -> pd.DataFrame:
        """Return the tidy view: step, depth, layer, metric, value. `layers` is keyed by depth."""
        names = sorted({one.layer for one in layers.values()})
        places = {name: place for place, name in enumerate(names)}
        codes = np.full(max(layers, default=0) + 1, -1, np.int32)
        for depth, layer in layers.items():
            codes[depth] = places[layer.layer]
        of_metric = np.zeros(len(self.step), np.int8)
        return pd.DataFrame(
            {
                "step": self.step,
                "depth": self.depth.astype(np.int64),
                "layer": pd.Categorical.from_codes(codes[self.depth], categories=pd.Index(names)),
                "metric": pd.Categorical.from_codes(of_metric, categories=pd.Index([self.metric])),
                "value": self.value,
            }
        )

    def depths(self) -> NDArray[np.int64]:
        """Return the depths with any value, ascending."""
        found = np.zeros(int(self.depth.max(initial=0)) + 1, np.bool_)
        found[self.depth] = True
        return np.flatnonzero(found).astype(np.int64)

    def grid(self, depths: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return values and whether they are present, shape (depths, steps); absent ones are NaN.

        The values may be a view of `value`.

        Args:
            depths: Those of the rows, ascending; all with any value are among them.
        """
        shape = (len(depths), len(self.steps))
        if self._full(depths):
            return self.value.reshape(shape[::-1]).T, np.ones(shape, np.bool_)
        row = np.zeros(int(depths.max(initial=0)) + 1, np.intp)
        row[depths] = np.arange(len(depths))
        place = row[self.depth] * shape[1] + np.repeat(
            np.arange(shape[1]), np.diff(self._starts, append=len(self.step))
        )
        values, present = np.full(shape, np.nan), np.zeros(shape, np.bool_)
        values.reshape(-1)[place] = self.value
        present.reshape(-1)[place] = True
        return values, present

    def frame(self) -> pd.DataFrame:
        """Return one row per step and one column per depth; NaN where absent."""
        depths = self.depths()
        index, columns = pd.Index(self.steps, name="step"), pd.Index(depths, name="depth")
        return pd.DataFrame(self.grid(depths)[0].T, index=index, columns=columns, copy=True)

    def _full(self, depths: NDArray[np.int64]) -> bool:
        """Tell whether every depth has a value at every step."""
        size = len(depths) * len(self.steps)
        return size == len(self.depth) and bool((self.depth.reshape(-1, max(1, len(depths))) == depths).all())

    def between(self, first: int, last: int) -> Column:
        """Return the values of the steps from `first` to `last`, without copying them."""
        low, high = np.searchsorted(self.step, first, "left"), np.searchsorted(self.step, last, "right")
        return Column(self.metric, self.step[low:high], self.depth[low:high], self.value[low:high])

    def profile(self, step: int | None) -> pd.Series[float]:
        """Return the values of one step over depth (None: the first); see `Run.profile`."""
        wanted = None if step is None else whole("step", step)
        if not len(self.step):
            raise InvalidValueError(f"no value of {self.metric!r} has been recorded")
        if wanted is None:
            wanted = int(self.step[0])
        found = self.between(wanted, wanted)
        if not len(found.step):
            raise InvalidValueError(self._unrecorded(wanted))
        index = pd.Index(found.depth.astype(np.int64), name="depth")
        return pd.Series(found.value.copy(), index=index, name=self.metric)

    def _unrecorded(self, step: int) -> str:
        after = int(np.searchsorted(self.step, step))
        near = [str(int(self.step[place])) for place in (after - 1, after) if 0 <= place < len(self.step)]
        return f"step {step} of {self.metric!r} is not recorded; the nearest recorded: {' and '.join(near)}"


def keys(table: Mapping[str, pa.ChunkedArray], layers: Mapping[int, LayerSpec], rank: int) -> Keys:
    """Read the Arrow columns step, rank and id; `layers` is keyed by id.

    Rows of an id that the description does not hold yet are left out.
    """
    depths = np.zeros(max(layers, default=-1) + 2, np.int32)
    for one in layers.values():
        depths[one.id] = one.depth
    depth = depths[np.minimum(np.asarray(table["id"]), len(depths) - 1)]
    step = np.asarray(table["step"])
    keep = (np.asarray(table["rank"]) == rank) & (depth > 0)
    rows: Any = slice(None)
    if not keep.all():
        rows = np.flatnonzero(keep)
        step, depth = step[rows], depth[rows]
    order = _order(step, depth)
    if not isinstance(order, slice):
        rows = order if isinstance(rows, slice) else rows[order]
    return Keys(rows, step[order], depth[order], len(keep))


def column(metric: str, value: pa.ChunkedArray, keys: Keys) -> Column:
    """Build a Column from the Arrow column of a metric, for the rows of a rank."""
    present = np.ones(len(value), np.bool_) if not value.null_count else np.asarray(value.is_valid())
    floats = np.asarray(value.cast(pa.float64()).fill_null(0.0) if value.null_count else value, np.float64)[keys.rows]
    kept = present[keys.rows]
    if kept.all():
        return Column(metric, keys.step, keys.depth, floats)
    return Column(metric, keys.step[kept], keys.depth[kept], floats[kept])


def _order(step: NDArray[np.int64], depth: NDArray[np.int32]) -> Any:
    """Return what sorts rows by step and then depth: mostly they are sorted as they come."""
    ascending = (step[1:] > step[:-1]) | ((step[1:] == step[:-1]) & (depth[1:] >= depth[:-1]))
    return slice(None) if bool(ascending.all()) else np.lexsort((depth, step))
