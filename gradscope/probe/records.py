"""What a recorded step keeps of its layer calls, and what is known within one forward pass only."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradscope.probe.capture import FLAT_UNITS, HISTOGRAM, MOMENTS, VALUE, Note, Reading
from gradscope.probe.layers import Layer

Key = tuple[str, int]
# Forward passes without a backward pass that a step may hold on to: rollouts with gradient would fill the memory.
WAITING = 256


@dataclass(eq=False, slots=True)
class MicroBatch:
    """One layer call within one forward pass.

    Attributes:
        record: The call, over all micro-batches of the step.
        forward: What the forward pass showed.
        backward: What its gradient showed.
        total: What the gradient of its input showed.
        told: What the next layer says of the gradient of its input.
        sources: Calls whose outputs are first used here.
        own: What it sends back, until the gradient of its input is complete.
        expects: Whether its output needs a gradient.
        fired: How often the gradient arrived.
        provisional: Whether it arrived only while a graph of the gradient was made (``create_graph``): the backward
            pass proper replaces it.
    """

    record: CallRecord
    forward: Reading = field(default_factory=list)
    backward: Reading = field(default_factory=list)
    total: Reading | None = None
    told: Reading | None = None
    sources: list[MicroBatch] = field(default_factory=list)
    own: Tensor | None = None
    expects: bool = False
    fired: int = 0
    provisional: bool = False

    def arrive(self, provisional: bool) -> bool:
        """Note that the output gradient has arrived; tell whether to look at it."""
        if self.fired and provisional and not self.provisional:
            return False
        if self.provisional:
            self.fired = 0
            self.backward, self.total = [], None
        self.fired += 1
        self.provisional = provisional
        return self.fired == 1


@dataclass(eq=False, slots=True)
class CallRecord:
    """What one layer call of the step has shown so far, over all micro-batches.

    Attributes:
        layer: The layer.
        call: 1 for the first call within a forward pass.
        batches: Its micro-batches.
        parents: Calls whose outputs reach this input.
        resolved: Whether everything between this input and the parents was understood.
        activation: Name of its activation function, ``?`` while unknown.
        norm: Normalization before it.
        unit_step: Every how many units one is sampled.
        contributes: Whether what it sends back through its own weights can be told.
    """

    layer: Layer
    call: int
    batches: list[MicroBatch] = field(default_factory=list)
    parents: frozenset[Key] = frozenset()
    resolved: bool = True
    activation: str = "?"
    norm: str = "none"
    unit_step: int = 1
    contributes: bool = True

    @property
    def key(self) -> Key:
        """Qualified name and number of the call."""
        return self.layer.name, self.call

    @property
    def expected(self) -> int:
        """Output gradients that should arrive."""
        return sum(batch.expects for batch in self.batches)

    @property
    def fired(self) -> int:
        """Output gradients that did."""
        return sum(batch.fired for batch in self.batches)

    def open_batch(self) -> MicroBatch:
        """Start a micro-batch."""
        if len(self.batches) >= WAITING:
            idle = next((batch for batch in self.batches if batch.expects and not batch.fired), None)
            if idle is not None:
                self.batches.remove(idle)
        batch = MicroBatch(self)
        self.batches.append(batch)
        return batch

    def reading(self) -> Reading:
        """Everything that counts, over the micro-batches.

        A forward pass that no backward pass followed does not count beside one that did. A gradient that arrived
        twice through one forward pass is a sum whose parts were seen one by one: its norm is not known.
        """
        counted = [batch for batch in self.batches if batch.fired or not batch.expects] or self.batches
        whole: Reading = []
        for batch in counted:
            whole.extend(batch.forward)
        if all(batch.fired <= 1 for batch in counted):
            for batch in counted:
                for part in (batch.backward, batch.total, batch.told):
                    whole.extend(part or ())
        return whole


Notes = dict[str, list[tuple[int, int, int]]]


@dataclass(frozen=True, eq=False)
class FinishedCall:
    """A layer call at the end of the step: where all its numbers lie on the tape.

    Attributes:
        key: Qualified name and number of the call.
        unit_step: Every how many units one is sampled.
        moments: (place, entries, 0) by signal, one for every micro-batch.
        values: (place, weight, 1 for a ratio) by metric.
        histograms: (place, sampled entries, entries) by signal.
        flat_units: (place, samples, units).
    """

    key: Key
    unit_step: int
    moments: Notes
    values: Notes
    histograms: Notes
    flat_units: Notes


def finish(key: Key, unit_step: int, notes: Iterable[Note]) -> FinishedCall:
    """Sort the notes of a call by kind and name."""
    by_kind: dict[str, Notes] = {MOMENTS: {}, VALUE: {}, HISTOGRAM: {}, FLAT_UNITS: {}}
    for kind, name, place, first, second in notes:
        by_kind[kind].setdefault(name, []).append((place, first, second))
    return FinishedCall(key, unit_step, by_kind[MOMENTS], by_kind[VALUE], by_kind[HISTOGRAM], by_kind[FLAT_UNITS])


@dataclass(eq=False)
class ForwardPass:
    """What is known only within one forward pass; dropped at its end, since it keeps the graph alive."""

    products: dict[Any, MicroBatch] = field(default_factory=dict)
    visited: set[Any] = field(default_factory=set)
    memo: dict[Any, frozenset[MicroBatch]] = field(default_factory=dict)
    outputs: dict[MicroBatch, tuple[weakref.ref[Tensor], Tensor]] = field(default_factory=dict)
    provisional: dict[MicroBatch, Reading] = field(default_factory=dict)
    normalized: dict[Any, Reading] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)
    discovering: bool = False
