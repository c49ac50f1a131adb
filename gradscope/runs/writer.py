"""Write a run while training goes on."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope import __version__
from gradscope.errors import InvalidTypeError, InvalidValueError, RunExistsError, unknown_name
from gradscope.runs.buffer import LayerBuffer
from gradscope.runs.description import Description, jsonable, ranks, read_description
from gradscope.runs.format import DESCRIPTION, TABLES, description_of, schema_of
from gradscope.runs.given import arrow_rows, clean_row, real, warn_always, whole
from gradscope.runs.parts import PartWriter, remove_covered
from gradscope.runs.process import Process
from gradscope.runs.spans import EVERYTHING
from gradscope.runs.store import Store
from gradscope.runs.tables import TableReader
from gradscope.spec import LayerSpec, MetricSpec

HEARTBEAT = 5.0
# Where writing takes more than a 300th of the time, it is done less often: up to five times as seldom.
SPARING, MOST_PATIENCE = 300, 5.0
"""Least seconds between two rewritings of run.json that only renew the heartbeat."""

_log = logging.getLogger(__name__)


class Writer:
    """Appends rows to a run; everything a `flush` has returned from survives the death of the process.

    Rows gather in memory and are written at the latest `flush_seconds` after the last flush, at the end of a
    recorded step. What cannot be stored is refused where it is given; what cannot be written is warned of, kept and
    tried again: it never raises into the training. Rank 0 writes run.json, rank r > 0 the same of itself as run-r.json:
    its layers, numbered as it discovered them; all write parts of their own names side by side.

    Args:
        path: Folder of the run, on disk or anywhere fsspec reaches (``memory://``, ``s3://``).
        metrics: The metrics, in the order of the columns of `rows`; fixed for the life of the run.
        config: What tells this run from others; values that JSON cannot hold are kept as their `str()`.
        environment: Versions, device and the like.
        name: What tables and figures call the run; the last part of the path by default.
        every: A step is recorded if it is a multiple of this.
        resume: Continue the run that the folder holds, where it holds one.
        rank: Number of the process in a distributed training.
        flush_seconds: Longest time between two flushes, as long as steps are recorded; up to five times as long where
            a flush takes more than a 300th of it.
        flush_values: Number of buffered values that forces a flush.

    Raises:
        InvalidTypeError: The path is neither a string nor a path, or the name no string, or `every` no whole number.
        RunExistsError: The folder holds a run and `resume` is False, or a living process of this host is writing it.
        InvalidValueError: The run to resume has other metrics, or the path is that of a file or lies below one.
        RunFormatError: The run.json to resume from cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        metrics: Sequence[MetricSpec],
        config: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        name: str | None = None,
        every: int = 1,
        resume: bool = False,
        rank: int = 0,
        flush_seconds: float = 1.0,
        flush_values: int = 2_000_000,
    ) -> None:
        if not isinstance(name, str | None):
            raise InvalidTypeError(f"name is a string, not {type(name).__name__}")
        self._store = Store(path)
        self._store.check_folder()
        self.path = self._store.path
        self._rank = rank
        self._own = description_of(rank)
        self._flush_seconds, self._patience = flush_seconds, 1.0
        self._flush_values = flush_values
        writer = f"r{rank}x{secrets.token_hex(4)}"
        self._parts = {table: PartWriter(self._store, table, schema_of(table, metrics), writer) for table in TABLES}
        self._buffer = LayerBuffer(metrics, rank)
        self._waiting: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES if table != "layers"}
        fresh = Description(
            name=name or self._store.shown().rsplit("/", 1)[-1],
            metrics=tuple(metrics),
            config=jsonable(config or {}),
            environment=jsonable(environment or {}),
            every=whole("every", every),
            start=time.time(),
        )
        self._description = _signed(self._continued(fresh) if resume else fresh)
        self.next_step = self._description.next_step
        self._open(resume)
        self._dirty = self._closed = False
        self._failing: set[str] = set()
        self._last_flush = self._last_beat = time.monotonic()

    @property
    def layers(self) -> tuple[LayerSpec, ...]:
        """The layer table as last described."""
        return self._description.layers

    def describe(self, layers: Sequence[LayerSpec]) -> None:
        """Replace the layer table; it is written with the next flush, before the rows that refer to it."""
        self._description = replace(self._description, layers=tuple(layers))
        self._dirty = True

    def pace(self, every: int) -> None:
        """Note that from now on only every so many steps are recorded; it is written with the next flush."""
        self._description = replace(self._description, every=whole("every", every))
        self._dirty = True

    def rows(
        self,
        step: int | NDArray[np.int64],
        ids: NDArray[np.int32],
        values: NDArray[np.float64],
        present: NDArray[np.bool_],
        *,
        skipped: bool | NDArray[np.bool_] = False,
    ) -> None:
        """Add the rows of a recorded step, or of several at once; all of them are copied, or none.

        Args:
            step: Number of the step, or an array of one number for each row, shape (rows,), ascending.
            ids: Ids of the layer calls, shape (rows,).
            values: Shape (rows, metrics), metrics in the order given at opening; NaN and infinity are kept.
            present: Same shape; False stores null, whatever the value is.
            skipped: The optimizer did not take this step; or one such flag for each row, shape (rows,).

        Raises:
            InvalidTypeError: A step is no whole number, or a flag neither true nor false.
            InvalidValueError: The shapes do not fit.
        """
        self._buffer.add(step, ids, values, present, skipped)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add scalars of a step, such as the loss.

        Raises:
            InvalidTypeError: The step is no whole number, or a value no single number; then none is added.
            InvalidValueError: The step or a value is out of range.
        """
        self.append("scalars", [{"step": step, "name": key, "value": real(key, one)} for key, one in values.items()])

    def event(self, step: int, text: str, kind: str = "user") -> None:
        """Add a remark that belongs to a step.

        Raises:
            InvalidTypeError: The step is no whole number.
        """
        self.append("events", [{"step": step, "time": time.time(), "kind": kind, "text": str(text)}])

    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to one of the small tables, each a dict with the columns of its schema; rank is added.

        Raises:
            UnknownNameError: There is no such table.
            InvalidTypeError: A step is no whole number; then no row is added.
        """
        if table not in self._waiting:
            raise unknown_name("table", table, self._waiting)
        self._waiting[table] += [clean_row(row, self._rank) for row in rows]

    def tick(self) -> None:
        """End a recorded step: flush if it is time to, else only read the clock."""
        due = time.monotonic() - self._last_flush >= self._flush_seconds * self._patience
        full = self._buffer.values >= self._flush_values and "layers" not in self._failing
        if due or full:
            self.flush()

    def flush(self) -> None:
        """Write everything gathered so far; once it returns, the death of the process loses none of it.

        What cannot be written is warned of; its rows stay for the next flush, and all else is written.
        """
        start = time.monotonic()
        if self._dirty or start - self._last_beat >= HEARTBEAT:
            self._attempt(self._own, self._describe_self)
        if len(self._buffer):
            self._attempt("layers", self._write_layers)
        for table, rows in self._waiting.items():
            if rows:
                self._attempt(table, partial(self._write_small, table))
        self._last_flush = now = time.monotonic()
        self._patience = min(max(SPARING * (now - start) / max(self._flush_seconds, 1e-3), 1.0), MOST_PATIENCE)

    def close(self, status: str = "finished", error: str | None = None) -> None:
        """Flush, and write how the run ended; closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._description = replace(self._description, status=status, error=error, end=time.time())
            self._attempt(self._own, self._describe_self)
        for table in TABLES:
            remove_covered(self._store, table)

    def _attempt(self, what: str, write: Callable[[], None]) -> None:
        """Write, or warn once until it works again: a full disk is no reason to end a training."""
        try:
            write()
        except Exception as error:
            message = f"{self._store.shown(what)} could not be written: {type(error).__name__}: {error}"
            _log.warning(message, exc_info=error)
            if what not in self._failing:
                warn_always(f"{message}; it is tried again until the run is closed")
            self._failing.add(what)
        else:
            self._failing.discard(what)

    def _write_layers(self) -> None:
        self._parts["layers"].write(self._buffer.table())
        self._buffer.clear()
        self._parts["layers"].compact()

    def _write_small(self, table: str) -> None:
        rows = self._waiting[table]
        content, errors = arrow_rows(rows, schema_of(table))
        if len(content):
            self._parts[table].write(content)
        count = len(rows)
        rows.clear()
        if errors:
            message = f"left out {len(errors)} of {count} rows of {self._store.shown(table)}: {errors[0]}"
            _log.warning(message)
            warn_always(message)
        self._parts[table].compact()

    def _continued(self, fresh: Description) -> Description:
        """Continue what this rank has described; the number of the next step is that of all ranks."""
        known = [name for name in {self._own, DESCRIPTION} if self._store.is_file(name)]
        if not known:
            return fresh
        descriptions = {name: read_description(self._store, name) for name in known}
        stored = descriptions.get(self._own) or replace(descriptions[DESCRIPTION], status="finished")
        if stored.status == "running" and stored.alive():
            raise RunExistsError(
                f"{self.path!r} is being written by process {stored.pid} on host {stored.host}; "
                "close it first, or choose another folder"
            )
        for one in descriptions.values():
            _same_metrics(one, fresh, self.path)
        for table in TABLES:
            remove_covered(self._store, table)
        return replace(
            stored,
            config={**stored.config, **fresh.config},
            environment={**stored.environment, **fresh.environment},
            every=fresh.every,
            # Not from scalars: they may be logged at any step.
            next_step=max(
                *(one.next_step for one in descriptions.values()), _last_step(self._store, fresh.metrics) + 1
            ),
            status="running",
            error=None,
            end=None,
        )

    def _open(self, resume: bool) -> None:
        data = self._description.to_bytes()
        if resume:
            self._store.write(self._own, data)
        elif not self._store.create(self._own, data):
            raise RunExistsError(f"{self.path!r} already holds a run; choose another folder, or resume=True")
        else:
            self._agree_with_other_ranks()

    def _agree_with_other_ranks(self) -> None:
        """Ranks that record other metrics would leave a table that nobody can read."""
        for name in {description_of(rank) for rank in ranks(self._store)} - {self._own}:
            try:
                _same_metrics(read_description(self._store, name), self._description, self.path)
            except InvalidValueError:
                self._store.remove(self._own)
                raise

    def _describe_self(self) -> None:
        self._last_beat = time.monotonic()
        described = replace(self._description, next_step=self.next_step, heartbeat=time.time())
        self._store.write(self._own, described.to_bytes())
        self._dirty = False


def _signed(description: Description) -> Description:
    me = Process.this()
    return replace(
        description,
        host=socket.gethostname(),
        pid=me.pid,
        pid_started=me.started,
        heartbeat=time.time(),
        version=__version__,
    )


def _same_metrics(stored: Description, given: Description, path: str) -> None:
    old, new = ({one.name for one in description.metrics} for description in (stored, given))
    changes = [f"without {name!r}" for name in sorted(old - new)] + [f"with {name!r}" for name in sorted(new - old)]
    if not changes and [one.name for one in stored.metrics] != [one.name for one in given.metrics]:
        changes = ["in another order"]
    if changes:
        raise InvalidValueError(
            f"the metrics of {path!r} were fixed when it was opened; this selection is {', '.join(changes)}"
        )


def _last_step(store: Store, metrics: Sequence[MetricSpec]) -> int:
    reader = TableReader(store, "layers", schema_of("layers", metrics))
    spans = reader.spans()
    if any(span.steps == EVERYTHING for span in spans):
        return max((int(chunk.to_numpy().max()) for chunk in reader.columns(["step"])["step"].chunks), default=-1)
    return max((span.steps[1] for span in spans), default=-1)
