"""What a recorded step keeps: a record of each layer call, and what is known within one forward pass only."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from gradscope.probe.capture import Reading
from gradscope.probe.layers import Layer

Key = tuple[str, int]


@dataclass(eq=False)
class CallRecord:
    """What one layer call of the step has shown so far.

    Attributes:
        layer: The layer.
        call: 1 for the first call within a forward pass.
        reading: Numbers taken, over all micro-batches.
        expected: Output gradients that should arrive.
        fired: Output gradients that did.
        parents: Calls whose outputs reach this input.
        activation: Name of its activation function, ``?`` while unknown.
        norm: Normalization before it.
    """

    layer: Layer
    call: int
    reading: Reading = field(default_factory=Reading)
    expected: int = 0
    fired: int = 0
    parents: frozenset[Key] = frozenset()
    activation: str = "?"
    norm: str = "none"
    unit_step: int = 1

    @property
    def key(self) -> Key:
        """Qualified name and number of the call."""
        return self.layer.name, self.call


@dataclass(eq=False)
class ForwardPass:
    """What is known only within one forward pass; dropped at its end, since it keeps the graph alive."""

    products: dict[Any, CallRecord] = field(default_factory=dict)
    visited: set[Any] = field(default_factory=set)
    memo: dict[Any, frozenset[CallRecord]] = field(default_factory=dict)
    outputs: dict[CallRecord, tuple[weakref.ref[Tensor], Tensor] | None] = field(default_factory=dict)
    provisional: dict[CallRecord, Reading] = field(default_factory=dict)
    normalized: dict[Any, Reading] = field(default_factory=dict)
    calls: dict[int, int] = field(default_factory=dict)
