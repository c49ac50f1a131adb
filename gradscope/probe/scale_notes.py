"""What a recorded step shows of the loss scale, noted as places on its tape until the tape is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from gradscope.probe.records import CallRecord, Key
from gradscope.probe.scaling import Scales

Resolve = Callable[[NDArray[np.float64]], dict[Key, Scales]]


class ScaleNotes:
    """What a step shows: numbers are places on its tape, parameters are ids.

    Attributes:
        stretches: For each stretch of the step under one scale: the scale, and the calls that received a gradient.
        counts: Gradients received by each call up to the last of these.
        left: By parameter, what its gradient carries when it is applied.
        found: By the parameters of an optimizer, whether an entry was NaN or infinite.
        unscaled: Parameters whose gradients have been unscaled.
        unknown: Parameters of which it cannot be told.
        scaled: Whether there is anything to undo.
    """

    def __init__(self) -> None:
        self.stretches: list[tuple[int, frozenset[Key]]] = []
        self.counts: dict[Key, int] = {}
        self.left: dict[int, int] = {}
        self.found: list[tuple[frozenset[int], int]] = []
        self.unscaled: frozenset[int] = frozenset()
        self.unknown: frozenset[int] = frozenset()
        self.scaled = False

    def resolver(self, records: Mapping[Key, CallRecord]) -> Resolve:
        """Return what turns the numbers of the tape into the scales of each call."""
        owners = {key: (id(one.layer.weight), id(one.layer.bias)) for key, one in records.items()}

        def resolve(numbers: NDArray[np.float64]) -> dict[Key, Scales]:
            return {key: self._scales(key, mine, numbers) for key, mine in owners.items()}

        return resolve

    def _scales(self, key: Key, mine: tuple[int, int], numbers: NDArray[np.float64]) -> Scales:
        weight, bias = (float(numbers[self.left[one]]) if one in self.left else 1.0 for one in mine)
        error = {float(numbers[place]) for place, fired in self.stretches if key in fired}
        # Where no hook fires, as in compiled code, the weight gradient still carries the scale of its backward pass.
        error = error or {float(numbers[place]) for place, _ in self.stretches} or {1.0}
        told = len(error) == 1 and self.unknown.isdisjoint(mine)
        carried = error.pop() if told else float("nan")
        # The gradient of a computed weight is what the backward pass left: no optimizer holds it.
        weight = carried if mine[0] == id(None) else weight
        return Scales(carried, weight, bias, self._skipped(mine, numbers))

    def _skipped(self, mine: tuple[int, int], numbers: NDArray[np.float64]) -> bool:
        found = [(parameters, numbers[place] != 0) for parameters, place in self.found]
        own = [one for parameters, one in found if not parameters.isdisjoint(mine)]
        return any(own) if own else bool(found) and all(one for _, one in found)
