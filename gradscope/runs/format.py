"""What a run is on disk: the tables, their schemas, the names of the parts, and run.json.

A run is a folder::

    run.json                 description: status, config, environment, metric specs, layers
    layers/part-*.parquet    one row per recorded step and layer call, one column per metric
    scalars/ events/ histograms/ units/ coverage/    the same way, each its own small schema
    shards/                  the same way, where parameters are sharded: see `gradscope.runs.shards`
    run-<rank>.json          description of another rank: its own layers and ids, and whether its process lives

A part is named ``part-<writer>-<first>-<last>.parquet``. A fresh part has first == last; a compacted one
names the range it covers, and readers ignore the parts of the same writer that it covers. Readers of another kind,
who take every file, see the rows of covered parts twice: for the moment between merging and deleting, and after a
writer died in it, until the run is resumed or another writer of it closes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from gradscope.runs.shards import SHARDS
from gradscope.spec import MetricSpec

FORMAT_VERSION = 1
DESCRIPTION = "run.json"
TABLES = ("layers", "scalars", "events", "histograms", "units", "coverage", "shards")

_KEY = [("step", pa.int64()), ("rank", pa.int32()), ("id", pa.int32())]

SCALARS = pa.schema([("step", pa.int64()), ("rank", pa.int32()), ("name", pa.string()), ("value", pa.float64())])
EVENTS = pa.schema(
    [
        ("step", pa.int64()),
        ("rank", pa.int32()),
        ("time", pa.float64()),
        ("kind", pa.string()),
        ("text", pa.string()),
    ]
)
# Bin k of `positive` counts entries with 2^(lowest+k) <= x < 2^(lowest+k+1); `negative` the same of -x.
HISTOGRAMS = pa.schema(
    [
        *_KEY,
        ("quantity", pa.string()),
        ("lowest", pa.int32()),
        ("positive", pa.list_(pa.int64())),
        ("negative", pa.list_(pa.int64())),
        ("zeros", pa.int64()),
        ("nonfinite", pa.int64()),
        ("sampled", pa.int64()),
        ("entries", pa.int64()),
    ]
)
UNITS = pa.schema(
    [
        *_KEY,
        ("unit", pa.int32()),
        ("samples", pa.int64()),
        ("flat_fraction", pa.float32()),
        ("dead", pa.bool_()),
    ]
)
COVERAGE = pa.schema(
    [
        ("step", pa.int64()),
        ("rank", pa.int32()),
        ("layer", pa.string()),
        ("code", pa.string()),
        ("expected", pa.int64()),
        ("fired", pa.int64()),
        ("text", pa.string()),
        ("parameters", pa.string()),
        ("boundaries", pa.string()),
        ("units", pa.string()),
    ]
)
LATER = {"coverage": ("parameters", "boundaries", "units"), "shards": ("bias_rms",)}
"""Columns that a table of an earlier version lacks; they read as null."""


def description_of(rank: int) -> str:
    """Return the name of the file in which a rank describes itself and its layers.

    >>> description_of(0), description_of(3)
    ('run.json', 'run-3.json')
    """
    return f"run-{rank}.json" if rank else DESCRIPTION


def described_rank(filename: str) -> int | None:
    """Return the rank that a file describes; None for any other file.

    >>> described_rank("run.json"), described_rank("run-3.json"), described_rank("notes.json")
    (0, 3, None)
    """
    match = re.fullmatch(r"run(?:-([1-9]\d*))?\.json", filename)
    return int(match[1] or 0) if match else None


def layer_schema(metrics: Iterable[MetricSpec]) -> pa.Schema:
    """Return the schema of ``layers/`` for a selection of metrics; it is fixed when a run opens."""
    own = [(metric.name, getattr(pa, metric.dtype)()) for metric in metrics]
    return pa.schema([*_KEY, ("skipped", pa.bool_()), ("nonfinite", pa.int32()), *own])


def schema_of(table: str, metrics: Iterable[MetricSpec] = ()) -> pa.Schema:
    """Return the schema of a table of a run by its folder name."""
    fixed = {
        "scalars": SCALARS,
        "events": EVENTS,
        "histograms": HISTOGRAMS,
        "units": UNITS,
        "coverage": COVERAGE,
        "shards": SHARDS,
    }
    return layer_schema(metrics) if table == "layers" else fixed[table]


@dataclass(frozen=True, order=True)
class Part:
    """Name of a part: whose it is and which numbers it covers."""

    writer: str
    first: int
    last: int

    @property
    def filename(self) -> str:
        """File name of the part.

        >>> Part("r0", 3, 3).filename
        'part-r0-00000003-00000003.parquet'
        """
        return f"part-{self.writer}-{self.first:08d}-{self.last:08d}.parquet"

    def covers(self, other: Part) -> bool:
        """Tell whether this part holds everything that another, smaller one holds."""
        inside = self.first <= other.first and other.last <= self.last
        return self != other and self.writer == other.writer and inside


_PART = re.compile(r"part-(?P<writer>[^-]+)-(?P<first>\d+)-(?P<last>\d+)\.parquet")


def parse_part(filename: str) -> Part | None:
    """Read a part's name; None for a file that is not a part (a temporary one, say).

    >>> parse_part("part-r0-00000003-00000007.parquet")
    Part(writer='r0', first=3, last=7)
    >>> parse_part("part-r0-00000003.tmp") is None
    True
    """
    match = _PART.fullmatch(filename)
    return Part(match["writer"], int(match["first"]), int(match["last"])) if match else None


def visible(parts: Iterable[Part]) -> list[Part]:
    """Drop the parts that a compacted one covers, and order the rest.

    >>> [part.filename[-12:-8] for part in visible([Part("a", 1, 1), Part("a", 0, 1), Part("a", 2, 2)])]
    ['0001', '0002']
    """
    kept: list[Part] = []
    for part in sorted(set(parts), key=lambda one: (one.writer, one.first, -one.last)):
        # What covers a part comes before it in this order, and so does all that lies between the two.
        if not (kept and kept[-1].covers(part)):
            kept.append(part)
    return kept
