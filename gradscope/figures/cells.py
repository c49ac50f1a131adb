"""A metric over layers and steps as figures draw it, made once for all that draw it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from gradscope.figures import marks as mk
from gradscope.figures.values import metric_of, names_by_depth
from gradscope.figures.window import Range, seen

if TYPE_CHECKING:
    from gradscope.runs import Run
    from gradscope.runs.columns import Column

_MADE: WeakKeyDictionary[Column, Cells] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Cells:
    """A metric over layers and steps.

    Attributes:
        steps: Recorded steps, ascending, shape (steps,).
        depths: Depth of every layer call of the run, ascending, recorded or not, shape (layers,).
        names: Name of the layer call at each depth.
        values: Values as recorded, shape (layers, steps); NaN also where nothing was recorded.
        heights: Values as an axis measures them, log10 on a log axis, NaN where it has no place for them; same
            shape.
        codes: Codes of their marks, -1 where nothing was recorded; same shape.
        log: Whether the heights are logarithms.
        first: Place of the first step among all recorded ones.
    """

    steps: NDArray[np.int64]
    depths: NDArray[np.int64]
    names: list[str]
    values: NDArray[np.float64]
    heights: NDArray[np.float64]
    codes: NDArray[np.int8]
    log: bool
    first: int = 0

    @cached_property
    def recorded(self) -> NDArray[np.bool_]:
        """Whether a layer has any value, shape (layers,)."""
        return np.asarray((self.codes != mk.ABSENT).any(axis=1))

    def between(self, steps: Range | None = None, depths: Range | None = None) -> Cells:
        """Return the part that is seen, with a neighbour at every side; nothing is copied."""
        across, up = seen(self.steps, steps), seen(self.depths, depths)
        if (across.stop - across.start, up.stop - up.start) == self.codes.shape:
            return self
        return replace(
            self,
            steps=self.steps[across],
            depths=self.depths[up],
            names=self.names[up],
            values=self.values[up, across],
            heights=self.heights[up, across],
            codes=self.codes[up, across],
            first=self.first + across.start,
        )


def cells(run: Run, metric: str) -> Cells:
    """Return a metric of a run over layers and steps; UnknownNameError names the choices."""
    log = metric_of(run, metric).scale == "log"
    column = run.column(metric)
    made = _MADE.get(column)
    if made is None:
        made = _MADE[column] = _make(column, names_by_depth(run), log)
    return made


def _make(column: Column, names: dict[int, str], log: bool) -> Cells:
    # A metric that some layers lack (saturation has no sense after a plain sum) leaves their rows empty.
    depths = np.union1d(column.depths(), np.array(sorted(names), dtype=np.int64)).astype(np.int64)
    values, present = column.grid(depths)
    codes = mk.classify(values, log, present)
    plain = codes == mk.PLAIN
    heights = np.full(values.shape, np.nan)
    if log:
        np.log10(values, out=heights, where=plain)
    else:
        np.copyto(heights, values, where=plain)
    listed = [names.get(int(depth), "?") for depth in depths]
    return Cells(column.steps, depths, listed, values, heights, codes, log)
