"""The table of what was recorded of every layer, and why something was not: a DataFrame that reads well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import pandas as pd

from gradscope.errors import RunFormatError

TIERS = {
    "parameters": "weights, their gradients and updates",
    "boundaries": "activations and error signals",
    "units": "units of activation functions",
}
_ASIDE = ("filtered", "scripted")
_NO_LAYER = "unwatched"
_LACKS = "unreadable"


class CoverageTable(pd.DataFrame):
    """Rows of coverage; printed, it says first what there is of each tier, then why layers lack data."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame  # what is made of it is an ordinary table

    def lacking(self, broken: Sequence[str]) -> Self:
        """Note what is wrong with each file that these rows are not of."""
        if broken:
            self.attrs[_LACKS] = list(broken)
        return self

    def __repr__(self) -> str:
        told = [f"{reason}; what it says of the layers is missing here" for reason in self.attrs.get(_LACKS, ())]
        return "\n\n".join([*told, coverage_text(pd.DataFrame(self))])


def latest_coverage(coverage: pd.DataFrame) -> pd.DataFrame:
    """Keep what the last look at every layer showed, on every rank; a table without steps is left as it is.

    Raises:
        RunFormatError: A file of the table could not be read: which look was the last is not known.
    """
    if coverage.attrs.get(_LACKS):
        raise RunFormatError("; ".join(coverage.attrs[_LACKS]))
    return _latest(coverage)


def _latest(coverage: pd.DataFrame) -> pd.DataFrame:
    if "step" not in coverage:
        return coverage
    return coverage.sort_values("step", kind="stable").drop_duplicates(["rank", "layer"], keep="last")


def tier_counts(coverage: pd.DataFrame) -> dict[str, str]:
    """Say of every tier of how many watched layers it was recorded, modules with parameters that are no layers counted.

    >>> tier_counts(pd.DataFrame({"layer": ["a", "b"], "code": ["recorded", "missed"], "boundaries": ["yes", "part"]}))
    {'boundaries': '1 of 2, 1 in part'}
    """
    watched = coverage[~coverage["code"].isin(_ASIDE)]
    known = {name: watched[name] for name in TIERS if name in watched and watched[name].notna().any()}
    waits = bool(watched["code"].isin(["not_yet", _NO_LAYER]).all())
    return {name: "not yet" if waits else _count(values) for name, values in known.items()}


def _count(values: pd.Series[str]) -> str:
    if (values == "-").all():
        return "not chosen"
    whole, part = int((values == "yes").sum()), int((values == "part").sum())
    return f"{whole} of {len(values)}" + (f", {part} in part" if part else "")


def coverage_text(coverage: pd.DataFrame) -> str:
    """Return tiers and layers as text."""
    if coverage.empty:
        return "no layers"
    latest = _latest(coverage)
    counts = tier_counts(latest)
    counted = "modules" if (latest["code"] == _NO_LAYER).any() else "layers"
    head: list[tuple[str, ...]] = [("tier", counted, "what it is")]
    head += [(name, count, TIERS[name]) for name, count in counts.items()]
    ranks = ["rank"] if "rank" in latest and latest["rank"].nunique() > 1 else []
    columns = [*ranks, "layer", *counts, "code", "text"]
    body: list[tuple[str, ...]] = [tuple(columns)]
    body += [tuple(map(str, row)) for row in latest[columns].itertuples(index=False)]
    return "\n\n".join(_aligned(table) for table in (head, body) if len(table) > 1)


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
