"""Take what is wanted of tensors at hand: add them to piles, and run the metrics that want the tensors themselves."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gradscope.probe.capture import Captured, FaultHandler, Source, measure
from gradscope.probe.distributed import whole
from gradscope.probe.layers import Layer
from gradscope.probe.piles import Tally
from gradscope.probe.plan import Plan, Program
from gradscope.probe.records import Reading
from gradscope.probe.reduce import Tape

Tensors = Mapping[str, Tensor | None]


class Taker:
    """Takes statistics and runs metrics, for one recorded step.

    Args:
        plan: What to take.
        tally: Where statistics of tensors gather.
        tape: Where numbers of metrics go.
        fault: Called with layer, place and error when a metric fails.
    """

    def __init__(self, plan: Plan, tally: Tally, tape: Tape, fault: FaultHandler) -> None:
        self.plan = plan
        self.wants = plan.statistics
        self.tally = tally
        self.tape = tape
        self.fault = fault
        self._mixes_weights = plan.mixes_weights

    def take(self, program: Program, reading: Reading, layer: Layer, tensors: Tensors) -> None:
        """Take the statistics of the tensors at hand, and run the metrics that want them.

        Args:
            program: What is wanted.
            reading: Extended.
            layer: Whose tensors these are.
            tensors: The signals at hand.
        """
        for signal in program.statistics:
            tensor = tensors.get(signal)
            if tensor is not None:
                self.note(signal, tensor, layer.unit_dim, reading)
        if program.metrics:
            self.measure(program, reading, layer, tensors)

    def note(self, signal: str, tensor: Tensor, unit_dim: int, reading: Reading, target: str | None = None) -> None:
        """Take the statistics of one signal, which may stand for others as well (``target``)."""
        pile, place = self.tally.add((signal,), tensor, unit_dim, self.tape)
        reading.notes.append((pile, place, target or signal))

    def measure(self, program: Program, reading: Reading, layer: Layer, tensors: Tensors) -> None:
        """Run metrics on the tensors at hand; weight and bias always are."""
        # A metric that computes with a DTensor would start collectives that other ranks do not join.
        weights = {"weight": whole(layer.weight), "bias": whole(layer.bias)} if self._mixes_weights else {}
        self.measure_source(program, reading, layer.name, Captured({**tensors, **weights}, layer.unit_dim))

    def measure_source(self, program: Program, reading: Reading, name: str, source: Source) -> None:
        """Run metrics on what a source can show.

        Args:
            program: The metrics.
            reading: Extended.
            name: Whose signals these are, for reports.
            source: The signals.
        """
        measure(program.metrics, source, reading.values, self.tape, name, self.fault)
