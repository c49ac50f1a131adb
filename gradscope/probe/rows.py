"""Turn what a recorded step took into rows: combine micro-batches, run the metrics of moments, gather windows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.metrics import Metric
from gradscope.probe.capture import FaultHandler
from gradscope.probe.histograms import histogram_row
from gradscope.probe.records import FinishedCall, Key
from gradscope.signals import Moments, pool_moments

WINDOW_SAMPLES = 64
# Which calls a metric has a value for, and the values.
Found = tuple[Sequence[int] | NDArray[np.intp], Sequence[float] | NDArray[np.float64]]


@dataclass(frozen=True)
class Rows:
    """Rows of one step: values and whether they are present, shape (calls, metrics)."""

    values: NDArray[np.float64]
    present: NDArray[np.bool_]


@dataclass
class UnitWindow:
    """Per sampled unit: was the slope zero on every sample of the last recorded steps, at least 64 samples of them?"""

    steps: deque[tuple[int, NDArray[np.bool_]]] = field(default_factory=deque)

    def push(self, samples: int, flat_everywhere: NDArray[np.bool_]) -> None:
        """Add a step and forget those no longer needed to reach 64 samples."""
        if self.steps and self.steps[-1][1].shape != flat_everywhere.shape:
            self.steps.clear()
        self.steps.append((samples, flat_everywhere))
        while self.samples - self.steps[0][0] >= WINDOW_SAMPLES:
            self.steps.popleft()

    @property
    def samples(self) -> int:
        """Samples in the window."""
        return sum(samples for samples, _ in self.steps)

    @property
    def dead(self) -> NDArray[np.bool_] | None:
        """Per unit; None below 64 samples."""
        if self.samples < WINDOW_SAMPLES:
            return None
        found: NDArray[np.bool_] = np.all([flat for _, flat in self.steps], axis=0)
        return found


def build_rows(
    calls: Sequence[FinishedCall],
    metrics: Sequence[Metric],
    numbers: NDArray[np.float64],
    dead: Mapping[Key, NDArray[np.bool_]],
    fault: FaultHandler,
) -> Rows:
    """Evaluate every metric on every call."""
    values = np.full((len(calls), len(metrics)), np.nan)
    present = np.zeros(values.shape, dtype=np.bool_)
    moments = _Moments(calls, numbers)
    for column, metric in enumerate(metrics):
        try:
            if metric.phase is None:
                which, found = _of_moments(metric, moments)
            elif metric.phase == "window":
                which, found = _of_windows(metric, calls, dead)
            else:
                which, found = _of_tensors(metric, calls, numbers)
            values[which, column], present[which, column] = found, True
        except Exception as error:
            fault("all layers", f"metric {metric.name!r}", error)
    return Rows(values, present)


class _Moments:
    """Moments of the calls, pooled over micro-batches, once for all metrics."""

    def __init__(self, calls: Sequence[FinishedCall], numbers: NDArray[np.float64]) -> None:
        self._calls = calls
        self._numbers = numbers
        self._pooled: dict[str, NDArray[np.float64]] = {}

    def pooled(self, signal: str) -> NDArray[np.float64]:
        """Shape (calls, 4); a row of NaN counts where the signal was not seen."""
        if signal not in self._pooled:
            self._pooled[signal] = np.asarray([self._one(call, signal) for call in self._calls])
        return self._pooled[signal]

    def _one(self, call: FinishedCall, signal: str) -> tuple[float, float, float, float]:
        parts = call.moments.get(signal)
        if not parts:
            return (-1.0, 0.0, 0.0, 0.0)
        numbers = self._numbers
        return pool_moments([(count, numbers[at], numbers[at + 1], numbers[at + 2]) for at, count, _ in parts])


def _of_moments(metric: Metric, moments: _Moments) -> Found:
    tables = [moments.pooled(request.signal) for request in metric.requests]
    # An empty tensor has no norm and no mean.
    which = np.flatnonzero(np.all([table[:, 0] > 0 for table in tables], axis=0))
    arguments = [Moments(*(table[which, part] for part in range(4))) for table in tables]
    return which, np.asarray(metric.function(*arguments), dtype=np.float64)


def _of_tensors(metric: Metric, calls: Sequence[FinishedCall], numbers: NDArray[np.float64]) -> Found:
    which, found = [], []
    for row, call in enumerate(calls):
        parts = [
            (weight, numbers[at] / numbers[at + 1] if ratio else numbers[at])
            for at, weight, ratio in call.values.get(metric.name, ())
            if not ratio or numbers[at + 1] != 0
        ]
        if parts:
            which.append(row)
            weights = np.asarray([weight for weight, _ in parts], dtype=np.float64)
            values = np.asarray([value for _, value in parts])
            found.append(_combine(metric.spec.combine, values, weights))
    return which, found


def _combine(how: str, values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    if len(values) == 1:
        return float(values[0])
    if how == "rss":
        return float(np.sqrt(np.sum(values**2)))
    if how == "max":
        return float(np.max(values))
    if not weights.any():
        return float("nan")
    if how == "rms":
        return float(np.sqrt(np.average(values**2, weights=weights)))
    return float(np.average(values, weights=weights))


def _of_windows(metric: Metric, calls: Sequence[FinishedCall], dead: Mapping[Key, NDArray[np.bool_]]) -> Found:
    which = [row for row, call in enumerate(calls) if call.key in dead]
    return which, [float(metric.function(dead[calls[row].key])) for row in which]


def push_windows(
    calls: Sequence[FinishedCall], numbers: NDArray[np.float64], windows: dict[Key, UnitWindow]
) -> dict[Key, NDArray[np.float64]]:
    """Add the step to the windows of its calls; return the share of flat samples by unit."""
    shares: dict[Key, NDArray[np.float64]] = {}
    for call in calls:
        taken = call.flat_units.get("slope", [])
        parts = [part for part in taken if part[2] == taken[0][2]]
        if not parts:
            continue
        samples = sum(count for _, count, _ in parts)
        total = sum(count * numbers[at : at + units] for at, count, units in parts)
        shares[call.key] = np.asarray(total, dtype=np.float64) / max(samples, 1)
        windows.setdefault(call.key, UnitWindow()).push(samples, shares[call.key] == 1.0)
    return shares


def unit_rows(
    step: int,
    call: FinishedCall,
    call_id: int,
    share: NDArray[np.float64],
    window: UnitWindow,
) -> list[dict[str, Any]]:
    """Rows of ``units/`` for one call; ``dead`` is null below 64 samples."""
    dead = window.dead
    return [
        {
            "step": step,
            "id": call_id,
            "unit": place * call.unit_step,
            "samples": window.samples,
            "flat_fraction": float(share[place]),
            "dead": None if dead is None else bool(dead[place]),
        }
        for place in range(len(share))
    ]


def histogram_rows(
    step: int, calls: Sequence[FinishedCall], ids: Mapping[Key, int], numbers: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Rows of ``histograms/``."""
    return [
        histogram_row(step, ids[call.key], quantity, parts, numbers)
        for call in calls
        for quantity, parts in call.histograms.items()
    ]
