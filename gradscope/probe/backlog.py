"""Recorded steps whose rows are still to be made: several of them together cost little more than one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gradscope.probe.capture import Value
from gradscope.probe.histograms import histogram_row
from gradscope.probe.piles import Tally
from gradscope.probe.plan import Plan
from gradscope.probe.records import Key, Reading
from gradscope.probe.rows import (
    Array,
    Mask,
    Targets,
    Units,
    UnitWindow,
    combine,
    evaluate,
    fill,
    histograms_by_row,
    unit_rows,
    units_by_row,
)
from gradscope.probe.scaling import Scales, unscaled
from gradscope.probe.sharded import ShardedLayers
from gradscope.runs import Writer

# What may wait: rows, shapes of tensors, and the time since the last rows were made.
PATIENT_ROWS, PATIENT_PILES, PATIENT_SECONDS = 8192, 512, 0.9
# Where making rows takes more than a 300th of the time, it is done less often: up to five times as seldom.
SPARING, MOST_PATIENCE = 300, 5.0
# A histogram is five hundred numbers.
PATIENT_HISTOGRAMS = 512
# Rows of histograms that the writer may hold: a kilobyte each, and as dear to write later as now.
UNWRITTEN_HISTOGRAMS = 4096
Fault = Callable[[int, str, str, Exception], None]
Look = Callable[[NDArray[np.int64], Array, Mask], None]


@dataclass(frozen=True)
class Step:
    """A recorded step.

    Attributes:
        step: Its number.
        keys: Its calls, in order of execution.
        ids: Their ids.
        scales: What every call carries of the loss scale; None where there is none.
        skipped: Whether the optimizer did not take it.
        values: Values of metrics that ran on tensors, by row and column.
        is_milestone: Whether to keep rows by unit.
    """

    step: int
    keys: tuple[Key, ...]
    ids: NDArray[np.int32]
    scales: Sequence[Scales] | None
    skipped: bool
    values: dict[tuple[int, int], float]
    is_milestone: bool


class Backlog:
    """Takes in recorded steps and turns them into rows.

    Args:
        writer: Where rows go.
        plan: The metrics.
        fault: Called with step, layer, place and error when a metric fails.
        look: Called with the steps, values and presence of rows where nobody told of a loss scale.
    """

    def __init__(self, writer: Writer, plan: Plan, fault: Fault, look: Look) -> None:
        self.tally = Tally(plan.statistics)
        self._writer = writer
        self._plan = plan
        self._fault = fault
        self._look = look
        self._specs = plan.specs
        self._columns = {spec.name: column for column, spec in enumerate(plan.specs)}
        self._windowed = [column for column, one in enumerate(plan.metrics) if one.phase == "window"]
        self._windows: dict[Key, UnitWindow] = {}
        self._none_dead: dict[tuple[int, int], float] = {}
        self._steps: list[Step] = []
        self._targets: Targets = {}
        self._rows = self._held = self._unwritten = 0
        self._settled, self._patience = time.monotonic(), 1.0
        self._most = PATIENT_HISTOGRAMS if plan.histograms else PATIENT_ROWS

    def values(self, found: Sequence[Value], numbers: Array, row: int) -> dict[tuple[int, int], float]:
        """Combine the values that metrics took of a call's tensors, by row and column."""
        by_metric: dict[str, list[Value]] = {}
        for value in found:
            by_metric.setdefault(value.metric, []).append(value)
        combined: dict[tuple[int, int], float] = {}
        for name, parts in by_metric.items():
            column = self._columns[name]
            number = combine(self._specs[column], parts, numbers)
            if number is not None:
                combined[row, column] = number
        return combined

    def measured(self, row: int, found: Mapping[str, float]) -> dict[tuple[int, int], float]:
        """Place what was measured of a call on a fixed sample, by row and column."""
        return {(row, self._columns[name]): value for name, value in found.items()}

    def add(self, step: Step, readings: Sequence[Sequence[Reading]], sharded: ShardedLayers) -> None:
        """Take in a step that has ended; rows are made now if enough is waiting.

        Args:
            step: The step.
            readings: What each of its calls showed.
            sharded: Sets the parameter metrics of sharded layers apart.
        """
        for row, found in enumerate(readings, start=self._rows):
            self._note(row, found)
        self._rows += len(readings)
        # Also those whose rows a reader has asked for: the piles hold what they were made of.
        self._held += len(readings)
        self._steps.append(step)
        late = time.monotonic() - self._settled > PATIENT_SECONDS * self._patience
        if sharded.exist:
            self.settle(sharded)
        elif late or self._held > self._most or len(self.tally) > PATIENT_PILES or not self.tally.is_on_host:
            self.settle()

    def _note(self, row: int, readings: Iterable[Reading]) -> None:
        for reading in readings:
            for pile, place, target in reading.notes:
                found = pile.targets.get(target)
                if found is None:
                    found = pile.targets[target] = self._targets[pile, target] = [], []
                found[0].append(place)
                found[1].append(row)

    def settle(self, sharded: ShardedLayers | None = None) -> None:
        """Make the rows of everything taken in, between two steps, and forget what they were made of."""
        start = time.monotonic()
        try:
            self.make_rows(sharded)
        finally:
            self._held = 0
            self.tally.clear()
            self._settled = now = time.monotonic()
            self._patience = min(max(SPARING * (now - start) / PATIENT_SECONDS, 1.0), MOST_PATIENCE)

    def make_rows(self, sharded: ShardedLayers | None = None) -> None:
        """Make the rows of everything taken in; what a step in progress has shown so far stays."""
        steps, self._steps = self._steps, []
        targets, self._targets = self._targets, {}
        for pile, _ in targets:
            pile.targets = {}
        count, self._rows = self._rows, 0
        if steps:
            self.tally.settle_host()
            self._make(steps, count, targets, sharded)

    def _make(self, steps: Sequence[Step], count: int, targets: Targets, sharded: ShardedLayers | None) -> None:
        table = fill(self._plan, count, targets)
        values, present = evaluate(self._plan, table, partial(self._fault, steps[0].step))
        skipped = np.zeros(count, dtype=np.bool_)
        units = units_by_row(targets)
        counts = [len(step.ids) for step in steps]
        numbers = np.repeat(np.asarray([step.step for step in steps], dtype=np.int64), counts)
        if not any(step.scales for step in steps):
            self._look(numbers, values, present)
        start = 0
        for step, size in zip(steps, counts, strict=True):
            end = start + size
            for (row, column), value in step.values.items():
                values[start + row, column], present[start + row, column] = value, True
            for row in range(start, end) if units else ():
                if row in units:
                    self._add_units(step, row - start, units[row], values[row], present[row])
            self._finish(step, values[start:end], present[start:end], skipped[start:end], sharded)
            start = end
        ids = np.concatenate([step.ids for step in steps])
        self._writer.rows(numbers, ids, values, present, skipped=skipped)
        if self._plan.histograms:
            self._add_histograms(steps, targets, sharded)

    def _add_units(self, step: Step, row: int, units: Units, values: Array, present: Mask) -> None:
        key = step.keys[row]
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = UnitWindow()
        window.push(units)
        if window.is_full:
            for column in self._windowed:
                values[column], present[column] = self._of_window(column, window), True
        if step.is_milestone:
            self._writer.append("units", list(unit_rows(step.step, int(step.ids[row]), units, window)))

    def _of_window(self, column: int, window: UnitWindow) -> float:
        if window.flat == len(window.steps):
            dead = window.dead
            assert dead is not None
            return float(self._plan.metrics[column].function(dead))
        # Nearly always none is dead, and a metric is a pure function: once for every width is enough.
        key = column, window.width
        found = self._none_dead.get(key)
        if found is None:
            none = np.zeros(window.width, dtype=np.bool_)
            found = self._none_dead[key] = float(self._plan.metrics[column].function(none))
        return found

    def _finish(self, step: Step, values: Array, present: Mask, skipped: Mask, sharded: ShardedLayers | None) -> None:
        """Take the loss scale off the rows of a step, and what is of a shard out of them."""
        if step.skipped:
            skipped[:] = True
        if step.scales is not None:
            values[:], present[:] = unscaled(self._specs, step.scales, values, present)
            skipped |= np.asarray([one.skipped for one in step.scales], dtype=np.bool_)
        if sharded is not None:
            self._writer.append("shards", sharded.take(step.step, step.keys, step.ids, values, present))

    def _add_histograms(self, steps: Sequence[Step], targets: Targets, sharded: ShardedLayers | None) -> None:
        """Add histograms; of a gradient whose loss scale is no power of two there is none, and of a shard neither."""
        rows = [(step, row) for step in steps for row in range(len(step.ids))]
        found = []
        for (place, quantity), counted in histograms_by_row(targets):
            step, row = rows[place]
            shift = _shift(quantity, step.scales[row]) if step.scales is not None else 0
            if shift is not None:
                found.append(histogram_row(step.step, int(step.ids[row]), quantity, *counted, shift))
        if sharded is not None:
            ids = {key: int(number) for step in steps for key, number in zip(step.keys, step.ids, strict=True)}
            found = sharded.without_histograms(found, ids)
        self._writer.append("histograms", found)
        self._unwritten += len(found)
        if self._unwritten > UNWRITTEN_HISTOGRAMS:
            self._unwritten = 0
            self._writer.flush()


def _shift(quantity: str, scales: Scales) -> int | None:
    """Power of two that a gradient carries; None for another factor."""
    carried = {"output_grad": scales.error, "weight_grad": scales.weight}.get(quantity, 1.0)
    mantissa, exponent = math.frexp(carried)
    return exponent - 1 if mantissa == 0.5 else None
