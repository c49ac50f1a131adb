"""Append a table to a run as Parquet parts, and merge small parts into larger ones."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gradscope.runs.format import Part, parse_part, visible
from gradscope.runs.store import Store

FANOUT = 32
"""Parts of one level that merge into one of the next."""
LARGEST = 64 * 2**20
"""Bytes above which parts are not merged further: merging happens inside the training loop."""
GROUP_ROWS = 131_072
"""Least number of rows of a row group in a merged part, as far as there are that many."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A part this process has written: its name, how often it was merged, its size in bytes."""

    part: Part
    level: int
    size: int


class PartWriter:
    """Appends one table of one run on behalf of one process, and compacts only what it wrote itself."""

    def __init__(self, store: Store, table: str, schema: pa.Schema, writer: str) -> None:
        self._store = store
        self._table = table
        self._schema = schema
        self._writer = writer
        self._next = 0
        self._written: list[Written] = []

    def write(self, rows: pa.Table) -> None:
        """Write rows as a fresh part."""
        part = Part(self._writer, self._next, self._next)
        data = encode([rows], self._schema)
        self._store.write(self._path(part), data)
        self._next += 1
        self._written.append(Written(part, 0, data.size))

    def compact(self) -> None:
        """Merge parts where enough have gathered; where that fails nothing is lost: they stay as they are."""
        try:
            while (group := mergeable(self._written)) and self._merge(group):
                pass
        except Exception as error:
            _log.warning("could not compact %s: %s", self._store.shown(self._table), error)

    def _merge(self, group: list[Written]) -> bool:
        part = Part(self._writer, group[0].part.first, group[-1].part.last)
        tables = (self._store.parquet(self._path(one.part)).read() for one in group)
        data = encode(tables, self._schema)
        self._store.write(self._path(part), data)
        self._written[-len(group) :] = [Written(part, group[0].level + 1, data.size)]
        for one in group:  # only now: a crash before this leaves parts that readers know to be covered
            self._store.remove(self._path(one.part))
        return True

    def _path(self, part: Part) -> str:
        return f"{self._table}/{part.filename}"


def remove_covered(store: Store, table: str) -> None:
    """Delete the parts that a merged one covers: a writer that dies between merging and deleting leaves them.

    Our readers ignore them; others, who take every file, would count their rows twice. Whoever wrote them, their rows
    are all in the merged part, which is complete once it has its name; it is opened first, in case the disk was not.
    """
    try:
        found = {part for name in store.names(table) if (part := parse_part(name)) is not None}
        for merged in visible(found):
            covered = sorted(part for part in found if merged.covers(part))
            if covered:
                store.parquet(f"{table}/{merged.filename}").close()
            for part in covered:
                store.remove(f"{table}/{part.filename}")
    except Exception as error:
        _log.warning("could not tidy up %s: %s", store.shown(table), error)


def mergeable(written: list[Written]) -> list[Written]:
    """Return the newest parts if they are ready to merge: enough, of one level, not too large together.

    >>> part = Written(Part("a", 0, 0), 0, 100)
    >>> len(mergeable([part] * 31)), len(mergeable([part] * 32))
    (0, 32)
    """
    group = written[-FANOUT:]
    ready = len(group) == FANOUT and len({one.level for one in group}) == 1
    return group if ready and sum(one.size for one in group) <= LARGEST else []


def encode(tables: Any, schema: pa.Schema) -> pa.Buffer:
    """Return tables as one Parquet file: zstd, byte-stream-split for floats, dictionary only for strings."""
    sink = pa.BufferOutputStream()
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(sink, schema, **_encoding(schema)) as file:
        for table in tables:
            waiting.append(table)
            if sum(len(one) for one in waiting) >= GROUP_ROWS:
                file.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            file.write_table(pa.concat_tables(waiting))
    return sink.getvalue()


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    strings = [column.name for column in schema if pa.types.is_string(column.type)]
    floats = [column.name for column in schema if pa.types.is_floating(column.type)]
    return {
        "compression": "zstd",
        "use_dictionary": strings or False,
        "use_byte_stream_split": floats or False,
    }
