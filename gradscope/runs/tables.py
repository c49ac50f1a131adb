"""Read the parts of a table of a run, column by column, while the run may still be growing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from gradscope.errors import RunFormatError
from gradscope.runs.format import LATER, Part, parse_part, visible
from gradscope.runs.spans import Span, spans_of
from gradscope.runs.store import Store

ATTEMPTS = 20
"""How often a listing is repeated when its parts are compacted away before they are read."""
REMEMBERED = 2**29
"""Bytes of columns that are kept, those read last; columns that are asked for together are kept in any case."""
T = TypeVar("T")


class TableReader:
    """The parts of one table: lists them, reads the columns asked for, remembers what it has read.

    A column once read is read again only from new parts. Parts that the writer has merged meanwhile are not
    read again either: what was read from the small ones is what the large one holds, in the same order.
    """

    def __init__(self, store: Store, table: str, schema: pa.Schema) -> None:
        self._store = store
        self._table = table
        self._schema = schema
        self._read: dict[str, dict[Part, pa.ChunkedArray]] = {}
        self._spans: dict[Part, list[Span]] = {}
        self._parts = self._list()

    def refresh(self) -> bool:
        """List the parts again; True when rows have come that the last listing did not have."""
        before = _reach(self._parts)
        self._parts = self._list()
        return _reach(self._parts) != before

    def columns(self, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """Return columns of equal length, over all parts of the last listing, nulls kept.

        Raises:
            RunFormatError: A part cannot be read or lacks a column; the message names the file.
        """
        return self._insisting(lambda: self._columns(names))

    def readable(self, names: Sequence[str]) -> tuple[dict[str, pa.ChunkedArray], list[str]]:
        """Return columns of equal length over the parts that can be read, and what is wrong with each of the others."""
        return self._insisting(lambda: self._readable(names))

    def spans(self) -> list[Span]:
        """Return the row groups of the last listing; footers are read once.

        Raises:
            RunFormatError: A part cannot be read; the message names the file.
        """
        return self._insisting(self._all_spans)

    def window(self, names: Sequence[str], wanted: Callable[[Span], bool]) -> dict[str, pa.ChunkedArray]:
        """Return columns of equal length, of the wanted row groups alone; nothing of them is remembered.

        Raises:
            RunFormatError: A part cannot be read or lacks a column; the message names the file.
        """
        return self._insisting(lambda: self._window(names, wanted))

    def _insisting(self, read: Callable[[], T]) -> T:
        """Read; where parts have been merged by their writer since they were listed, list and read again."""
        for _ in range(ATTEMPTS):
            try:
                return read()
            except FileNotFoundError:
                self._parts = self._list()
        raise RunFormatError(f"{self._store.shown(self._table)}: parts vanish faster than they can be read")

    def _columns(self, names: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        for part in self._parts:
            self._ensure(part, names)
        joined = {name: self._joined(name, self._parts) for name in names}
        self._forget(names)
        return joined

    def _readable(self, names: Sequence[str]) -> tuple[dict[str, pa.ChunkedArray], list[str]]:
        whole: list[Part] = []
        broken: list[str] = []
        for part in self._parts:
            try:
                self._ensure(part, names)
                whole.append(part)
            except RunFormatError as error:
                broken.append(str(error))
        return {name: self._joined(name, whole) for name in names}, broken

    def _forget(self, names: Sequence[str]) -> None:
        """Let go of the columns read longest ago, where there are too many bytes of them."""
        for name in names:
            if name in self._read:
                self._read[name] = self._read.pop(name)  # to the end
        sizes = {name: sum(one.nbytes for one in chunks.values()) for name, chunks in self._read.items()}
        for name in [name for name in self._read if name not in names]:
            if sum(sizes.values()) <= REMEMBERED:
                return
            del self._read[name], sizes[name]

    def _all_spans(self) -> list[Span]:
        found = {part: self._spans.get(part) or self._footer(part) for part in self._parts}
        self._spans = found
        return [span for spans in found.values() for span in spans]

    def _footer(self, part: Part) -> list[Span]:
        return self._opened(part, lambda file: spans_of(part, file.metadata))

    def _window(self, names: Sequence[str], wanted: Callable[[Span], bool]) -> dict[str, pa.ChunkedArray]:
        groups: dict[Part, list[int]] = {}
        for span in self._all_spans():
            if wanted(span):
                groups.setdefault(span.part, []).append(span.group)
        tables = [self._load(part, list(names), some) for part, some in groups.items()]
        types = {name: self._schema.field(name).type for name in names}
        chunks = {name: [chunk for table in tables for chunk in table.column(name).chunks] for name in names}
        return {name: pa.chunked_array(chunks[name], type=types[name]) for name in names}

    def _list(self) -> list[Part]:
        parts: list[Part] = []
        for _ in range(ATTEMPTS):
            found = (parse_part(name) for name in self._store.names(self._table))
            parts = visible(part for part in found if part is not None)
            if not gaps(parts):  # else parts were merged while the folder was being listed
                break
        else:
            warnings.warn(_lost(self._store.shown(self._table), gaps(parts)), UserWarning, stacklevel=2)
        return parts

    def _ensure(self, part: Part, names: Sequence[str]) -> None:
        missing = [name for name in names if not self._known(name, part)]
        if not missing:
            return
        table = self._load(part, missing)
        for name in missing:
            self._read[name][part] = table.column(name)

    def _known(self, name: str, part: Part) -> bool:
        read = self._read.setdefault(name, {})
        if part in read:
            return True
        pieces = [one for one in sorted(read) if part.covers(one)]
        whole = bool(pieces) and sum(one.last - one.first + 1 for one in pieces) == part.last - part.first + 1
        chunks = [chunk for one in pieces for chunk in read.pop(one).chunks]
        if whole:
            read[part] = pa.chunked_array([pa.concat_arrays(chunks)])
        return whole

    def _load(self, part: Part, names: list[str], groups: list[int] | None = None) -> Any:
        where = f"{self._table}/{part.filename}"
        if groups is None:
            table = self._opened(part, lambda file: file.read(columns=names))
        else:
            table = self._opened(part, lambda file: file.read_row_groups(groups, columns=names))
        for name in names:
            if name not in table.column_names and name in LATER.get(self._table, ()):
                table = table.append_column(name, pa.nulls(len(table), self._schema.field(name).type))
        absent = [name for name in names if name not in table.column_names]
        if absent:
            raise RunFormatError(f"{self._store.shown(where)} has no column {absent[0]!r}")
        return table

    def _opened(self, part: Part, read: Callable[[Any], T]) -> T:
        where = f"{self._table}/{part.filename}"
        try:
            with self._store.parquet(where) as file:
                return read(file)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise RunFormatError(f"{self._store.shown(where)} is not a readable part: {error}") from None

    def _joined(self, name: str, parts: Sequence[Part]) -> pa.ChunkedArray:
        chunks = [chunk for part in parts for chunk in self._read[name][part].chunks]
        return pa.chunked_array(chunks, type=self._schema.field(name).type)


def gaps(parts: Sequence[Part]) -> list[Part]:
    """Return the ranges that are missing: each writer numbers its parts from 0 without a gap.

    >>> gaps([Part("a", 0, 31), Part("a", 40, 40)])
    [Part(writer='a', first=32, last=39)]
    """
    missing: list[Part] = []
    next_number: dict[str, int] = {}
    for part in parts:
        expected = next_number.get(part.writer, 0)
        if part.first > expected:
            missing.append(Part(part.writer, expected, part.first - 1))
        next_number[part.writer] = part.last + 1
    return missing


def _lost(where: str, missing: Sequence[Part]) -> str:
    ranges = ", ".join(f"{one.first} to {one.last} of writer {one.writer}" for one in missing)
    return f"{where} lacks parts that were written, {ranges}; their rows are lost"


def _reach(parts: Sequence[Part]) -> dict[str, int]:
    """Return the last number of every writer: it moves with new rows, not with compaction."""
    reach: dict[str, int] = {}
    for part in parts:
        reach[part.writer] = max(part.last, reach.get(part.writer, -1))
    return reach
