"""The rows of ``shards/`` as views want them: pooled over the ranks, beside what ``layers/`` holds."""

from __future__ import annotations

from collections.abc import Iterable
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

    def nonfinite(self, metrics: Iterable[str]) -> pd.DataFrame:
        """Count pooled values that are NaN or infinite: step, depth, count."""
        pooled = [self._pool(metric) for metric in metrics if self.pools(metric)]
        bad = [pd.DataFrame({"step": step, "depth": depth})[~np.isfinite(value)] for step, depth, value in pooled]
        counts: pd.DataFrame = pd.concat([pd.DataFrame({"step": [], "depth": []}), *bad]).value_counts().reset_index()
        return counts

    def _pool(self, metric: str) -> tuple[Any, ...]:
        if metric not in self._pooled:
            table = self._reader.columns(needed(metric))
            depths = {
                rank: {one.id: one.depth for one in self._ranks.of(rank).values()}
                for rank in np.unique(np.asarray(table["rank"])).tolist()
            }
            self._pooled[metric] = pool(metric, table, depths)
        return self._pooled[metric]
