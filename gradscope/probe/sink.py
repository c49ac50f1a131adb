"""Where a recorded step ends: its numbers become rows of the run, its gaps become coverage."""

from __future__ import annotations

import logging
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gradscope.probe import reduce
from gradscope.probe.backlog import Backlog, Step
from gradscope.probe.coverage import (
    IN_EVALUATION,
    WITHOUT_GRADIENT,
    Coverage,
    Moved,
    awaited,
    coverage_rows,
    moved_layers,
    survey,
)
from gradscope.probe.distributed import world_size
from gradscope.probe.information import Informant, Measured
from gradscope.probe.layers import Layer
from gradscope.probe.loss_scale import keeps_scale
from gradscope.probe.plan import Plan
from gradscope.probe.recorder import Recorder
from gradscope.probe.records import CallRecord, Reading
from gradscope.probe.reduce import Tape
from gradscope.probe.scale_notes import Resolve
from gradscope.probe.scaling import taken_off
from gradscope.probe.sharded import ShardedLayers
from gradscope.probe.table import LayerTable
from gradscope.probe.tiers import Scope
from gradscope.runs import Writer
from gradscope.runs.given import warn_always

_log = logging.getLogger("gradscope.probe")
PENDING_SCALARS = 1000


class Sink:
    """Writes recorded steps, scalars, events and faults of one probe."""

    def __init__(
        self,
        writer: Writer,
        plan: Plan,
        layers: tuple[Layer, ...],
        scope: Scope | None = None,
        informant: Informant | None = None,
    ) -> None:
        self.writer = writer
        self.scope = scope or Scope()
        self.compiled = False
        self.table = LayerTable(writer.layers)
        self._plan = plan
        self._layers = layers
        self._sharded = ShardedLayers(layers, plan.metrics)
        self.backlog = Backlog(writer, plan, _weakly(self.fault), _weakly(self._look_for_scale))
        self.tally = self.backlog.tally
        self._coverage: dict[str, Coverage] = {}
        self._faults: dict[str, str] = {}
        self._failed: dict[tuple[str, str], tuple[int, int]] = {}
        self._seen: list[object] = []
        self._remarked: set[str] = set()
        names = [metric.name for metric in plan.metrics]
        both = ("weight_grad_norm_raw", "weight_grad_norm")
        self._norms = tuple(map(names.index, both)) if set(both) <= set(names) else None
        self._pending: list[tuple[int, str, Tensor]] = []
        self._recorded = 0
        # Why no call counted, as long as none did; None from the first that does.
        self._unseen: set[str] | None = set()
        self._informant = informant
        if informant is not None and self._sharded.exist:
            # A forward pass of a sharded model waits for all ranks, and this may be the only one that is watched.
            self._informant = None
            self.remark(writer.next_step, "sample", "sample= is not measured: the parameters are sharded over ranks")
        # Asked for at every step, and so no call.
        self.sample_every = self._informant.every if self._informant is not None else 0

    def write(self, recorder: Recorder, *, skipped: bool = False, scales: Resolve | None = None) -> float:
        """Take in a step; its one transfer from the device happens here, its rows are made with those of others.

        Args:
            recorder: The step.
            skipped: Whether it was cut short; `scales` know what a scaler skipped.
            scales: What its gradients carry of the loss scale; None where there is none.

        Returns:
            Seconds that the fixed sample took, where it was due.
        """
        recorder.finish()
        records = list(recorder.records.values())
        readings = [recorder.readings(record) for record in records]
        if not self.tally.is_on_host:
            self.tally.settle(recorder.tape)
        numbers = self.fetch_scalars(recorder.tape)
        self.tally.fetch(numbers)
        if self.table.update(records):
            self.writer.describe(self.table.specs)
        measured, aside = self._measured(recorder.step)
        if records:
            self._take_in(recorder.step, records, readings, numbers, skipped, scales, measured)
        else:
            self.backlog.settle()  # parameters were read for no call
        if self._unseen is not None:
            is_seen = any(record.batches for record in records)
            self._unseen = None if is_seen else self._unseen.union(recorder.uncounted.values())
        self._write_coverage(recorder, records)
        self._recorded += 1
        self.tally.exact_shares = is_milestone(self._recorded)
        self.writer.tick()
        return aside

    def measure(self, step: int) -> float:
        """Measure the fixed sample after a step that is not recorded; return the seconds it took."""
        measured, aside = self._measured(step)
        calls = [one for one in self.table.specs if one.id in measured]
        if calls:
            values: dict[tuple[int, int], float] = {}
            for row, one in enumerate(calls):
                values |= self.backlog.measured(row, measured[one.id])
            keys = tuple((one.layer, one.call) for one in calls)
            ids = np.asarray([one.id for one in calls], dtype=np.int32)
            ended = Step(step, keys, ids, None, skipped=False, values=values, is_milestone=False)
            self.backlog.add(ended, [[]] * len(calls), self._sharded)
        return aside

    def _measured(self, step: int) -> tuple[Measured, float]:
        if self._informant is None or step % self._informant.every:
            return {}, 0.0
        start = time.perf_counter()
        try:
            found = self._informant.measure(self.table.specs)
            self._note(step, self._informant.unmeasured)
        except Exception as error:
            self.fault(step, "all layers", "measuring the sample", error)
            found = {}
        return found, time.perf_counter() - start

    def _take_in(
        self,
        step: int,
        records: list[CallRecord],
        readings: list[list[Reading]],
        numbers: NDArray[np.float64],
        skipped: bool,
        scales: Resolve | None,
        measured: Measured,
    ) -> None:
        by_call = scales(numbers) if scales is not None else None
        values: dict[tuple[int, int], float] = {}
        for row, found in enumerate(readings if self._plan.tensor_metrics else ()):
            taken = [value for reading in found for value in reading.values]
            values.update(self.backlog.values(taken, numbers, row))
        keys = tuple(record.key for record in records)
        ids = [self.table.ids[key] for key in keys]
        for row, one in enumerate(ids if measured else ()):
            values |= self.backlog.measured(row, measured.get(one, {}))
        ended = Step(
            step=step,
            keys=keys,
            ids=np.asarray(ids, dtype=np.int32),
            scales=None if by_call is None else [by_call[key] for key in keys],
            skipped=skipped,
            values=values,
            is_milestone=is_milestone(self._recorded),
        )
        self.backlog.add(ended, readings, self._sharded)

    def settle(self) -> None:
        """Make the rows of all steps that have ended, and fetch the scalars that wait on a device."""
        self.backlog.make_rows()
        self.fetch_scalars()

    def _look_for_scale(
        self, steps: NDArray[np.int64], values: NDArray[np.float64], present: NDArray[np.bool_]
    ) -> None:
        """A loss scale that nobody told of shows where it is taken off: in all weight gradients at once."""
        if "scaled" in self._remarked or self._norms is None:
            return
        raw, applied = (np.where(present[:, column], values[:, column], np.nan) for column in self._norms)
        with np.errstate(divide="ignore", invalid="ignore"):
            suspects = np.unique(steps[raw > 1.4 * applied])
        for step in suspects.tolist():
            factor = taken_off(raw[steps == step], applied[steps == step])
            # Ranks divide a gradient by their number.
            if factor is not None and factor > world_size():
                text = f"every weight gradient was divided by {factor:.0f} before its step"
                self.remark(step, "scaled", keeps_scale(text))
                return

    def _write_coverage(self, recorder: Recorder, records: list[CallRecord]) -> None:
        seen = self._glance(recorder, records)
        if seen == self._seen:
            return
        self._seen = seen
        read = recorder.parameters.keys()
        seen_weights = recorder.computed.names
        found = survey(
            self._layers, records, recorder.uncounted, self._faults, self.scope, read, self.compiled, seen_weights
        )
        found = [self._sharded.noted(one) for one in found]
        changed = [one for one in found if self._coverage.get(one.layer) != one]
        if changed:
            self.writer.append("coverage", coverage_rows(recorder.step, changed))
        self._coverage = {one.layer: one for one in found}

    def _glance(self, recorder: Recorder, records: list[CallRecord]) -> list[object]:
        """All that coverage depends on, as far as it changes between steps."""
        calls = [
            (one.key, one.activation, one.contributes, [(batch.expects, batch.fired) for batch in one.batches])
            for one in records
        ]
        trains = [_trains(layer) for layer in self._layers]
        weights = [set(recorder.computed.names), len(recorder.parameters)]
        return [calls, trains, len(self._faults), dict(recorder.uncounted), *weights, self.compiled]

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

    def coverage(self, moved: Moved) -> list[Coverage]:
        """What the last recorded step showed of every layer, and what has come to the model or left it since."""
        found = [self._coverage.get(one.layer, one) for one in awaited(self._layers, self.scope)]
        return [*(one for one in found if one.layer not in moved), *moved_layers(moved)]

    def note_moved(self, step: int, moved: Moved) -> None:
        """Write what has come to the model or left it; what is not recorded is warned of, unless layers were chosen."""
        self.writer.append("coverage", coverage_rows(step, moved_layers(moved)))
        added = [name for name, (code, _) in moved.items() if code == "added"]
        if added and not self.scope.left_out:
            text = f"these layers came to the model after it was watched, and were not recorded: {', '.join(added)}"
            self.remark(step, "added", text)

    def name_unseen(self, step: int, error: str | None) -> None:
        """Say why a run holds no activation and no error signal, where the training never let one be seen."""
        causes = (self._unseen or set()).intersection({IN_EVALUATION, WITHOUT_GRADIENT})
        if causes and "boundaries" in self.scope.tiers:
            count = f"{self._recorded} recorded {'step' if self._recorded == 1 else 'steps'}"
            why = "; or ".join(sorted(causes))
            text = f"no activation and no error signal was recorded in {count}: the layers were {why}"
            self.writer.event(step, text, kind="probe")
            if error is None:  # a training that failed says so itself
                warn_always(text)

    def remark(self, step: int, key: str, text: str) -> None:
        """Say something of the recording, once for each key."""
        if key not in self._remarked:
            self._remarked.add(key)
            self.writer.event(step, text, kind="probe")
            warn_always(text)

    def _note(self, step: int, unmeasured: Mapping[str, str]) -> None:
        """Keep in the run why layers lack metrics of the sample: an event, and no warning, for nothing went wrong."""
        new = {name: text for name, text in unmeasured.items() if f"sample {name}" not in self._remarked}
        if new:
            self._remarked.update(f"sample {name}" for name in new)
            self.writer.event(step, f"of the fixed sample: {'; '.join(new.values())}", kind="probe")

    def fault(self, step: int, layer: str, where: str, error: Exception) -> None:
        """Report an error of ours once, and count it; the training never sees it."""
        times, _ = self._failed.get((layer, where), (0, step))
        self._failed[layer, where] = times + 1, step
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

    def count_faults(self) -> None:
        """Write an event for every error that came more than once: how often, and when last."""
        for (layer, where), (times, last) in self._failed.items():
            if times > 1:
                text = f"layer {layer}: {where} failed {times} times, last at step {last}"
                self.writer.event(last, text, kind="probe")
        self._failed.clear()


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """What outlives the sink must not keep it, and the model, alive."""
    found = weakref.WeakMethod(method)

    def call(*args: Any) -> None:
        alive = found()
        if alive is not None:
            alive(*args)

    return call


def _trains(layer: Layer) -> list[tuple[str, bool, bool]]:
    parameters = [(name, one) for name, one in layer.module._parameters.items() if one is not None]
    return [(name, one.requires_grad, one.grad is None) for name, one in parameters]


def is_milestone(recorded: int) -> bool:
    """0, then 1, 2 or 5 and zeros: rows by unit are kept for these recorded steps, so that they do not grow with time.

    >>> [count for count in range(1000) if is_milestone(count)]
    [0, 1, 2, 5, 10, 20, 50, 100, 200, 500]
    """
    digits = str(recorded)
    return recorded == 0 or (digits[0] in "125" and not digits[1:].strip("0"))
