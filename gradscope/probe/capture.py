"""What is taken of a layer call at each moment: signals in, numbers on the tape out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

from torch import Tensor

from gradscope.metrics import Metric, Ratio
from gradscope.probe.functions import Phi
from gradscope.probe.histograms import bin_counts
from gradscope.probe.plan import Program
from gradscope.probe.reduce import Tape, flat, moments, sample, units

FaultHandler = Callable[[str, str, Exception], None]


class Source(Protocol):
    """Something that can show a signal in one of its forms."""

    def get(self, signal: str, form: str) -> Tensor | float | None:
        """Return the signal; None where it is not at hand.

        Forms are those of ``gradscope.signals``, and ``flat``: all entries in one float vector.
        """


class Captured:
    """Signals of one moment, by name; forms are made when first asked for."""

    def __init__(self, tensors: dict[str, Tensor | None], unit_dim: int) -> None:
        self._tensors = tensors
        self._unit_dim = unit_dim
        self._forms: dict[tuple[str, str], Tensor] = {}

    def get(self, signal: str, form: str) -> Tensor | None:
        """Return the signal, detached; None where it is not at hand."""
        tensor = self._tensors.get(signal)
        if tensor is None:
            return None
        if form == "":
            return tensor.detach()
        key = (signal, form)
        made = self._forms.get(key)
        if made is None:
            made = self._forms[key] = self._make(tensor, signal, form)
        return made

    def _make(self, tensor: Tensor, signal: str, form: str) -> Tensor:
        if form == "flat":
            return flat(tensor)
        if form == "units":
            return units(tensor, self._unit_dim)
        vector = self.get(signal, "flat")
        assert vector is not None
        return sample(vector, tensor.shape[-1] if tensor.dim() else 1)


class CapturedPhi:
    """Signals of an activation call, computed from what autograd saved of it, on the piece asked for."""

    def __init__(self, phi: Phi, unit_dim: int) -> None:
        self._phi = phi
        self._saved = Captured({"saved": phi.saved}, unit_dim)

    def get(self, signal: str, form: str) -> Tensor | float | None:
        """Return the signal; None where it is not at hand."""
        if signal == "slope_max":
            return self._phi.slope_max
        if signal == "activation_input" and not self._phi.saved_input:
            return None
        piece = self._saved.get("saved", form)
        if piece is None or signal == "activation_input":
            return piece
        return self._phi.slope(piece) if signal == "slope" else self._phi.value(piece)


@dataclass
class Reading:
    """Where on the tape the numbers lie, by signal or metric; one entry for every micro-batch.

    Attributes:
        moments: (entries, place) by signal.
        values: (weight, place of numerator and denominator) by metric.
        histograms: (place, sampled entries, entries) by signal.
        flat_units: (samples, units, place) of the share of samples at which a unit is flat.
    """

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


def take(program: Program, source: Source, reading: Reading, tape: Tape, layer: str, fault: FaultHandler) -> None:
    """Reduce what a moment shows to numbers on the tape, and note in the reading where they lie.

    Args:
        program: What to do.
        source: The signals at hand.
        reading: Extended.
        tape: Where numbers go.
        layer: Whose signals these are, for reports.
        fault: Called when a metric raises.
    """
    for signal in program.moments:
        vector = source.get(signal, "flat")
        if isinstance(vector, Tensor):
            reading.moments.setdefault(signal, []).append((vector.numel(), tape.put(*moments(vector))))
    for metric in program.metrics:
        try:
            _measure(metric, source, reading, tape)
        except Exception as error:
            fault(layer, f"metric {metric.name!r}", error)
    for signal in program.histograms:
        piece, whole = source.get(signal, "sample"), source.get(signal, "")
        if isinstance(piece, Tensor) and isinstance(whole, Tensor):
            counted = (tape.put(bin_counts(piece)), piece.numel(), whole.numel())
            reading.histograms.setdefault(signal, []).append(counted)


def _measure(metric: Metric, source: Source, reading: Reading, tape: Tape) -> None:
    arguments = [source.get(request.signal, request.form) for request in metric.requests]
    if any(argument is None for argument in arguments):
        return
    value = metric.function(*arguments)
    if value is None:
        return
    # A plain number is a ratio to 1.
    whole = Ratio(value, 1.0) if not isinstance(value, Ratio) else value
    place = tape.put(_number(whole.numerator))
    tape.put(_number(whole.denominator))
    first = arguments[0]
    weight = first.numel() if isinstance(first, Tensor) else 1
    reading.values.setdefault(metric.name, []).append((weight, place))


def _number(value: object) -> Tensor | float:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"a metric returns one number, not a tensor of shape {tuple(value.shape)}")
        return value
    return float(cast("float", value))
