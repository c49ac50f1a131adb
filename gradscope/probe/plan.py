"""What the chosen metrics need, sorted by the moment at which it is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradscope.metrics import Metric
from gradscope.probe.histograms import HISTOGRAMMED
from gradscope.signals import ANY_PHASE, SIGNALS, Phase


@dataclass(frozen=True)
class Program:
    """What to do with the signals of one moment.

    Attributes:
        moments: Signals whose moments to take.
        metrics: Metrics to run on tensors.
        histograms: Signals to count.
    """

    moments: tuple[str, ...]
    metrics: tuple[Metric, ...]
    histograms: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.moments or self.metrics or self.histograms)


@dataclass(frozen=True)
class Plan:
    """The chosen metrics, in column order, and whether to count histograms."""

    metrics: tuple[Metric, ...]
    histograms: bool
    _programs: dict[tuple[Phase, tuple[str, ...]], Program] = field(default_factory=dict, compare=False, repr=False)

    def program(self, phase: Phase, *signals: str) -> Program:
        """What to do when these signals of a phase are at hand; made once."""
        key = (phase, signals)
        if key not in self._programs:
            self._programs[key] = self._compile(phase, signals)
        return self._programs[key]

    def _compile(self, phase: Phase, signals: tuple[str, ...]) -> Program:
        asked = dict.fromkeys(request.signal for one in self.metrics if one.phase is None for request in one.requests)
        at_hand = {*signals, *ANY_PHASE}
        return Program(
            tuple(name for name in asked if name in signals and SIGNALS[name].phase == phase),
            tuple(one for one in self.metrics if one.phase == phase and _ready(one, signals, at_hand)),
            tuple(
                name for name in HISTOGRAMMED if self.histograms and name in signals and SIGNALS[name].phase == phase
            ),
        )

    def needs(self, *signals: str) -> bool:
        """Tell whether anything asks for one of these signals."""
        asked = {request.signal for metric in self.metrics for request in metric.requests}
        return any(signal in asked or (self.histograms and signal in HISTOGRAMMED) for signal in signals)

    @property
    def mixes_weights(self) -> bool:
        """Whether a metric takes a weight or bias together with tensors of a forward or backward pass."""
        asked = [{request.signal for request in one.requests} for one in self.metrics if one.phase != "step"]
        return any(not signals.isdisjoint(ANY_PHASE) for signals in asked)

    def forms(self, signal: str) -> set[str]:
        """Forms in which a signal is asked for."""
        return {request.form for one in self.metrics for request in one.requests if request.signal == signal}


def _ready(metric: Metric, signals: Sequence[str], at_hand: set[str]) -> bool:
    asked = {request.signal for request in metric.requests}
    return asked <= at_hand and not asked.isdisjoint(signals)
