"""Where a recorded step ends: its numbers become rows of the run, its gaps become coverage."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradscope.probe import reduce
from gradscope.probe.coverage import Coverage, coverage_rows, survey
from gradscope.probe.layers import Layer
from gradscope.probe.plan import Plan
from gradscope.probe.recorder import Recorder
from gradscope.probe.records import CallRecord, FinishedCall, Key
from gradscope.probe.reduce import Tape
from gradscope.probe.rows import UnitWindow, build_rows, histogram_rows, push_windows, unit_rows
from gradscope.probe.table import LayerTable
from gradscope.runs import Writer

_log = logging.getLogger("gradscope.probe")
PENDING_SCALARS = 1000


class Sink:
    """Writes recorded steps, scalars, events and faults of one probe."""

    def __init__(self, writer: Writer, plan: Plan, layers: tuple[Layer, ...]) -> None:
        self.writer = writer
        self.table = LayerTable(writer.layers)
        self._plan = plan
        self._layers = layers
        self._windows: dict[Key, UnitWindow] = {}
        self._coverage: dict[str, Coverage] = {}
        self._faults: dict[str, str] = {}
        self._pending: list[tuple[int, str, Tensor]] = []
        self._recorded = 0

    def write(self, recorder: Recorder, *, skipped: bool = False) -> None:
        """Write a step; its one transfer from the device happens here."""
        recorder.open = False
        records = list(recorder.records.values())
        numbers = self.fetch_scalars(recorder.tape)
        if self.table.update(records):
            self.writer.describe(self.table.specs)
        if records:
            self._write_rows(recorder.step, recorder.finished_calls(), numbers, skipped)
        self._write_coverage(recorder, records)
        self._recorded += 1
        self.writer.tick()

    def _write_rows(self, step: int, calls: list[FinishedCall], numbers: NDArray[np.float64], skipped: bool) -> None:
        ids = self.table.ids
        shares = push_windows(calls, numbers, self._windows)
        windows = {key: self._windows[key] for key in shares}
        dead = {key: window.dead for key, window in windows.items() if window.dead is not None}
        rows = build_rows(calls, self._plan.metrics, numbers, dead, partial(self.fault, step))
        call_ids = np.asarray([ids[call.key] for call in calls], dtype=np.int32)
        self.writer.rows(step, call_ids, rows.values, rows.present, skipped=skipped)
        if self._plan.histograms:
            self.writer.append("histograms", histogram_rows(step, calls, ids, numbers))
        if is_milestone(self._recorded):
            for call in calls:
                if call.key in shares:
                    found = unit_rows(step, call, ids[call.key], shares[call.key], windows[call.key])
                    self.writer.append("units", found)

    def _write_coverage(self, recorder: Recorder, records: list[CallRecord]) -> None:
        found = survey(self._layers, records, recorder.uncounted, self._faults)
        changed = [one for one in found if self._coverage.get(one.layer) != one]
        if changed:
            self.writer.append("coverage", coverage_rows(recorder.step, changed))
        self._coverage = {one.layer: one for one in found}

    def scalars(self, step: int, values: dict[str, Any]) -> None:
        """Note scalars; those on a device wait there for the next transfer."""
        for name, value in values.items():
            if isinstance(value, Tensor) and not reduce.on_host(value):
                self._pending.append((step, name, value.detach().reshape(()).clone()))
            else:
                self.writer.scalars(step, {name: float(value)})
        if len(self._pending) > PENDING_SCALARS:
            self.fetch_scalars()

    def fetch_scalars(self, tape: Tape | None = None) -> NDArray[np.float64]:
        """Fetch the scalars that wait on a device; a recorded step takes them along in its one transfer.

        Returns:
            All numbers of the tape.
        """
        tape = tape or Tape()
        pending, self._pending = self._pending, []
        places = [tape.put(value) for _, _, value in pending]
        numbers = tape.read()
        for (step, name, _), place in zip(pending, places, strict=True):
            self.writer.scalars(step, {name: float(numbers[place])})
        return numbers

    def coverage(self) -> list[Coverage]:
        """What the last recorded step showed of every layer."""
        return [self._coverage.get(layer.name, _not_yet(layer)) for layer in self._layers]

    def fault(self, step: int, layer: str, where: str, error: Exception) -> None:
        """Report an error of ours once; the training never sees it."""
        text = f"{where} failed at step {step}: {type(error).__name__}: {error}"
        _log.debug("layer %s: %s", layer, text, exc_info=error)
        key = f"{layer}|{where}"
        if key not in self._faults:
            self._faults[key] = text
            self._faults.setdefault(layer, text)
            self.writer.event(step, f"layer {layer}: {text}", kind="probe")
            with warnings.catch_warnings():
                # A session that turns warnings into errors still trains.
                warnings.simplefilter("default")
                warnings.warn(f"layer {layer}: {text}; the training is not affected", stacklevel=2)


def is_milestone(recorded: int) -> bool:
    """One digit and zeros: rows by unit are kept for these recorded steps, so that they do not grow with time.

    >>> [count for count in range(1000) if is_milestone(count)][8:14]
    [8, 9, 10, 20, 30, 40]
    """
    return recorded < 10 or int(str(recorded)[1:]) == 0


def _not_yet(layer: Layer) -> Coverage:
    return Coverage(layer.name, "not_yet", 0, 0, "no step has been recorded yet")
