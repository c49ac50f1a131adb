"""Record a call that repeats in one function: what runs between two products of matrices runs with cold caches."""

from __future__ import annotations

import time

from torch import Tensor

from gradscope.probe.arrivals import Arrivals
from gradscope.probe.layers import Layer
from gradscope.probe.records import CallRecord, Key, MicroBatch, Stage
from gradscope.probe.replay import Found, Memo
from gradscope.probe.succession import Succession
from gradscope.probe.taking import Taker

# Entries of an output below which its gradient is still in a cache after it was used.
SMALL_ENOUGH = 1 << 18
OUTPUT = ("output",)


class Repeats:
    """Records the first call of a layer in a step where its graph is what it was before.

    Args:
        stage: Which forward pass is on.
        taker: Takes what is wanted of tensors.
        arrivals: Records gradients.
        succession: Records what lies between calls.
        wants_sent: Whether anything asks for what calls send back.
    """

    def __init__(
        self, stage: Stage, taker: Taker, arrivals: Arrivals, succession: Succession, wants_sent: bool
    ) -> None:
        program = taker.plan.program("forward", "input", "output")
        self._stage = stage
        self._taker = taker
        self._arrivals = arrivals
        self._succession = succession
        self._memos = taker.tally.memos
        self._wants_sent = wants_sent
        self._takes_output = program.statistics == OUTPUT
        # Metrics on tensors, and what an activation function receives, take the longer way.
        self._possible = not succession.of_u and not program.metrics and program.statistics in ((), OUTPUT)

    def record(self, records: dict[Key, CallRecord], layer: Layer, entry: Tensor, output: Tensor) -> bool:
        """Record a call; tell whether it was one that repeats, and the first of its layer in this step.

        Args:
            records: The calls of the step.
            layer: The layer.
            entry: Its input.
            output: Its output.
        """
        start = time.perf_counter()
        current, key = self._stage.current, (layer.name, 1)
        memo = self._memos.get(key)
        if memo is None or not self._possible or current.discovering or key in records or layer.index in current.calls:
            return False
        record = CallRecord(layer, 1)
        batch = MicroBatch(record)
        found = memo.finds(batch, entry, output, current.products)
        if found is None or (found.nodes and found.nodes[0] in current.visited):
            return False
        if memo.origin is not None and not self._succession.repeat(current, memo.origin, found, entry):
            return False
        current.calls[layer.index] = 1
        records[key] = record
        record.batches.append(batch)
        if self._takes_output:
            pile, place = self._taker.tally.add(OUTPUT, output, layer.unit_dim, self._taker.tape)
            batch.forward.notes.append((pile, place, "output"))
        current.products[found.node] = batch
        current.visited.update(found.nodes)
        self.await_gradient(batch, memo, found, output)
        self._arrivals.spent += time.perf_counter() - start
        return True

    def await_gradient(self, batch: MicroBatch, memo: Memo, found: Found, output: Tensor) -> None:
        """Hook the nodes of a call that repeats.

        Args:
            batch: The call.
            memo: What is known of it.
            found: Its nodes.
            output: Its output.
        """
        arrivals, edge = self._arrivals, memo.edge
        batch.expects = True
        wants_sent = found.parent is not None and self._wants_sent
        if wants_sent and output.numel() < SMALL_ENOUGH:
            found.node.register_hook(lambda sent, got: arrivals.on_gradient(batch, got[0], sent[edge]))
        else:
            # Before the product's own back-propagation, while a large gradient is still in the cache.
            found.node.register_prehook(lambda got: arrivals.on_gradient(batch, got[0], None))
            if wants_sent:
                found.node.register_hook(lambda sent, got: arrivals.on_contribution(batch, sent[edge]))
        if found.parent is not None:
            batch.sources = [found.parent]
            batch.awaits_total = arrivals.wants_total
            if arrivals.wants_total:
                found.nodes[0].register_prehook(lambda got: arrivals.on_total(batch, got[0]))
