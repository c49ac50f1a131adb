"""Which steps lie in which row group of a part: its footer says so, hence one step is read without all the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradscope.runs.format import Part

EVERYTHING = (-(2**63), 2**63 - 1)


@dataclass(frozen=True)
class Span:
    """A row group of a part.

    Attributes:
        part: The part it is in.
        group: Its number in the part.
        steps: Least and greatest step in it.
        ranks: Least and greatest rank in it.
        skipped: Whether it may hold rows of a step that the optimizer did not take.
        empty: Names of the columns without any value in it.
    """

    part: Part
    group: int
    steps: tuple[int, int]
    ranks: tuple[int, int]
    skipped: bool
    empty: frozenset[str]

    def holds(self, first: int, last: int, rank: int) -> bool:
        """Tell whether rows of these steps and this rank may lie in it."""
        return self.steps[0] <= last and first <= self.steps[1] and self.ranks[0] <= rank <= self.ranks[1]


def spans_of(part: Part, metadata: Any) -> list[Span]:
    """Read the row groups of a part from its footer; one without statistics may hold anything."""
    return [_span(part, group, metadata.row_group(group)) for group in range(metadata.num_row_groups)]


def _span(part: Part, group: int, stored: Any) -> Span:
    columns = [stored.column(place) for place in range(stored.num_columns)]
    by_name = {column.path_in_schema: column.statistics for column in columns}
    empty = {column.path_in_schema for column in columns if _empty(column)}
    skipped = _range(by_name.get("skipped"))[1] != 0
    return Span(part, group, _range(by_name.get("step")), _range(by_name.get("rank")), skipped, frozenset(empty))


def _range(statistics: Any) -> tuple[int, int]:
    if statistics is None or not statistics.has_min_max:
        return EVERYTHING
    return int(statistics.min), int(statistics.max)


def _empty(column: Any) -> bool:
    statistics = column.statistics
    known = statistics is not None and statistics.has_null_count
    return bool(known and statistics.null_count == column.num_values)
