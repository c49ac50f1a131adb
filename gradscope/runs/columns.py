"""One metric of one rank as flat arrays, and the shapes that views give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.runs.given import whole
from gradscope.spec import LayerSpec


@dataclass(frozen=True)
class Column:
    """The recorded values of a metric by step, then depth: absent ones left out, NaN and infinity kept."""

    metric: str
    step: NDArray[np.int64]
    depth: NDArray[np.int32]
    value: NDArray[np.float64]

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps with any value, ascending."""
        return np.unique(self.step)

    def rows(self, layers: Mapping[int, LayerSpec]) -> pd.DataFrame:
        """Return the tidy view: step, depth, layer, metric, value. `layers` is keyed by depth."""
        names = sorted({one.layer for one in layers.values()})
        codes = np.full(max(layers, default=0) + 1, -1, np.int32)
        for depth, layer in layers.items():
            codes[depth] = names.index(layer.layer)
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

    def frame(self) -> pd.DataFrame:
        """Return one row per step and one column per depth; NaN where absent."""
        steps, row = np.unique(self.step, return_inverse=True)
        depths, place = np.unique(self.depth, return_inverse=True)
        grid = np.full((len(steps), len(depths)), np.nan)
        grid[row, place] = self.value
        return pd.DataFrame(
            grid, index=pd.Index(steps, name="step"), columns=pd.Index(depths.astype(np.int64), name="depth")
        )

    def profile(self, step: int | None) -> pd.Series[float]:
        """Return the values of one step over depth (None: the first); see `Run.profile`."""
        wanted = None if step is None else whole("step", step)
        if not len(self.step):
            raise InvalidValueError(f"no value of {self.metric!r} has been recorded")
        if wanted is None:
            wanted = int(self.step[0])
        first, last = np.searchsorted(self.step, [wanted, wanted + 1])
        if first == last:
            raise InvalidValueError(_unrecorded(self, wanted, int(first)))
        index = pd.Index(self.depth[first:last].astype(np.int64), name="depth")
        return pd.Series(self.value[first:last].copy(), index=index, name=self.metric)


def column(metric: str, table: Mapping[str, pa.ChunkedArray], layers: Mapping[int, LayerSpec], rank: int) -> Column:
    """Build a Column from the Arrow columns step, rank, id and the metric; `layers` is keyed by id.

    Rows of an id that the description does not hold yet are left out.
    """
    value = table[metric]
    keep = np.asarray(value.is_valid()) & (np.asarray(table["rank"]) == rank)
    depths = np.zeros(max(layers, default=-1) + 2, np.int32)
    for one in layers.values():
        depths[one.id] = one.depth
    ids = np.minimum(np.asarray(table["id"]), len(depths) - 1)
    depth = depths[ids]
    keep &= depth > 0
    step = np.asarray(table["step"])[keep]
    depth = depth[keep]
    values = np.asarray(value.cast(pa.float64()).fill_null(0.0))[keep]
    order = _order(step, depth)
    return Column(metric, step[order], depth[order], values[order])


def _order(step: NDArray[np.int64], depth: NDArray[np.int32]) -> Any:
    """Return what sorts rows by step and then depth: mostly they are sorted as they come."""
    ascending = (step[1:] > step[:-1]) | ((step[1:] == step[:-1]) & (depth[1:] >= depth[:-1]))
    return slice(None) if bool(ascending.all()) else np.lexsort((depth, step))


def _unrecorded(column: Column, step: int, place: int) -> str:
    below = [int(column.step[place - 1])] if place else []
    above = [int(column.step[place])] if place < len(column.step) else []
    near = " and ".join(str(one) for one in below + above)
    return f"step {step} of {column.metric!r} is not recorded; the nearest recorded: {near}"
