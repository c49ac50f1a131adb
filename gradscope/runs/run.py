"""A recorded run, as its readers see it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from gradscope.errors import InvalidValueError, unknown_name
from gradscope.runs import decay, html, ledger, paths
from gradscope.runs.columns import Column
from gradscope.runs.coverage import CoverageTable
from gradscope.runs.description import Description, parse_description, read_bytes, read_raw
from gradscope.runs.format import DESCRIPTION, TABLES, schema_of
from gradscope.runs.given import warn_always
from gradscope.runs.graph import trunk
from gradscope.runs.layer_rows import LayerRows
from gradscope.runs.ranks import RankLayers
from gradscope.runs.shard_rows import ShardRows
from gradscope.runs.store import Store
from gradscope.runs.tables import TableReader
from gradscope.spec import LayerSpec, MetricSpec


class Run:
    """A run on disk: what it was, and its rows as tables.

    Columns are read when asked for, only those asked for, and once; of a single step, only the row groups it lies in.
    What a live run has gained since shows after `refresh`. Where several ranks recorded, rank 0 is shown unless
    `rank=` says otherwise. Metrics of parameters that are sharded are pooled over the ranks, and the same for each.

    Attributes:
        path: Folder of the run, as given.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._store = Store(path)
        self.path = self._store.path
        self._raw, self._description = read_raw(self._store)
        self._tables = {
            name: TableReader(self._store, name, schema_of(name, self._description.metrics)) for name in TABLES
        }
        self._ranks = RankLayers(self._store, self._description.layers)
        self._rows = LayerRows(self._tables["layers"], self._ranks)
        self._sharded = ShardRows(self._tables["shards"], self._ranks)
        self._seen = _gist(self._description)
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"<Run {self.name!r}: {self.status}, {len(self.specs)} layers, {len(self.metrics)} metrics>"

    def _repr_html_(self) -> str:
        return html.of_run(self)

    @property
    def name(self) -> str:
        """What tables and figures call the run."""
        return self._description.name

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed`, or `interrupted`: its writer died without closing it."""
        return self._description.judged()

    @property
    def error(self) -> str | None:
        """What ended a failed run."""
        return self._description.error

    @property
    def config(self) -> dict[str, Any]:
        """What tells this run from others, as recorded."""
        return dict(self._description.config)

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, device and the like, as recorded."""
        return dict(self._description.environment)

    @property
    def every(self) -> int:
        """A step was recorded if it is a multiple of this."""
        return self._description.every

    @property
    def metrics(self) -> dict[str, MetricSpec]:
        """The recorded metrics by name."""
        return {one.name: one for one in self._description.metrics}

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """The layer calls in depth order."""
        return tuple(sorted(self._description.layers, key=lambda one: one.depth))

    @property
    def layers(self) -> pd.DataFrame:
        """The layer calls in depth order: depth, layer, call, parents (depths), kind, activation, ..., id."""
        depths = {one.id: one.depth for one in self.specs}
        names = ["depth", "layer", "call", "parents", "kind", "activation", "norm"]
        names += ["fan_in", "fan_out", "parameters", "id"]
        rows = [one.to_json() | {"parents": _parents(one, depths)} for one in self.specs]
        return pd.DataFrame(rows, columns=pd.Index(names))

    @property
    def trunk(self) -> tuple[int, ...]:
        """Depths of the longest path of layers, from first layer to head: the last one, which has no children."""
        depths = {one.id: one.depth for one in self.specs}
        return trunk({one.depth: _parents(one, depths) for one in self.specs})

    def steps(self, metric: str | None = None, *, rank: int = 0) -> list[int]:
        """Return the recorded steps, or those on which a metric has any value."""
        self._check_rank(rank)
        steps: list[int] = (self._rows.steps(rank) if metric is None else self.column(metric, rank=rank).steps).tolist()
        return steps

    def skipped(self, *, rank: int = 0) -> list[int]:
        """Return the recorded steps that the optimizer did not take, as a gradient scaler skips those that overflow."""
        self._check_rank(rank)
        steps: list[int] = self._rows.skipped(rank).tolist()
        return steps

    def column(self, metric: str, *, rank: int = 0) -> Column:
        """Return a metric as flat arrays `step`, `depth`, `value`, by step and then depth: what figures read.

        Absent values have no place; NaN and infinity were recorded as such. The arrays are shared: do not write to
        them.

        Raises:
            UnknownNameError: The run has no such metric.
        """
        self._check(metric, rank)
        return self._sharded.complete(self._rows.whole(metric, rank))

    def rows(self, metric: str, *, rank: int = 0) -> pd.DataFrame:
        """Return the tidy view of a metric: step, depth, layer, metric, value.

        Absent values have no row; NaN and infinity were recorded as such.

        Raises:
            UnknownNameError: The run has no such metric.
        """
        return self.column(metric, rank=rank).rows(self._ranks.by_depth())

    def frame(self, metric: str, *, rank: int = 0) -> pd.DataFrame:
        """Return a metric as a table: index `step`, a column per `depth` with any value, NaN where absent."""
        return self.column(metric, rank=rank).frame()

    def profile(self, metric: str, step: int | None = None, *, rank: int = 0) -> pd.Series[float]:
        """Return a metric over depth at one step; None is the first step at which it was recorded.

        Layers without a value at that step are left out; NaN and infinity were recorded as such.

        Raises:
            UnknownNameError: The run has no such metric.
            InvalidTypeError: The step is no whole number.
            InvalidValueError: The step is not recorded; the message names its neighbours.
        """
        self._check(metric, rank)
        if self._sharded.pools(metric):
            return self.column(metric, rank=rank).profile(step)
        return self._rows.at([metric], step, rank)[metric].profile(None)

    def ledger(self, step: int | None = None, *, rank: int = 0) -> pd.DataFrame:
        """Split the gradient's way from head to first layer into factors; see `gradscope.runs.ledger`.

        A factor is NaN where one of its two norms has no value at that step, as in a net of one layer.

        Args:
            step: None is the first step with an output gradient.
            rank: Process whose rows to use.

        Raises:
            UnknownNameError: The run did not record the metrics that the ledger is built from; they are named.
            InvalidValueError: The step has no output gradient; the message names its neighbours.
        """
        self._check_rank(rank)
        found = self._rows.at(ledger.needed(self.metrics), step, rank)
        profiles = {name: one.profile(None) for name, one in found.items() if len(one.step)}
        layers = {one.depth: one for one in self.specs} if {ledger.NORM, ledger.PHI} <= set(self.metrics) else None
        return ledger.ledger(self.trunk, profiles, layers)

    def paths(self, step: int | None = None, *, rank: int = 0) -> pd.DataFrame:
        """Return the shares of the gradient's paths wherever they meet, at one step; see `gradscope.runs.paths`.

        Args:
            step: None is the first step with a share.
            rank: Process whose rows to use.

        Raises:
            UnknownNameError: The run did not record ``input_share``.
            InvalidValueError: The step has no share; the message names its neighbours.
        """
        self._check(paths.SHARE, rank)
        found = self._rows.at(paths.needed(self.metrics), step, rank)
        return paths.paths(self.specs, {name: one.profile(None) for name, one in found.items() if len(one.step)})

    def decay(self, step: int | None = None, head: bool = False, *, rank: int = 0) -> decay.Decay:
        """Return the factor per layer of the gradient's norm at one step; see `gradscope.runs.decay`.

        Args:
            step: None is the first recorded step.
            head: Include the last layer of the trunk.
            rank: Process whose rows to use.

        Raises:
            UnknownNameError: The run did not record ``output_grad_norm``.
            InvalidValueError: The step is not recorded, or the run has no layers yet.
        """
        path = self.trunk
        if not path:
            raise InvalidValueError(f"run {self.name!r} has recorded no layers")
        profile = self.profile("output_grad_norm", step, rank=rank)
        return decay.decay(path if head else path[:-1], profile)

    @property
    def scalars(self) -> pd.DataFrame:
        """Scalars in step order: step, name, value."""
        frame = self._small("scalars")
        return frame[frame["rank"] == 0].drop(columns="rank").reset_index(drop=True)

    def final(self, scalar: str) -> float:
        """Return the last value of a scalar, such as the loss."""
        frame = self.scalars
        found = frame.loc[frame["name"] == scalar, "value"]
        if found.empty:
            raise unknown_name("scalar", scalar, frame["name"].unique())
        return float(found.iloc[-1])

    @property
    def events(self) -> pd.DataFrame:
        """Events of all ranks in step order: step, rank, time (seconds since 1970), kind, text."""
        return self._small("events")

    @property
    def coverage(self) -> CoverageTable:
        """What was recorded of every layer and what not, of all ranks, whenever it changed; print it to read it.

        A DataFrame: step, rank, layer, code, expected, fired, text, and the tiers `parameters` (weights, their
        gradients and updates), `boundaries` (activations and error signals) and `units` (of activation functions),
        each yes, no or part; null in runs of earlier versions. A file of it that cannot be read is left out, with a
        warning: no other view needs it.
        """
        columns, broken = self._tables["coverage"].readable(schema_of("coverage").names)
        for reason in broken:
            if reason not in self._told:
                self._told.add(reason)
                warn_always(f"{reason}; what it says of the layers is left out")
        return CoverageTable(_by_step(columns)).lacking(broken)

    @property
    def histograms(self) -> pd.DataFrame:
        """Histograms: step, rank, depth, layer, quantity, lowest, positive, negative, zeros, nonfinite, ...

        Entry k of `positive` counts the x with 2^(lowest+k) <= x < 2^(lowest+k+1), `negative` those of -x.
        There were `entries` values, and `sampled` of them were looked at.
        """
        return self._placed(self._small("histograms"))

    @property
    def units(self) -> pd.DataFrame:
        """Units of activation functions: step, rank, depth, layer, unit, samples, flat_fraction, dead."""
        return self._placed(self._small("units"))

    @property
    def ranks(self) -> list[int]:
        """The processes of a distributed training that have recorded, ascending; 0 alone elsewhere."""
        recorded = pc.unique(self._tables["layers"].columns(["rank"])["rank"]).to_pylist()
        return sorted({0, *self._ranks.described, *recorded})

    @property
    def shards(self) -> pd.DataFrame:
        """What each rank recorded of its shards: step, rank, depth, layer, weight_share, ..., one column a metric.

        The shares of all ranks sum to 1. `gradscope.runs.shards` says how the metrics are pooled; other views show
        them pooled.
        """
        return self._placed(self._small("shards"))

    @property
    def nonfinite(self) -> pd.DataFrame:
        """Rows of all ranks with NaN or infinity: step, rank, depth, layer, skipped, nonfinite (how many)."""
        names = ["step", "rank", "id", "skipped", "nonfinite"]
        table = pa.table(self._tables["layers"].columns(names))
        shards = self._sharded.nonfinite(self.metrics)
        if shards.empty:
            frame = self._placed(table.filter(pc.greater(table["nonfinite"], 0)).to_pandas())
        else:
            frame = self._placed(table.to_pandas()).merge(shards, "left", ["step", "depth"])
            frame["nonfinite"] += frame.pop("count").fillna(0).astype(np.int32)
            frame = frame[frame["nonfinite"] > 0]
        return frame.sort_values(["step", "rank", "depth"], kind="stable", ignore_index=True)

    def refresh(self) -> bool:
        """Look for what a live run has gained; True when anything is new.

        Cheap enough to poll: it reads run.json and lists names; rows are read when a view asks for them.

        Raises:
            RunFormatError: run.json has gone, or cannot be read.
        """
        raw = read_bytes(self._store)
        if raw != self._raw:
            self._description = parse_description(raw, self._store.shown(DESCRIPTION))
            self._raw = raw
        grown = [table.refresh() for table in self._tables.values()]
        before, self._seen = self._seen, _gist(self._description)
        new = any(grown) or self._seen != before
        if new:
            self._ranks.renew(self._description.layers)
            self._rows.renew()
            self._sharded.renew()
        return new

    def _check(self, metric: str, rank: int) -> None:
        if metric not in self.metrics:
            raise unknown_name("metric", metric, self.metrics)
        self._check_rank(rank)

    def _check_rank(self, rank: int) -> None:
        if rank != 0 and rank not in self._ranks.described and rank not in self.ranks:
            raise unknown_name("rank", rank, self.ranks)

    def _small(self, table: str) -> pd.DataFrame:
        return _by_step(self._tables[table].columns(schema_of(table).names))

    def _placed(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Replace the id of a layer call by its depth and layer."""
        known = {rank: self._ranks.of(rank) for rank in frame["rank"].unique().tolist()}
        found = [known[rank].get(one) for rank, one in zip(frame["rank"], frame["id"], strict=True)]
        there = pd.Series([one is not None for one in found], index=frame.index, dtype=bool)
        frame = frame[there].drop(columns="id").reset_index(drop=True)
        frame.insert(2, "depth", [one.depth for one in found if one is not None])
        frame.insert(3, "layer", [one.layer for one in found if one is not None])
        return frame


def _by_step(columns: Mapping[str, pa.ChunkedArray]) -> pd.DataFrame:
    frame = pd.DataFrame({name: one.to_pandas() for name, one in columns.items()})
    return frame.sort_values("step", kind="stable", ignore_index=True)


def _parents(layer: LayerSpec, depths: dict[int, int]) -> Sequence[int]:
    return sorted(depths[one] for one in layer.parents if one in depths)


def _gist(description: Description) -> tuple[Any, ...]:
    """Return what counts as news in a description: all but the heartbeat."""
    return (
        description.judged(),
        description.error,
        description.name,
        description.config,
        description.layers,
        description.every,
    )
