"""What a recorded step keeps of its layer calls, and what is known within one forward pass only."""

from __future__ import annotations

import weakref
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradscope.probe.capture import Value
from gradscope.probe.layers import Layer
from gradscope.probe.piles import Pile

Key = tuple[str, int]
# A tensor in a pile, and the signal whose statistics it gives.
Note = tuple[Pile, int, str]
# Forward passes without a backward pass that a step may hold on to: rollouts with gradient would fill the memory.
WAITING = 256


class Reading:
    """What one moment of a layer call showed: tensors in piles, and values of metrics on the tape.

    Attributes:
        notes: Tensors in piles.
        values: Values of metrics on the tape.
        arrived: Of a backward pass: whether the gradient of the layer's output was among what it showed.
    """

    __slots__ = ("arrived", "notes", "values")

    def __init__(self, notes: list[Note] | None = None) -> None:
        self.notes: list[Note] = [] if notes is None else notes
        self.values: list[Value] = []
        self.arrived = False

    def extend(self, other: Reading) -> None:
        """Add what another reading holds."""
        self.notes.extend(other.notes)
        self.values.extend(other.values)


class MicroBatch:
    """One layer call within one forward pass.

    Attributes:
        record: The call, over all micro-batches of the step.
        forward: What the forward pass showed.
        backward: What its gradient and that of its input showed, by backward pass.
        told: What the next layer says of the gradient of its input, by backward pass.
        sources: Calls whose outputs are first used here.
        own: What it sends back, until the gradient of its input is complete.
        own_version: Its version, which a change in place counts up.
        expects: Whether its output needs a gradient.
        awaits_total: Whether the gradient of its input will be read once it is complete.
        provisional: Backward passes that only made a graph of the gradient (``create_graph``).
        chosen: Backward passes that count; set when the step ends.
        within: The backward pass inside which it was recomputed (a reentrant checkpoint); -1 for any other call.
        shown: Signals that the gradient of its output stands for.
        told_as: Signals of this call that the gradient of the next layer's input stands for.
        zeroed: Whether all it sent to weights was zeroed before an optimizer applied any.
    """

    __slots__ = (
        "awaits_total",
        "backward",
        "chosen",
        "expects",
        "forward",
        "own",
        "own_version",
        "provisional",
        "record",
        "shown",
        "sources",
        "told",
        "told_as",
        "within",
        "zeroed",
    )

    def __init__(self, record: CallRecord) -> None:
        self.record = record
        self.forward = Reading()
        self.backward: dict[int, Reading] = {}
        self.told: dict[int, Reading] = {}
        self.sources: list[MicroBatch] = []
        self.own: Tensor | None = None
        self.own_version = 0
        self.expects = self.awaits_total = False
        self.provisional: list[int] = []
        self.chosen: list[int] | None = None
        self.within = -1
        self.shown = "output_grad"
        self.told_as = "next_input_grad"
        self.zeroed = False

    @property
    def fired(self) -> int:
        """How often the gradient of its output arrived, in backward passes that count once the step has ended."""
        return len(self._arrived() if self.chosen is None else self.chosen)

    def _arrived(self) -> list[int]:
        return [one for one, reading in self.backward.items() if reading.arrived]

    def choose(self, trained: Set[int], dropped: Set[int] = frozenset()) -> None:
        """Choose the backward passes that count: those that trained something.

        A gradient penalty, an attack on the input or a Hessian product sends gradients through the same layers, and
        leaves no parameter another gradient. Where nothing says what trained, a pass that only made a graph counts less
        than one that did not.

        Args:
            trained: Backward passes in which the gradient of a weight was accumulated.
            dropped: Those of them whose gradients were zeroed before an optimizer applied any.
        """
        arrived = self._arrived()
        if trained:
            self.chosen = [one for one in arrived if one in trained]
            if dropped >= set(self.chosen):  # else somebody may have kept the parts of a sum
                self.zeroed, self.chosen = bool(self.chosen), []
        else:
            self.chosen = [one for one in arrived if one not in self.provisional] or arrived


class CallRecord:
    """What one layer call of the step has shown so far, over all micro-batches.

    Attributes:
        layer: The layer.
        call: 1 for the first call within a forward pass.
        key: Qualified name and number of the call.
        batches: Its micro-batches.
        parents: Calls whose outputs reach this input.
        resolved: Whether everything between this input and the parents was understood.
        activation: Name of its activation function, ``?`` while unknown.
        norm: Normalization before it.
        contributes: Whether what it sends back through its own weights can be told.
        entry: First call that takes in the same tensor, where that is known.
    """

    __slots__ = (
        "activation",
        "batches",
        "call",
        "contributes",
        "entry",
        "key",
        "layer",
        "norm",
        "parents",
        "resolved",
    )

    def __init__(self, layer: Layer, call: int, resolved: bool = True) -> None:
        self.layer, self.call, self.key = layer, call, (layer.name, call)
        self.batches: list[MicroBatch] = []
        self.parents: frozenset[Key] = frozenset()
        self.resolved, self.contributes = resolved, True
        self.activation, self.norm = "?", "none"
        self.entry: Key | None = None

    @property
    def expected(self) -> int:
        """Output gradients that should arrive."""
        kept = [batch for batch in self.batches if not batch.zeroed] or self.batches
        return sum(batch.expects for batch in kept)

    @property
    def fired(self) -> int:
        """Output gradients that did, in backward passes that count."""
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

    def readings(self) -> list[Reading]:
        """Everything that counts, over the micro-batches.

        A forward pass that no backward pass followed does not count beside one that did, whether it could have had one
        or not (a call with other, detached parameters cannot). A gradient that arrived twice through one forward pass
        is a sum whose parts were seen one by one: its norm is not known.
        """
        fired = [batch for batch in self.batches if batch.fired]
        counted = fired or [batch for batch in self.batches if not batch.expects] or self.batches
        found = [batch.forward for batch in counted]
        if all(batch.fired <= 1 for batch in counted):
            for batch in counted:
                for one in batch.chosen or ():
                    found += [reading for reading in (batch.backward[one], batch.told.get(one)) if reading is not None]
        return found


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
    ways: dict[MicroBatch, Any] = field(default_factory=dict)
    origins: dict[MicroBatch, Any] = field(default_factory=dict)
    stretches: dict[Any, Any] = field(default_factory=dict)
    repeated: dict[Any, Any] = field(default_factory=dict)
    entries: dict[Any, CallRecord] = field(default_factory=dict)
    discovering: bool = False


@dataclass(eq=False, slots=True)
class Stage:
    """Where a recorded step is.

    Attributes:
        current: The forward pass that is on, or one that is empty.
        inside: Whether the model's own forward is on.
    """

    current: ForwardPass = field(default_factory=ForwardPass)
    inside: bool = False
