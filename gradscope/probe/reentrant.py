"""Reentrant checkpoints: a first pass without gradient, and its recomputation inside the backward pass.

The first pass shows the order of execution; everything else shows only when the calls come again, with gradient. Which
call comes again is told by the numbers that autograd gives its nodes: a checkpoint is a node made before the calls
inside it, and it is the node that runs while they are recomputed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

from gradscope.probe.records import Key

# Calls without gradient that a step may hold on to; most, as those of rollouts, never come again.
MOST = 65_536


@dataclass(frozen=True, eq=False, slots=True)
class Place:
    """A call without gradient.

    Attributes:
        key: Qualified name and number of the call.
        at: Number that the next node of autograd had.
    """

    key: Key
    at: int


class FirstPasses:
    """Calls of a recorded step that were made without gradient."""

    def __init__(self) -> None:
        self._places: deque[Place] = deque(maxlen=MOST)
        self._calls: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    @property
    def in_this_pass(self) -> bool:
        """Whether there were any since the forward pass began."""
        return bool(self._calls)

    def clear(self) -> None:
        """Forget everything."""
        self._places.clear()
        self._calls.clear()

    def begin(self) -> None:
        """Start a forward pass: calls count from 1 again."""
        self._calls.clear()

    def note(self, name: str) -> Key:
        """Note a call of a layer, and return what it is called should it come again."""
        call = self._calls[name] = self._calls.get(name, 0) + 1
        self._places.append(Place((name, call), torch._C._autograd._get_sequence_nr()))
        return name, call

    def note_again(self, name: str) -> None:
        """Note that a call came again without gradient: a checkpoint inside another, whose turn is yet to come."""
        key = self.take(name)
        if key is not None:
            self._places.append(Place(key, torch._C._autograd._get_sequence_nr()))

    def take(self, name: str) -> Key | None:
        """Return which call of a layer comes again now; None if none does."""
        node = torch._C._current_autograd_node()
        if not isinstance(node, BackwardCFunction):
            return None
        made = _number(node)
        found = next((one for one in self._places if one.at > made and one.key[0] == name), None)
        if found is None:
            return None
        self._places.remove(found)
        return found.key

    def hides(self, node: Any) -> bool:
        """Tell whether calls lie hidden inside a node of the graph."""
        return isinstance(node, BackwardCFunction) and bool(self._places) and self._places[-1].at > _number(node)


def _number(node: Any) -> int:
    number: int = node._sequence_nr()
    return number
