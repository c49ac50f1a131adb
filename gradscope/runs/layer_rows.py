"""The rows of ``layers/`` as views want them: a metric whole, or at one step alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.runs.columns import Column, Keys, column, keys
from gradscope.runs.given import whole
from gradscope.runs.ranks import RankLayers
from gradscope.runs.spans import Span
from gradscope.runs.tables import TableReader

KEYS = ("step", "rank", "id")
REMEMBERED = 2**29
"""Bytes of sorted values that are kept at hand between refreshes."""


class LayerRows:
    """Reads metrics, whole ones into memory and remembered, single steps from their row groups alone."""

    def __init__(self, reader: TableReader, ranks: RankLayers) -> None:
        self._reader = reader
        self._ranks = ranks
        self.renew()

    def renew(self) -> None:
        """Forget what was sorted, for there are new rows or layers."""
        self._keys: dict[int, Keys] = {}
        self._columns: dict[tuple[str, int], Column] = {}

    def steps(self, rank: int) -> NDArray[np.int64]:
        """Return the steps with any row of a rank, ascending."""
        table = self._reader.columns(["step", "rank"])
        return np.unique(np.asarray(table["step"])[np.asarray(table["rank"]) == rank])

    def skipped(self, rank: int) -> NDArray[np.int64]:
        """Return the steps that the optimizer did not take, ascending; reads only where there are any."""
        names = ["step", "rank", "skipped"]
        table = self._reader.window(names, lambda span: span.skipped and span.ranks[0] <= rank <= span.ranks[1])
        chosen = (np.asarray(table["rank"]) == rank) & np.asarray(table["skipped"])
        return np.unique(np.asarray(table["step"])[chosen])

    def whole(self, metric: str, rank: int) -> Column:
        """Return all values of a metric."""
        if (metric, rank) not in self._columns:
            table = self._reader.columns([*KEYS, metric])
            if rank not in self._keys or self._keys[rank].count != len(table["step"]):
                # Parts that were merged while they were read bring what has been written meanwhile.
                self._keys[rank] = keys(table, self._ranks.of(rank), rank)
            self._remember(column(metric, table[metric], self._keys[rank]), rank)
        return self._columns[metric, rank]

    def at(self, metrics: Sequence[str], step: int | None, rank: int) -> dict[str, Column]:
        """Return the values of metrics at one step; None is the first at which the first of them has any.

        Raises:
            InvalidTypeError: The step is no whole number.
            InvalidValueError: The first of the metrics has no value at the step; the message names its neighbours.
        """
        at = self._first(metrics[0], rank) if step is None else whole("step", step)
        if at is None:
            raise InvalidValueError(f"no value of {metrics[0]!r} has been recorded")
        found = self._of_step(metrics, at, rank)
        if not len(found[metrics[0]].step):
            self.whole(metrics[0], rank).profile(at)  # it knows the neighbours
        return found

    def _of_step(self, metrics: Sequence[str], step: int, rank: int) -> dict[str, Column]:
        known = {name: self._columns[name, rank] for name in metrics if (name, rank) in self._columns}
        missing = [name for name in metrics if name not in known]
        read = self._between(missing, step, step, rank) if missing else {}
        return {name: (known | read)[name].between(step, step) for name in metrics}

    def _between(self, metrics: Sequence[str], first: int, last: int, rank: int) -> dict[str, Column]:
        table = self._reader.window([*KEYS, *metrics], lambda span: span.holds(first, last, rank))
        sorted_keys = keys(table, self._ranks.of(rank), rank)
        return {name: column(name, table[name], sorted_keys).between(first, last) for name in metrics}

    def _first(self, metric: str, rank: int) -> int | None:
        if (metric, rank) in self._columns:
            steps = self._columns[metric, rank].step
            return int(steps[0]) if len(steps) else None
        found: list[int] = []
        for span in sorted(self._reader.spans(), key=_start):
            if found and span.steps[0] >= min(found):
                break
            if metric not in span.empty and span.holds(*span.steps, rank):
                found += self._between([metric], *span.steps, rank)[metric].step[:1].tolist()
        return min(found, default=None)

    def _remember(self, one: Column, rank: int) -> None:
        self._columns[one.metric, rank] = one
        held = list(self._columns)
        for name in held[:-1]:
            if sum(kept.nbytes for kept in self._columns.values()) <= REMEMBERED:
                return
            del self._columns[name]


def _start(span: Span) -> int:
    return span.steps[0]
