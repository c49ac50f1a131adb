"""What the chosen metrics need: statistics by signal, with their places in a table, and metrics that take tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gradscope.metrics import Metric
from gradscope.signals import ANY_PHASE, OVERLAPS, SIGNALS, STATISTICS, Phase
from gradscope.spec import MetricSpec

HISTOGRAMMED = ("activation_input", "output_grad", "weight", "weight_grad")
WIDTHS = {"moments": 4, "squares": 2, "zeros": 2, "small": 2, "power": 2, "spread": 2, "overlap": 2}
Column = tuple[str, str]


@dataclass(frozen=True)
class Program:
    """What to do with the signals of one moment.

    Attributes:
        statistics: Signals of which statistics are wanted.
        metrics: Metrics to run on tensors at once.
    """

    statistics: tuple[str, ...]
    metrics: tuple[Metric, ...]

    def __bool__(self) -> bool:
        return bool(self.statistics or self.metrics)


@dataclass(frozen=True)
class Plan:
    """The chosen metrics, in column order, and whether to count histograms.

    Attributes:
        metrics: Metrics of what a step shows.
        histograms: Whether to count histograms.
        information: Metrics of a fixed sample; their columns come after the others.
    """

    metrics: tuple[Metric, ...]
    histograms: bool
    information: tuple[MetricSpec, ...] = ()
    _programs: dict[tuple[Phase, tuple[str, ...]], Program] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def specs(self) -> tuple[MetricSpec, ...]:
        """What readers know of every column."""
        return (*(metric.spec for metric in self.metrics), *self.information)

    @cached_property
    def statistics(self) -> dict[str, tuple[str, ...]]:
        """Statistics wanted of every signal, ``histogram`` and ``dead`` included."""
        wanted: dict[str, dict[str, None]] = {}
        for metric in self.metrics:
            for request in metric.requests:
                if request.signal in OVERLAPS:
                    wanted.setdefault(request.signal, {})["overlap"] = None
                elif request.signal == "dead_units":
                    wanted.setdefault("slope", {})["dead"] = None
                elif request.form in STATISTICS:
                    wanted.setdefault(request.signal, {})[request.form] = None
        for signal in HISTOGRAMMED if self.histograms else ():
            wanted.setdefault(signal, {})["histogram"] = None
        return {signal: tuple(found) for signal, found in wanted.items()}

    @cached_property
    def columns(self) -> dict[Column, slice]:
        """Where the numbers of a statistic stand in a row of the table."""
        found, start = {}, 0
        for signal, statistics in self.statistics.items():
            for statistic in statistics:
                if statistic in WIDTHS:
                    found[signal, statistic] = slice(start, start + WIDTHS[statistic])
                    start += WIDTHS[statistic]
        return found

    @cached_property
    def width(self) -> int:
        """Numbers in a row of the table."""
        return max((one.stop for one in self.columns.values()), default=0)

    @cached_property
    def tensor_metrics(self) -> tuple[Metric, ...]:
        """Metrics that run on tensors, in the hook."""
        return tuple(one for one in self.metrics if one.phase not in (None, "window"))

    def program(self, phase: Phase, *signals: str) -> Program:
        """What to do when these signals of a phase are at hand; made once."""
        key = (phase, signals)
        if key not in self._programs:
            self._programs[key] = self._compile(phase, signals)
        return self._programs[key]

    def _compile(self, phase: Phase, signals: tuple[str, ...]) -> Program:
        at_hand = {*signals, *ANY_PHASE}
        return Program(
            tuple(name for name in self.statistics if name in signals and SIGNALS[name].phase == phase),
            tuple(one for one in self.metrics if one.phase == phase and _ready(one, signals, at_hand)),
        )

    @cached_property
    def _asked(self) -> frozenset[str]:
        asked = {request.signal for metric in self.metrics for request in metric.requests}
        return frozenset(asked.union(HISTOGRAMMED if self.histograms else ()))

    def needs(self, *signals: str) -> bool:
        """Tell whether anything asks for one of these signals."""
        return not self._asked.isdisjoint(signals)

    @cached_property
    def mixes_weights(self) -> bool:
        """Whether a metric takes a weight or bias together with tensors of a forward or backward pass."""
        asked = [{request.signal for request in one.requests} for one in self.tensor_metrics if one.phase != "step"]
        return any(not signals.isdisjoint(ANY_PHASE) for signals in asked)

    def forms(self, *signals: str) -> set[str]:
        """Forms in which metrics that run on tensors ask for signals."""
        asked = [request for one in self.tensor_metrics for request in one.requests]
        return {request.form for request in asked if request.signal in signals}


def _ready(metric: Metric, signals: Sequence[str], at_hand: set[str]) -> bool:
    asked = {request.signal for request in metric.requests}
    return asked <= at_hand and not asked.isdisjoint(signals)
