"""The rows of ``shards/`` as views want them: pooled over the ranks, beside what ``layers/`` holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gradscope.runs.columns import Column
from gradscope.runs.ranks import RankLayers
from gradscope.runs.shards import POOLED, needed, pool
from gradscope.runs.tables import TableReader


class ShardRows:
    """Completes the metrics of a run by those of its sharded parameters, where it has any."""

    def __init__(self, reader: TableReader, ranks: RankLayers) -> None:
        self._reader = reader
        self._ranks = ranks
        self.renew()

    def renew(self) -> None:
        """Forget what was pooled, for there are new rows or layers."""
        self._pooled: dict[str, tuple[Any, ...]] = {}

    def pools(self, metric: str) -> bool:
        """Tell whether a metric has values of shards."""
        return metric in POOLED and len(self._reader.columns(["rank"])["rank"]) > 0

    def complete(self, column: Column) -> Column:
        """Return a metric with the values of sharded layers, pooled over all ranks, among those of other layers."""
        if not self.pools(column.metric):
            return column
        pooled = self._pool(column.metric)
        step = np.concatenate([column.step, pooled[0]])
        depth = np.concatenate([column.depth, pooled[1]])
        value = np.concatenate([column.value, pooled[2]])
        order = np.lexsort((depth, step))
        return Column(column.metric, step[order], depth[order], value[order])

    def nonfinite(self) -> pd.DataFrame:
        """Count NaN and infinity in the rows that have any: step, rank, id, count."""
        if not len(self._reader.columns(["rank"])["rank"]):
            return pd.DataFrame({"step": [], "rank": [], "id": [], "count": []}, dtype=np.int64)
        table = {name: np.asarray(one) for name, one in self._reader.columns(["step", "rank", "id"]).items()}
        values = self._reader.columns(list(POOLED))
        # Absent values become 0 first: only then is every NaN one that was recorded.
        bad = sum(~np.isfinite(np.asarray(one.fill_null(0.0))) for one in values.values())
        frame = pd.DataFrame({**table, "count": bad})
        return frame[frame["count"] > 0].reset_index(drop=True)

    def _pool(self, metric: str) -> tuple[Any, ...]:
        if metric not in self._pooled:
            table = self._reader.columns(needed(metric))
            depths = {
                rank: {one.id: one.depth for one in self._ranks.of(rank).values()}
                for rank in np.unique(np.asarray(table["rank"])).tolist()
            }
            self._pooled[metric] = pool(metric, table, depths)
        return self._pooled[metric]
