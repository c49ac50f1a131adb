"""Turn statistics of recorded steps into rows: fill a table, run the metrics on it, gather windows of dead units."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradscope.metrics import Metric, Ratio
from gradscope.probe.capture import FaultHandler, Value
from gradscope.probe.piles import PHI, Pile, signals_of
from gradscope.probe.plan import WIDTHS, Column, Plan
from gradscope.signals import OVERLAPS, Moments, Request, Squares, pool_moments
from gradscope.spec import MetricSpec

WINDOW_SAMPLES = 64
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
# Where the notes of recorded steps point: places in the pile and rows of the table, by pile and signal.
Targets = dict[tuple[Pile, str], tuple[list[int], list[int]]]


def fill(plan: Plan, count: int, targets: Targets) -> Array:
    """Bring the statistics of settled piles into a table, shape (rows, numbers); counts of 0 where there is none."""
    table = np.zeros((count, plan.width))
    for (pile, target), found in targets.items():
        if not pile.tables:
            continue
        places, rows = (np.asarray(one, dtype=np.intp) for one in found)
        numbers = pile.tables[0] if len(pile.tables) == 1 else np.concatenate(pile.tables)
        for signal in signals_of(target):
            _scatter(plan, table, pile, signal, numbers[places], rows)
    return table


def _scatter(plan: Plan, table: Array, pile: Pile, target: str, numbers: Array, rows: NDArray[np.intp]) -> None:
    start = 0
    for signal, statistic in pile.reducer.columns:
        part = numbers[:, start : start + WIDTHS[statistic]]
        start += WIDTHS[statistic]
        is_moments = statistic == "moments"
        if target == "input_overlap" and statistic == "squares":
            # One path only: what is sent back is the whole, and <g, g> its sum of squares.
            part, statistic = np.stack([part[:, 0] > 0, part[:, 1]], axis=1), "overlap"
        where = plan.columns.get((signal if target == PHI else target, statistic))
        if where is not None:
            _add(table, where, part, rows, is_moments)


def _add(table: Array, where: slice, part: Array, rows: NDArray[np.intp], is_moments: bool) -> None:
    """Write numbers into rows, pooled with what stands there: micro-batches combine as if they were one tensor."""
    block = table[:, where]
    if not block[rows, 0].any() and _are_distinct(rows):
        block[rows] = part
    elif is_moments:
        for row, numbers in zip(rows, part, strict=True):
            block[row] = pool_moments([tuple(block[row]), tuple(numbers)])
    else:
        np.add.at(block, rows, part)


def _are_distinct(rows: NDArray[np.intp]) -> bool:
    return bool((rows[1:] > rows[:-1]).all()) or len(np.unique(rows)) == len(rows)


def evaluate(plan: Plan, table: Array, fault: FaultHandler) -> tuple[Array, Mask]:
    """Run the metrics of statistics on all rows; values and whether they are present, shape (rows, columns)."""
    values = np.full((len(table), len(plan.specs)), np.nan)
    present = np.zeros(values.shape, dtype=np.bool_)
    for column, metric in enumerate(plan.metrics):
        if metric.phase is None:
            try:
                _evaluate_one(plan, table, metric, values[:, column], present[:, column])
            except Exception as error:
                fault("all layers", f"metric {metric.name!r}", error)
    return values, present


def _evaluate_one(plan: Plan, table: Array, metric: Metric, values: Array, present: Mask) -> None:
    blocks = [table[:, plan.columns[_column(request)]] for request in metric.requests]
    # An empty tensor has no norm and no mean.
    which = np.flatnonzero(np.all([block[:, 0] > 0 for block in blocks], axis=0))
    if not len(which):
        return
    arguments = [_argument(request, block[which]) for request, block in zip(metric.requests, blocks, strict=True)]
    found = metric.function(*arguments)
    if isinstance(found, Ratio):
        top, bottom = np.asarray(found.numerator, np.float64), np.asarray(found.denominator, np.float64)
        defined = np.broadcast_to(bottom != 0, which.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            found, which = np.broadcast_to(top / bottom, which.shape)[defined], which[defined]
    if found is not None:
        values[which], present[which] = found, True


def _column(request: Request) -> Column:
    return request.signal, "overlap" if request.signal in OVERLAPS else request.form


def _argument(request: Request, block: Array) -> Moments | Squares | Array:
    if request.form == "moments":
        return Moments(*block.T)
    if request.form == "squares":
        return Squares(*block.T)
    return block[:, 1] if request.signal in OVERLAPS else block[:, 1] / block[:, 0]


def combine(spec: MetricSpec, found: Sequence[Value], numbers: Array) -> float | None:
    """Combine the values of a metric that ran on tensors, one for every micro-batch; None where it is undefined."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _combine(spec, _parts(found, numbers))


def _parts(found: Sequence[Value], numbers: Array) -> list[tuple[int, float]]:
    return [
        (value.weight, numbers[value.place] / numbers[value.place + 1] if value.is_ratio else numbers[value.place])
        for value in found
        if not value.is_ratio or numbers[value.place + 1] != 0
    ]


def _combine(spec: MetricSpec, parts: Sequence[tuple[int, float]]) -> float | None:
    if not parts:
        return None
    weights, values = np.asarray(parts, dtype=np.float64).T
    if len(values) == 1:
        return float(values[0])
    if spec.combine == "rss":
        return float(np.sqrt(np.sum(values**2)))
    if spec.combine == "max":
        return float(np.max(values))
    if not weights.any():
        return float("nan")
    if spec.combine == "rms":
        return float(np.sqrt(np.average(values**2, weights=weights)))
    return float(np.average(values, weights=weights))


@dataclass
class UnitWindow:
    """Per sampled unit: was the slope zero on every sample of the last recorded steps, at least 64 samples of them?

    Attributes:
        width: Number of sampled units.
        samples: Samples in the window.
        steps: Samples of every step, and which units were flat on all of them; None where none was.
        flat: Steps in the window in which some unit was.
    """

    width: int = 0
    samples: int = 0
    steps: deque[tuple[int, Mask | None]] = field(default_factory=deque)
    flat: int = 0

    def push(self, units: Units) -> None:
        """Add a step and forget those no longer needed to reach 64 samples."""
        samples, width = units.samples, len(units.share)
        if width != self.width:
            self.steps.clear()
            self.width, self.samples, self.flat = width, 0, 0
        self.steps.append((samples, units.share == 1.0 if units.any_flat else None))
        self.flat += units.any_flat
        self.samples += samples
        while self.samples - self.steps[0][0] >= WINDOW_SAMPLES:
            gone, flat = self.steps.popleft()
            self.samples -= gone
            self.flat -= flat is not None

    @property
    def is_full(self) -> bool:
        """Whether it holds 64 samples."""
        return self.samples >= WINDOW_SAMPLES

    @property
    def dead(self) -> Mask | None:
        """Per unit; None below 64 samples."""
        if not self.is_full:
            return None
        if self.flat < len(self.steps):
            return np.zeros(self.width, dtype=np.bool_)
        found = np.ones(self.width, dtype=np.bool_)
        for _, flat in self.steps:
            found &= flat if flat is not None else False
        return found


class Units(NamedTuple):
    """What the sampled units of a layer call showed in one step.

    Attributes:
        samples: What every unit was seen on.
        share: Share of these with slope zero, by unit.
        step: Every how many units one is sampled.
        any_flat: Whether some unit had no other slope.
    """

    samples: int
    share: Array
    step: int
    any_flat: bool


def units_by_row(targets: Targets) -> dict[int, Units]:
    """Gather the shares of zero slopes by row of the table, micro-batches combined."""
    found: dict[int, Units] = {}
    for (pile, _), notes in targets.items():
        if not pile.shares or not pile.reducer.samples:
            continue
        shares = np.concatenate(pile.shares)
        flat = (shares == 1.0).any(axis=1).tolist()
        samples, step = pile.reducer.samples, pile.reducer.step
        for place, row in zip(*notes, strict=True):
            one = Units(samples, shares[place], step, flat[place])
            found[row] = _pooled(found[row], one) if row in found else one
    return found


def _pooled(first: Units, second: Units) -> Units:
    if first.share.shape != second.share.shape:
        return first
    samples = first.samples + second.samples
    share = (first.samples * first.share + second.samples * second.share) / samples
    return Units(samples, share, first.step, bool((share == 1.0).any()))


def histograms_by_row(targets: Targets) -> Iterator[tuple[tuple[int, str], tuple[Array, int, int]]]:
    """Yield counts, sampled entries and entries by row of the table and signal, micro-batches added up.

    One after the other: all of them at once would be half a kilobyte for every bin of every row that waits.
    """
    notes = [
        (pile, quantity, place, row)
        for (pile, target), (places, rows) in targets.items()
        if (quantity := signals_of(target)[0]) in pile.bins
        for place, row in zip(places, rows, strict=True)
    ]
    parts = Counter((row, quantity) for _, quantity, _, row in notes)
    bins: dict[tuple[Pile, str], Array] = {}
    pooled: dict[tuple[int, str], tuple[Array, int, int]] = {}
    for pile, quantity, place, row in notes:
        if (pile, quantity) not in bins:
            bins[pile, quantity] = _whole(pile.bins[quantity])
        counts, of_one, key = bins[pile, quantity][place], pile.reducer, (row, quantity)
        if parts[key] == 1:
            yield key, (counts, of_one.sampled, of_one.entries)
            continue
        before, sampled, entries = pooled.get(key, (np.zeros(len(counts)), 0, 0))
        pooled[key] = before + counts, sampled + of_one.sampled, entries + of_one.entries
    yield from pooled.items()


def _whole(tables: Sequence[Array]) -> Array:
    return tables[0] if len(tables) == 1 else np.concatenate(tables)


def unit_rows(step: int, call_id: int, units: Units, window: UnitWindow) -> Iterable[dict[str, Any]]:
    """Rows of ``units/`` for one call; ``dead`` is null below 64 samples."""
    dead = window.dead
    for place, share in enumerate(units.share):
        yield {
            "step": step,
            "id": call_id,
            "unit": place * units.step,
            "samples": window.samples,
            "flat_fraction": float(share),
            "dead": None if dead is None else bool(dead[place]),
        }
