"""Gradients between a layer's output and the next layer's input: around its normalization and activation function.

Where the activation function receives the output itself and returns the next layer's input, their gradients are read
there anyway: nothing is hooked, and what is read stands for both. Elsewhere the nodes of the two show what they get and
send on. Where another path uses a tensor on the way, the gradient of all its uses is set beside what came this way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradscope.probe.arrivals import SENT, Arrivals
from gradscope.probe.following import NORMS, Way
from gradscope.probe.graph import RESHAPES
from gradscope.probe.piles import ALSO, Pile
from gradscope.probe.records import ForwardPass, MicroBatch, Reading
from gradscope.probe.replay import Found, Origin
from gradscope.probe.rms import find_parts, is_rms, last_place
from gradscope.probe.taking import Taker

PHI_IN, PHI_OUT = "activation_input_grad", "activation_grad"
NORM_IN, NORM_OUT = "norm_input_grad", "norm_grad"
JOIN, OWN, OVERLAP = "join_grad", "join_own_grad", "join_overlap"
_Z, _NEXT = "output_grad" + ALSO, "next_input_grad" + ALSO


@dataclass(eq=False, slots=True)
class Passing:
    """What hooks remember of a call until its gradient has passed; no nodes, which a hook would keep for ever.

    Attributes:
        batch: The call.
        shows: Whether the gradient of its output is also what normalization or activation function sends back.
        has_norm: Whether there is a normalization.
        is_part: Whether what that sends back along the way is not all of it (written out, an RMS norm has two paths).
        is_split: The same of the activation function (softsign).
        hooked: Whether the first of the two has a hook.
        joined: Whether a tensor that other paths use is awaited.
        parts: What the first path of such a normalization sends back, with its version.
        kept: The gradient read last, with its version and its place in a pile.
        own: What came of the gradient of the shared tensor through the next layer, with its version.
    """

    batch: MicroBatch
    shows: bool = False
    has_norm: bool = False
    is_part: bool = False
    is_split: bool = False
    hooked: bool = False
    joined: bool = False
    parts: tuple[Tensor, int] | None = None
    kept: tuple[Tensor, int, Pile, int] | None = None
    own: tuple[Tensor, int] | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Course:
    """A call's way to the next layer.

    Attributes:
        nodes: From the product to that layer's input, both included.
        first: Place of the first of normalization and activation function; 0 where there is neither.
        passing: What its hooks share.
    """

    nodes: tuple[Any, ...]
    first: int
    passing: Passing


class Between:
    """Hooks what lies between calls, for one recorded step.

    Args:
        taker: Takes what is wanted of the gradients.
        arrivals: Records those of outputs and inputs, which stand for others where they are the same tensors.
    """

    def __init__(self, taker: Taker, arrivals: Arrivals) -> None:
        plan, wants = taker.plan, taker.wants
        self._taker = taker
        self._arrivals = arrivals
        self._of_phi = plan.program("activation_backward", PHI_OUT, PHI_IN)
        self._of_norm = plan.program("norm_backward", NORM_OUT, NORM_IN)
        self._of_join = plan.program("join_backward", JOIN, OWN)
        self._wants_join = bool(self._of_join) or OVERLAP in wants
        self.wanted = bool(self._of_phi) or bool(self._of_norm) or self._wants_join
        at_next = {one for signal in SENT for one in wants.get(signal, ())}
        at_next |= {"squares"} if "overlap" in at_next else set()
        self._z_shows = _are_shown(wants, (PHI_IN, NORM_IN), set(wants.get("output_grad", ())))
        self._next_shows = arrivals.wants_total and _are_shown(wants, (PHI_OUT, NORM_OUT), at_next)
        self._reads_all = bool(self._of_phi.metrics or self._of_norm.metrics)
        self._plain = self._z_shows and self._next_shows and not self._reads_all

    def follow(
        self, current: ForwardPass, batch: MicroBatch, way: Way, path: tuple[Any, ...], awaited: bool = True
    ) -> None:
        """Await the gradients on a call's way.

        Args:
            current: The forward pass.
            batch: The call.
            way: What was found on its way.
            path: Nodes on its way, nearest to the call first.
            awaited: Whether it ends at the input of a layer, whose gradient will be read.
        """
        if not self.wanted or not path or batch.record.activation == "?" or not (awaited or self._of_phi.metrics):
            return
        product = next((child for child, _ in path[0].next_functions if current.products.get(child) is batch), None)
        if product is None:
            return
        passing = Passing(batch, is_split=way.activation == "softsign")
        self._begin(current, passing, (product, *path), way.norm_node, way.node, awaited)

    def repeat(self, current: ForwardPass, origin: Origin, found: Found) -> None:
        """Await the gradients on the way of a call that repeats."""
        batch, nodes = found.parent, found.nodes
        if not self.wanted or batch is None or len(nodes) < 2:
            return
        if self._plain and len(nodes) == 2 and origin.has_phi:
            batch.shown, batch.told_as = _Z + PHI_IN, _NEXT + PHI_OUT
            current.repeated[nodes[1]] = nodes[0]
            return
        norms = [] if origin.norm == "none" else [one for one in nodes if one.name() in NORMS or is_rms(one)]
        norm = norms[0] if norms else None
        self._begin(current, Passing(batch), nodes[::-1], norm, nodes[0] if origin.has_phi else None, True)

    def _begin(
        self, current: ForwardPass, passing: Passing, nodes: tuple[Any, ...], norm: Any, phi: Any, awaited: bool
    ) -> None:
        batch = passing.batch
        first = nodes.index(phi if norm is None else norm) if (phi, norm) != (None, None) else 0
        course = Course(nodes, first, passing)
        passing.has_norm, passing.is_part = norm is not None, norm is not None and is_rms(norm)
        end = nodes[last_place(nodes, first)] if passing.is_part else norm
        last = end if phi is None else phi
        if last is not None and awaited and self._next_shows and nodes[-1] is last:
            batch.told_as = _NEXT + (NORM_OUT if phi is None else PHI_OUT)
        if first and self._z_shows and all(one.name().startswith(RESHAPES) for one in nodes[1:first]):
            batch.shown = _Z + (PHI_IN if norm is None else NORM_IN)
            passing.shows = True
        if norm is not None and (phi is not None or self._reads_all or not (passing.shows and _NEXT in batch.told_as)):
            self._hook_norm(end, passing)
        if passing.is_part and not passing.shows:
            self._hook_parts(norm, passing)
        if phi is not None and (self._reads_all or norm is not None or not (passing.shows and _NEXT in batch.told_as)):
            self._hook_phi(phi, passing)
        if passing.is_split and (passing.has_norm or not passing.shows) and nodes.index(phi) > 1:
            below = nodes[nodes.index(phi) - 1]
            below.register_prehook(lambda got: self._on_one(passing, PHI_IN, got[0]))
        for place, node in enumerate(nodes[:-1]):
            current.stretches.setdefault(node, []).append((course, place))

    def _hook_norm(self, node: Any, passing: Passing) -> None:
        passing.hooked = True
        node.register_hook(lambda sent, got: self._on_norm(passing, sent[0], got[0]))

    def _hook_phi(self, node: Any, passing: Passing) -> None:
        passing.hooked = True
        node.register_hook(lambda sent, got: self._on_phi(passing, sent[0], got[0]))

    def _hook_parts(self, node: Any, passing: Passing) -> None:
        """Await what both paths of an RMS normalization that is written out send back."""
        found = find_parts(node)
        if found is None:
            return
        edge, power_edges = found.edge, found.power_edges
        node.register_hook(lambda sent, _: self._keep_part(passing, sent[edge]))
        found.power.register_hook(lambda sent, _: self._on_parts(passing, [sent[one] for one in power_edges]))

    def used_again(self, current: ForwardPass, node: Any) -> None:
        """Learn that another path uses what a node returned, which lies on the way of a call, or on no way."""
        phi = current.repeated.pop(node, None)
        if phi is not None:
            passing = Passing(current.products[node], shows=True)
            current.stretches[node] = [(Course((node, phi), 1, passing), 0)]
        for course, place in current.stretches.get(node, ()):
            passing = course.passing
            if place < course.first and passing.shows:
                passing.shows = False
                passing.batch.shown = "output_grad"
                first = course.nodes[course.first]
                if passing.is_part:
                    self._hook_parts(first, passing)
                elif not passing.hooked:
                    hook = self._hook_norm if passing.has_norm else self._hook_phi
                    hook(first, passing)
            if self._wants_join and not passing.joined:
                self._hook_join(course, place)

    def _hook_join(self, course: Course, place: int) -> None:
        node, following, passing = course.nodes[place], course.nodes[place + 1], course.passing
        to_node = [edge for edge, (child, _) in enumerate(following.next_functions) if child is node]
        # Two edges, or two paths inside what follows: what is sent along one of them is not all of it.
        if len(to_node) != 1 or (passing.is_split and place + 1 == course.first):
            return
        edge = to_node[0]
        output = following.next_functions[edge][1]
        passing.joined = True
        if not is_rms(following):  # else both paths of it are awaited
            following.register_hook(lambda sent, _: self._keep_own(passing, sent[edge]))
        node.register_prehook(lambda got: self._on_join(passing, got[output]))

    def _on_phi(self, passing: Passing, sent: Tensor | None, got: Tensor | None) -> None:
        known_in, known_out = passing.shows and not passing.has_norm, PHI_OUT in passing.batch.told_as
        sent = None if passing.is_split else sent
        self._take(passing, self._of_phi, {PHI_OUT: (got, known_out), PHI_IN: (sent, known_in)})

    def _on_norm(self, passing: Passing, sent: Tensor | None, got: Tensor | None) -> None:
        known_out = NORM_OUT in passing.batch.told_as
        sent = None if passing.is_part else sent
        self._take(passing, self._of_norm, {NORM_OUT: (got, known_out), NORM_IN: (sent, passing.shows)})
        passing.kept = None

    def _keep_part(self, passing: Passing, sent: Tensor | None) -> None:
        if self._arrivals.open and sent is not None:
            passing.parts = sent, sent._version

    def _on_parts(self, passing: Passing, others: list[Tensor | None]) -> None:
        kept, passing.parts = passing.parts, None
        if not self._arrivals.open or kept is None or kept[0]._version != kept[1]:
            return
        own = kept[0].detach().clone()
        for other in others:
            if other is not None:
                own += other.detach()
        self._take(passing, self._of_norm, {NORM_IN: (own, passing.shows)})
        passing.kept = None
        if passing.joined:
            passing.own = own, own._version

    def _on_one(self, passing: Passing, signal: str, grad: Tensor | None) -> None:
        self._take(passing, self._of_phi, {signal: (grad, False)})

    def _take(self, passing: Passing, program: Any, tensors: dict[str, tuple[Tensor | None, bool]]) -> None:
        """Take the statistics of those tensors that are not known from elsewhere, and run metrics on all."""
        if not self._arrivals.open:
            return
        start = time.perf_counter()
        layer = passing.batch.record.layer
        try:
            # It comes before that of the layer's output.
            reading = passing.batch.backward.setdefault(torch._C._current_graph_task_id(), Reading())
            for signal, (tensor, is_known) in tensors.items():
                if tensor is not None and not is_known and signal in program.statistics:
                    self._note(passing, signal, tensor, reading)
            if program.metrics:
                at_hand = {signal: tensor for signal, (tensor, _) in tensors.items()}
                self._taker.measure(program, reading, layer, at_hand)
        except Exception as error:
            self._taker.fault(layer.name, "activation gradient hook", error)
        self._arrivals.spent += time.perf_counter() - start

    def _note(self, passing: Passing, signal: str, tensor: Tensor, reading: Reading) -> None:
        """Take the statistics of a gradient, unless it is the tensor that was read last."""
        if passing.kept is not None:
            kept, version, pile, place = passing.kept
            if _is_same(kept, tensor) and tensor._version == version:
                reading.notes.append((pile, place, signal))
                return
        self._taker.note(signal, tensor, passing.batch.record.layer.unit_dim, reading)
        if passing.has_norm:
            pile, place, _ = reading.notes[-1]
            passing.kept = tensor, tensor._version, pile, place

    def _keep_own(self, passing: Passing, sent: Tensor | None) -> None:
        if self._arrivals.open and sent is not None:
            passing.own = sent, sent._version

    def _on_join(self, passing: Passing, grad: Tensor | None) -> None:
        kept, passing.own = passing.own, None
        if not self._arrivals.open or grad is None or kept is None or kept[0]._version != kept[1]:
            return
        start = time.perf_counter()
        layer, taker, own = passing.batch.record.layer, self._taker, kept[0]
        try:
            reading = passing.batch.backward.setdefault(torch._C._current_graph_task_id(), Reading())
            taker.take(self._of_join, reading, layer, {JOIN: grad, OWN: own})
            if OVERLAP in taker.wants:
                pile, place = taker.tally.add_overlap(own, grad, taker.tape)
                reading.notes.append((pile, place, OVERLAP))
        except Exception as error:
            taker.fault(layer.name, "hook where paths join", error)
        self._arrivals.spent += time.perf_counter() - start


def _is_same(first: Tensor, second: Tensor) -> bool:
    same_place = first.data_ptr() == second.data_ptr() and first.dtype == second.dtype
    return same_place and first.shape == second.shape and first.stride() == second.stride()


def _are_shown(wants: Any, signals: tuple[str, ...], shown: set[str]) -> bool:
    """Tell whether all that is wanted of some signals is taken of another tensor anyway."""
    return all(set(wants.get(signal, ())) <= shown for signal in signals)
