"""What is taken of a layer call at each moment: the plan for the chosen metrics, and the readings it yields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

from torch import Tensor

from gradscope.metrics import Metric
from gradscope.probe.functions import Phi
from gradscope.probe.histograms import HISTOGRAMMED, bin_counts
from gradscope.probe.reduce import Tape, device_moments, flat, host_moments, sample, units
from gradscope.signals import SIGNALS, Phase, Request


class Source(Protocol):
    """Something that can show a signal in one of its forms."""

    def get(self, request: Request) -> Tensor | float | None:
        """Return the signal; None where it is not at hand."""


class Captured:
    """Signals of one moment, by name; forms are made when first asked for."""

    def __init__(self, tensors: dict[str, Tensor | None], unit_dim: int) -> None:
        self._tensors = tensors
        self._unit_dim = unit_dim
        self._forms: dict[tuple[str, str], Tensor] = {}

    def get(self, request: Request) -> Tensor | None:
        """Return the signal, detached; None where it is not at hand."""
        tensor = self._tensors.get(request.signal)
        if tensor is None or request.form in ("", "whole"):
            return None if tensor is None else tensor.detach()
        key = (request.signal, request.form)
        if key not in self._forms:
            self._forms[key] = self._make(tensor, request.form)
        return self._forms[key]

    def _make(self, tensor: Tensor, form: str) -> Tensor:
        if form == "units":
            return units(tensor, self._unit_dim)
        if form == "moments":
            return flat(tensor)
        return sample(flat(tensor), tensor.shape[-1] if tensor.dim() else 1)


class CapturedPhi:
    """Signals of an activation call, computed from what autograd saved of it, on the piece asked for."""

    def __init__(self, phi: Phi, unit_dim: int) -> None:
        self._phi = phi
        self._saved = Captured({"activation": phi.saved}, unit_dim)

    def get(self, request: Request) -> Tensor | float | None:
        """Return the signal; None where it is not at hand."""
        if request.signal == "slope_max":
            return self._phi.slope_max
        if request.signal == "activation_input" and not self._phi.saved_input:
            return None
        piece = self._saved.get(Request("activation", request.form))
        if piece is None or request.signal == "activation_input":
            return piece
        return self._phi.slope(piece) if request.signal == "slope" else self._phi.value(piece)


@dataclass
class Reading:
    """What was taken, by signal or metric; one entry for every micro-batch."""

    moments: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    values: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    histograms: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    flat_units: list[tuple[int, int, int]] = field(default_factory=list)

    def merge(self, other: Reading) -> None:
        """Append what another reading holds."""
        for mine, theirs in ((self.moments, other.moments), (self.values, other.values)):
            for key, entries in theirs.items():
                mine.setdefault(key, []).extend(entries)
        for key, bins in other.histograms.items():
            self.histograms.setdefault(key, []).extend(bins)
        self.flat_units.extend(other.flat_units)


@dataclass(frozen=True)
class Plan:
    """What the chosen metrics need, by phase.

    Attributes:
        metrics: All chosen metrics, in column order.
        moments: Signals whose moments are needed.
        tensor_metrics: Metrics to run on tensors.
        histograms: Whether to count histograms.
    """

    metrics: tuple[Metric, ...]
    moments: dict[Phase, tuple[str, ...]]
    tensor_metrics: dict[Phase, tuple[Metric, ...]]
    histograms: bool

    def needs(self, *signals: str) -> bool:
        """Tell whether anything asks for one of these signals."""
        asked = {request.signal for metric in self.metrics for request in metric.requests}
        return any(signal in asked or (self.histograms and signal in HISTOGRAMMED) for signal in signals)

    def forms(self, signal: str) -> set[str]:
        """Forms in which a signal is asked for."""
        return {request.form for one in self.metrics for request in one.requests if request.signal == signal}


def make_plan(metrics: Sequence[Metric], histograms: bool) -> Plan:
    """Sort what the metrics ask for by phase."""
    moments: dict[Phase, list[str]] = {}
    by_phase: dict[Phase, list[Metric]] = {}
    for metric in metrics:
        if metric.phase is not None:
            by_phase.setdefault(metric.phase, []).append(metric)
            continue
        for request in metric.requests:
            names = moments.setdefault(request.phase, [])
            if request.signal not in names:
                names.append(request.signal)
    return Plan(
        tuple(metrics),
        {phase: tuple(names) for phase, names in moments.items()},
        {phase: tuple(chosen) for phase, chosen in by_phase.items()},
        histograms,
    )


Fault = Callable[[str, Exception], None]


def take(source: Source, phase: Phase, plan: Plan, tape: Tape, fault: Fault, only: tuple[str, ...] = ()) -> Reading:
    """Reduce what a moment shows to numbers on the tape.

    Args:
        source: The signals at hand.
        phase: Which part of the plan to carry out.
        plan: What is needed.
        tape: Where numbers go.
        fault: Called with the metric's name when a metric raises.
        only: Signals to look at, all of the phase by default.
    """
    reading = Reading()
    for signal in plan.moments.get(phase, ()):
        vector = None if only and signal not in only else source.get(Request(signal, "moments"))
        if isinstance(vector, Tensor):
            reading.moments[signal] = [_moments(vector, tape)]
    for metric in plan.tensor_metrics.get(phase, ()):
        if not only or all(request.signal in only for request in metric.requests):
            _measure(metric, source, reading, tape, fault)
    if plan.histograms:
        for quantity in HISTOGRAMMED:
            if SIGNALS[quantity].phase == phase and (not only or quantity in only):
                _count(quantity, source, reading, tape)
    return reading


def _moments(vector: Tensor, tape: Tape) -> tuple[int, int]:
    numbers = host_moments(vector) if vector.device.type == "cpu" else device_moments(vector)
    return vector.numel(), tape.put(*numbers)


def _measure(metric: Metric, source: Source, reading: Reading, tape: Tape, fault: Fault) -> None:
    arguments = [source.get(request) for request in metric.requests]
    if any(argument is None for argument in arguments):
        return
    try:
        slot = tape.put(_number(metric.function(*arguments)))
    except Exception as error:
        fault(metric.name, error)
        return
    first = arguments[0]
    weight = first.numel() if isinstance(first, Tensor) else 1
    reading.values[metric.name] = [(weight, slot)]


def _number(value: object) -> Tensor | float:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"a metric returns one number, not a tensor of shape {tuple(value.shape)}")
        return value.reshape(())
    return float(cast("float", value))


def _count(quantity: str, source: Source, reading: Reading, tape: Tape) -> None:
    piece, whole = source.get(Request(quantity, "sample")), source.get(Request(quantity, "whole"))
    if isinstance(piece, Tensor) and isinstance(whole, Tensor):
        reading.histograms[quantity] = [(tape.put(bin_counts(piece)), piece.numel(), whole.numel())]
