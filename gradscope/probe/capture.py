"""What is taken of a layer call at each moment: signals in, numbers on the tape out."""

from __future__ import annotations

from collections.abc import Callable
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


# Where on the tape numbers lie: kind, signal or metric, place, and two whole numbers that the kind gives a meaning.
#   MOMENTS     entries, 0
#   VALUE       entries it was taken of, 1 where the denominator of a ratio lies behind it
#   HISTOGRAM   sampled entries, entries
#   FLAT_UNITS  samples, units
# Plain tuples in plain lists: the collector soon leaves them alone, and a step makes many.
Note = tuple[str, str, int, int, int]
Reading = list[Note]
MOMENTS, VALUE, HISTOGRAM, FLAT_UNITS = "moments", "value", "histogram", "flat units"


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
            reading.append((MOMENTS, signal, tape.put(*moments(vector)), vector.numel(), 0))
    for metric in program.metrics:
        try:
            _measure(metric, source, reading, tape)
        except Exception as error:
            fault(layer, f"metric {metric.name!r}", error)
    for signal in program.histograms:
        piece, whole = source.get(signal, "sample"), source.get(signal, "")
        if isinstance(piece, Tensor) and isinstance(whole, Tensor):
            reading.append((HISTOGRAM, signal, tape.put(bin_counts(piece)), piece.numel(), whole.numel()))


def _measure(metric: Metric, source: Source, reading: Reading, tape: Tape) -> None:
    arguments = []
    for request in metric.requests:
        argument = source.get(request.signal, request.form)
        if argument is None:
            return
        arguments.append(argument)
    value = metric.function(*arguments)
    if value is None:
        return
    is_ratio = isinstance(value, Ratio)
    parts = (value.numerator, value.denominator) if is_ratio else (value,)
    place = tape.put(*map(_number, parts))
    weight = arguments[0].numel() if isinstance(arguments[0], Tensor) else 1
    reading.append((VALUE, metric.name, place, weight, int(is_ratio)))


def _number(value: object) -> Tensor | float:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"a metric returns one number, not a tensor of shape {tuple(value.shape)}")
        return value
    return float(cast("float", value))
