"""Record what follows a layer call: its normalization, its activation function and the values of that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from gradscope.probe.arrivals import Arrivals
from gradscope.probe.between import Between
from gradscope.probe.capture import Captured, CapturedPhi
from gradscope.probe.following import Way, find_phi, is_bypassed, read_way
from gradscope.probe.functions import Phi
from gradscope.probe.piles import PHI
from gradscope.probe.records import ForwardPass, Key, MicroBatch, Reading
from gradscope.probe.replay import Found, Origin, phi_of
from gradscope.probe.taking import Taker


class Succession:
    """Reads off, for one recorded step, what lies between calls.

    Args:
        taker: Takes what is wanted of tensors.
        arrivals: Records gradients around activation functions.
        known: Calls whose parents are known, with the names of their activation functions.
    """

    def __init__(self, taker: Taker, arrivals: Arrivals, known: Mapping[Key, str]) -> None:
        plan = taker.plan
        self.wants_phi = plan.needs("activation", "slope", "slope_max", "activation_input", "dead_units")
        self.of_u = plan.program("forward", "activation_input")
        self._taker = taker
        self._between = Between(taker, arrivals)
        self._known = known
        self._tallies_phi = any(one in taker.wants for one in ("activation", "slope"))
        self._of_phi = plan.program("activation", "activation", "slope", "slope_max")

    def normalized(self, current: ForwardPass, output: object, unit_dim: int) -> None:
        """Note what a normalization module returned: the activation function may receive it and change it in place."""
        if self.of_u and isinstance(output, Tensor) and output.grad_fn is not None:
            reading = Reading()
            if "activation_input" in self.of_u.statistics:
                self._taker.note("activation_input", output, unit_dim, reading)
            self._taker.measure_source(self.of_u, reading, "?", Captured({"activation_input": output}, unit_dim))
            current.normalized[output.grad_fn] = reading

    def used_again(self, current: ForwardPass, nodes: Iterable[Any]) -> None:
        """Learn of nodes of which another path makes use as well."""
        if self._between.wanted:
            for node in nodes:
                self._between.used_again(current, node)

    def resolve(
        self, current: ForwardPass, batch: MicroBatch, path: tuple[Any, ...], end: Tensor, is_input: bool = True
    ) -> bool:
        """Read off what follows a call on the way to ``end``: normalization, activation function, its values.

        Args:
            current: The forward pass.
            batch: The call.
            path: Nodes between, nearest to the call first.
            end: The tensor at the next use.
            is_input: Whether that is a layer.

        Returns:
            Whether everything on the way was understood.
        """
        record, seen = batch.record, current.outputs.get(batch)
        way = current.ways[batch] = read_way(path, seen is not None)
        record.norm = way.norm
        phi = self._find_phi(current, batch, way, path, end)
        if self.of_u:
            self._merge_u(current, batch, way, phi)
        self._between.follow(current, batch, way, path, is_input)
        if phi is None:
            return way.understood
        layer, taker = record.layer, self._taker
        if self._tallies_phi:
            pile, place = taker.tally.add_phi(phi, layer.unit_dim, taker.tape)
            batch.forward.notes.append((pile, place, PHI))
        if self._of_phi.metrics:
            taker.measure_source(self._of_phi, batch.forward, layer.name, CapturedPhi(phi, layer.unit_dim))
        return way.understood

    def _find_phi(
        self, current: ForwardPass, batch: MicroBatch, way: Way, path: tuple[Any, ...], end: Tensor
    ) -> Phi | None:
        record = batch.record
        settled = self._known.get(record.key, "?") != "?"
        if not settled and is_bypassed(way, path, current.products, batch):
            # z also reaches the end around phi, as in z * sigmoid(z): together they are another function.
            record.activation = "?"
            return None
        try:
            record.activation, phi = find_phi(way, end, current.outputs.get(batch))
        except RuntimeError as error:
            # Changed in place since: back-propagation will fail on it too.
            self._taker.fault(record.layer.name, "saved activation", error)
            record.activation, phi = "?", None
        return phi

    def _merge_u(self, current: ForwardPass, batch: MicroBatch, way: Way, phi: Phi | None) -> None:
        if phi is not None and phi.saved_input:
            self._taker.take(self.of_u, batch.forward, batch.record.layer, {"activation_input": phi.saved})
        elif way.direct and way.norm == "none" and batch in current.provisional:
            batch.forward.extend(current.provisional[batch])
        elif way.direct and way.norm_node in current.normalized:
            batch.forward.extend(current.normalized[way.norm_node])

    def repeat(self, current: ForwardPass, origin: Origin, found: Found, entry: Tensor) -> bool:
        """Record what follows a call by what is known of it; tell whether that could be done.

        Args:
            current: The forward pass.
            origin: What is known.
            found: The nodes on the way.
            entry: Where the way ends.
        """
        parent = found.parent
        assert parent is not None
        if origin.has_phi and self._tallies_phi:
            unit_dim = parent.record.layer.unit_dim
            added = self._taker.tally.add_value(origin.name, entry, unit_dim) if entry._version == 0 else None
            if added is None:
                try:
                    phi = phi_of(origin.name, found.nodes[0], entry)
                except RuntimeError:
                    phi = None
                if phi is None:
                    return False
                added = self._taker.tally.add_phi(phi, unit_dim, self._taker.tape)
            parent.forward.notes.append((*added, PHI))
        if self.of_u and origin.direct:
            norms = [current.normalized[node] for node in found.nodes if node in current.normalized]
            own = current.provisional.get(parent) if origin.norm == "none" else None
            for reading in norms if own is None else [own]:
                parent.forward.extend(reading)
        parent.record.activation, parent.record.norm = origin.name, origin.norm
        self._between.repeat(current, origin, found)
        return True
