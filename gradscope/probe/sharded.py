"""Set the parameter metrics of sharded layers apart: they are of this rank's shard, not of the layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gradscope.metrics import Metric
from gradscope.probe.coverage import Coverage
from gradscope.probe.distributed import copies, is_sharded, may_be_sharded, share
from gradscope.probe.layers import Layer
from gradscope.probe.records import Key
from gradscope.probe.tiers import PART, YES
from gradscope.runs.shards import POOLED
from gradscope.signals import SIGNALS

PARAMETERS = ("weight", "bias")


class ShardedLayers:
    """Rows of ``shards/`` of one probe: see ``gradscope.runs.shards`` for what becomes of them."""

    def __init__(self, layers: Iterable[Layer], metrics: Sequence[Metric]) -> None:
        self._layers = {layer.name: layer for layer in layers}
        self._columns = {
            name: [place for place, metric in enumerate(metrics) if name in _parameters_of(metric)]
            for name in PARAMETERS
        }
        self._names = [metric.name for metric in metrics]
        self._looked_at: list[int] = []
        self._found = False

    @property
    def exist(self) -> bool:
        """Whether a parameter of a layer is sharded now; looked for again when a parameter is another one."""
        if not may_be_sharded():
            return False
        parameters = [one for layer in self._layers.values() for one in layer.module._parameters.values()]
        ids = [id(one) for one in parameters]
        if ids != self._looked_at:
            self._looked_at = ids
            self._found = any(is_sharded(one) for one in parameters)
        return self._found

    def take(
        self,
        step: int,
        keys: Sequence[Key],
        ids: NDArray[np.int32],
        values: NDArray[np.float64],
        present: NDArray[np.bool_],
    ) -> list[dict[str, Any]]:
        """Take the metrics of sharded parameters out of the rows of a step.

        Args:
            step: The step.
            keys: The calls, one a row.
            ids: Their ids.
            values: Shape (calls, metrics).
            present: Same shape; cleared where a value is of a shard.

        Returns:
            Rows of ``shards/``, one for each sharded layer.
        """
        found: list[dict[str, Any]] = []
        if not may_be_sharded():
            return found
        for row, (name, call) in enumerate(keys):
            sharded = self._sharded(name) if call == 1 else {}
            if not sharded:
                continue
            shard: dict[str, Any] = {"step": step, "id": int(ids[row])}
            for parameter in PARAMETERS:
                if parameter in sharded:
                    shard[f"{parameter}_share"] = share(sharded[parameter])
                    shard[f"{parameter}_copies"] = copies(sharded[parameter])
            for place in {place for parameter in sharded for place in self._columns[parameter]}:
                if present[row, place] and self._names[place] in POOLED:
                    shard[self._names[place]] = float(values[row, place])
                present[row, place] = False
            found.append(shard)
        return found

    def without_histograms(self, rows: list[dict[str, Any]], ids: Mapping[Key, int]) -> list[dict[str, Any]]:
        """Leave out the histograms of sharded weights: those of a shard would pass for those of the weight.

        Args:
            rows: Rows of ``histograms/``.
            ids: Ids of the calls.
        """
        hidden = {one for (name, _), one in ids.items() if "weight" in self._sharded(name)}
        return [row for row in rows if row["id"] not in hidden or not row["quantity"].startswith("weight")]

    def noted(self, coverage: Coverage) -> Coverage:
        """Add what is to be known of a sharded layer; any other is returned as it is."""
        sharded = self._sharded(coverage.layer)
        if not sharded:
            return coverage
        held = share(next(iter(sharded.values())))
        verb = "are" if len(sharded) > 1 else "is"
        text = (
            f"{coverage.text}; its {' and '.join(sharded)} {verb} sharded and this rank holds {held:.0%}: metrics of "
            "parameters are pooled from the ranks that watch, and absent unless all do"
        )
        return replace(coverage, text=text, parameters=PART if coverage.parameters == YES else coverage.parameters)

    def _sharded(self, name: str) -> dict[str, nn.Parameter]:
        if not may_be_sharded() or name not in self._layers:
            return {}
        layer = self._layers[name]
        found = {"weight": layer.weight, "bias": layer.bias}
        return {parameter: one for parameter, one in found.items() if one is not None and is_sharded(one)}


def _parameters_of(metric: Metric) -> set[str]:
    """Which parameters a metric is measured on at the step boundary; none where it only mixes them in."""
    signals = [request.signal for request in metric.requests if SIGNALS[request.signal].phase == "step"]
    if metric.phase not in (None, "step"):
        return set()
    return {_parameter(signal) for signal in signals}


def _parameter(signal: str) -> str:
    return "bias" if signal.startswith("bias") else "weight"
