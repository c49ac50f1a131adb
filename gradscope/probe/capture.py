"""Metrics that run on tensors: signals of one moment in, numbers on the tape out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor

from gradscope.metrics import Metric, Ratio
from gradscope.probe.functions import Phi
from gradscope.probe.reduce import Tape, flat, sample, units

FaultHandler = Callable[[str, str, Exception], None]


class Source(Protocol):
    """Something that can show a signal in one of its forms."""

    def get(self, signal: str, form: str) -> Tensor | float | None:
        """Return the signal; None where it is not at hand.

        Forms are those of ``gradscope.signals``, and ``flat``: all entries in one float vector.
        """


class Captured:
    """Signals of one moment, by name; forms are made when first asked for."""

    def __init__(self, tensors: Mapping[str, Tensor | None], unit_dim: int) -> None:
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


@dataclass(frozen=True, slots=True)
class Value:
    """Where on the tape the number of a metric lies.

    Attributes:
        metric: Its name.
        place: Where.
        weight: Entries it was taken of.
        is_ratio: Whether the denominator of a ratio lies behind it.
    """

    metric: str
    place: int
    weight: int
    is_ratio: bool


def measure(
    metrics: Iterable[Metric], source: Source, values: list[Value], tape: Tape, layer: str, fault: FaultHandler
) -> None:
    """Run metrics on the tensors at hand.

    Args:
        metrics: What to run.
        source: The signals at hand.
        values: Extended.
        tape: Where numbers go.
        layer: Whose signals these are, for reports.
        fault: Called when a metric raises.
    """
    for metric in metrics:
        try:
            _measure(metric, source, values, tape)
        except Exception as error:
            fault(layer, f"metric {metric.name!r}", error)


def _measure(metric: Metric, source: Source, values: list[Value], tape: Tape) -> None:
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
    values.append(Value(metric.name, place, weight, is_ratio))


def _number(value: object) -> Tensor | float:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"a metric returns one number, not a tensor of shape {tuple(value.shape)}")
        return value
    return float(cast("float", value))
