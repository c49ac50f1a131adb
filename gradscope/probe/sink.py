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
from gradscope.probe.coverage import Coverage, awaited, coverage_rows, survey
from gradscope.probe.distributed import world_size
from gradscope.probe.layers import Layer
from gradscope.probe.loss_scale import keeps_scale
from gradscope.probe.plan import Plan
from gradscope.probe.recorder import Recorder
from gradscope.probe.records import CallRecord, FinishedCall, Key
from gradscope.probe.reduce import Tape
from gradscope.probe.rows import UnitWindow, build_rows, histogram_rows, push_windows, unit_rows
from gradscope.probe.scale_notes import Resolve
from gradscope.probe.scaling import taken_off, unscaled
from gradscope.probe.sharded import ShardedLayers
from gradscope.probe.table import LayerTable
from gradscope.probe.tiers import Scope
from gradscope.runs import Writer
from gradscope.runs.given import warn_always

_log = logging.getLogger("gradscope.probe")
PENDING_SCALARS = 1000


class Sink:
    """Writes recorded steps, scalars, events and faults of one probe."""

    def __init__(self, writer: Writer, plan: Plan, layers: tuple[Layer, ...], scope: Scope | None = None) -> None:
        self.writer = writer
        self.scope = scope or Scope()
        self.compiled = False
        self.table = LayerTable(writer.layers)
        self._plan = plan
        self._layers = layers
        self._sharded = ShardedLayers(layers, plan.metrics)
        self._windows: dict[Key, UnitWindow] = {}
        self._coverage: dict[str, Coverage] = {}
        self._faults: dict[str, str] = {}
        self._remarked: set[str] = set()
        self._specs = [metric.spec for metric in plan.metrics]
        self._pending: list[tuple[int, str, Tensor]] = []
        self._recorded = 0

    def write(self, recorder: Recorder, *, skipped: bool = False, scales: Resolve | None = None) -> None:
        """Write a step; its one transfer from the device happens here.

        Args:
            recorder: The step.
            skipped: Whether it was cut short; `scales` know what a scaler skipped.
            scales: What its gradients carry of the loss scale; None where there is none.
        """
        recorder.open = False
        records = list(recorder.records.values())
        numbers = self.fetch_scalars(recorder.tape)
        if self.table.update(records):
            self.writer.describe(self.table.specs)
        if records:
            self._write_rows(recorder.step, recorder.finished_calls(), numbers, skipped, scales)
        self._write_coverage(recorder, records)
        self._recorded += 1
        self.writer.tick()

    def _write_rows(
        self,
        step: int,
        calls: list[FinishedCall],
        numbers: NDArray[np.float64],
        skipped: bool,
        scales: Resolve | None,
    ) -> None:
        ids = self.table.ids
        shares = push_windows(calls, numbers, self._windows)
        windows = {key: self._windows[key] for key in shares}
        dead = {key: window.dead for key, window in windows.items() if window.dead is not None}
        rows = build_rows(calls, self._plan.metrics, numbers, dead, partial(self.fault, step))
        call_ids = np.asarray([ids[call.key] for call in calls], dtype=np.int32)
        values, present, flags = rows.values, rows.present, np.full(len(calls), skipped)
        if scales is not None:
            by_call = scales(numbers)
            of_calls = [by_call[call.key] for call in calls]
            values, present = unscaled(self._specs, of_calls, values, present)
            flags |= np.asarray([one.skipped for one in of_calls], dtype=np.bool_)
        else:
            self._look_for_scale(step, np.where(present, values, np.nan))
        self.writer.append("shards", self._sharded.take(step, [call.key for call in calls], call_ids, values, present))
        self.writer.rows(step, call_ids, values, present, skipped=flags)
        if self._plan.histograms:
            histograms = self._sharded.without_histograms(histogram_rows(step, calls, ids, numbers), ids)
            self.writer.append("histograms", histograms)
        if is_milestone(self._recorded):
            for call in calls:
                if call.key in shares:
                    found = unit_rows(step, call, ids[call.key], shares[call.key], windows[call.key])
                    self.writer.append("units", found)

    def _look_for_scale(self, step: int, values: NDArray[np.float64]) -> None:
        """A loss scale that nobody told of shows where it is taken off: in all weight gradients at once."""
        names = [spec.name for spec in self._specs]
        if "scaled" in self._remarked or not {"weight_grad_norm", "weight_grad_norm_raw"} <= set(names):
            return
        raw, applied = (values[:, names.index(name)] for name in ("weight_grad_norm_raw", "weight_grad_norm"))
        factor = taken_off(raw, applied)
        # Averaging over ranks of which all but one have no gradient divides by their number.
        if factor is not None and factor > world_size():
            self.remark(
                step, "scaled", keeps_scale(f"every weight gradient was divided by {factor:.0f} before its step")
            )

    def _write_coverage(self, recorder: Recorder, records: list[CallRecord]) -> None:
        read = recorder.parameters.keys()
        found = survey(self._layers, records, recorder.uncounted, self._faults, self.scope, read, self.compiled)
        found = [self._sharded.noted(one) for one in found]
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
        return [self._coverage.get(one.layer, one) for one in awaited(self._layers, self.scope)]

    def remark(self, step: int, key: str, text: str) -> None:
        """Say something of the recording, once for each key."""
        if key not in self._remarked:
            self._remarked.add(key)
            self.writer.event(step, text, kind="probe")
            warn_always(text)

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
