"""Record one step: what forward passes call, and the graph between the calls."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.probe.arrivals import Arrivals
from gradscope.probe.capture import FaultHandler, Value
from gradscope.probe.computed import ComputedWeights
from gradscope.probe.contribution import Contribution, find_contribution
from gradscope.probe.graph import ancestors, find_product, trace
from gradscope.probe.hooks import on_gradient
from gradscope.probe.layers import Layer
from gradscope.probe.piles import Tally
from gradscope.probe.plan import Plan
from gradscope.probe.records import CallRecord, ForwardPass, Key, MicroBatch, Reading, Stage
from gradscope.probe.reduce import Tape, flat, sample
from gradscope.probe.reentrant import FirstPasses
from gradscope.probe.repeating import Repeats
from gradscope.probe.replay import learn, origin_of
from gradscope.probe.succession import Succession
from gradscope.probe.taking import Taker


class Recorder:
    """Collects one recorded step. Its methods are called from hooks.

    Args:
        step: Number of the step.
        plan: What to take.
        known: Calls whose parents are known, with the names of their activation functions.
        tally: Where statistics of tensors gather.
        fault: Called with layer, place and error when something of ours fails.
    """

    def __init__(self, step: int, plan: Plan, known: Mapping[Key, str], tally: Tally, fault: FaultHandler) -> None:
        self.step = step
        self.tape = Tape()
        self.tally = tally
        self.records: dict[Key, CallRecord] = {}
        self.parameters: dict[str, dict[str, Reading]] = {}
        self.uncounted: dict[str, str] = {}
        self.computed = ComputedWeights()
        self.trained: set[int] = set()
        self.dropped: set[int] = set()
        self.spent = 0.0
        self._known = known
        self._stage = Stage()
        self._taker = Taker(plan, tally, self.tape, fault)
        self._arrivals = Arrivals(self._taker, self._stage)
        self._succession = Succession(self._taker, self._arrivals, known)
        self._first_passes = FirstPasses()
        self._foreseen: dict[Key, int] = {}
        self._memos = tally.memos
        # Metrics that run on tensors may want what only the whole graph shows.
        self._learns = not plan.tensor_metrics
        self._of_call = plan.program("forward", "input", "output")
        self._of_u = self._succession.of_u
        self._wants_total = self._arrivals.wants_total
        wants_sent = self._wants_total or plan.needs("input_grad")
        self._repeated = Repeats(self._stage, self._taker, self._arrivals, self._succession, wants_sent)

    @property
    def saw_gradient(self) -> bool:
        """Whether a gradient of a layer's output arrived."""
        return self._arrivals.saw_gradient

    @property
    def seconds(self) -> float:
        """Seconds that hooks took."""
        return self.spent + self._arrivals.spent

    def restart(self) -> None:
        """Forget the calls so far: an optimizer evaluates its closure again, and the last evaluation counts."""
        # Records and their micro-batches refer to each other: taken apart here, they do not wait for the collector.
        for record in self.records.values():
            record.batches.clear()
        self.records = {}
        self._foreseen.clear()
        self._first_passes.clear()
        self.computed.clear()

    def finish(self) -> None:
        """End the step: record nothing more, and forget calls without gradient that never came again."""
        self._arrivals.open = False
        for key in self._foreseen:
            if key in self.records and not self.records[key].batches:
                del self.records[key]
        self._foreseen.clear()
        # One that raised is no part of the step if another was made in its place.
        self.trained = (self.trained & self._arrivals.ended) or self.trained
        if self._arrivals.nested:
            self.dropped = self._arrivals.belonging(self.dropped) - self._arrivals.belonging(
                self.trained - self.dropped
            )
            self.trained = self._arrivals.belonging(self.trained)

    def values(self, record: CallRecord) -> list[Value]:
        """Values of metrics that ran on tensors of a call; those of parameters go to a layer's first call."""
        return [value for reading in self.readings(record) for value in reading.values]

    def readings(self, record: CallRecord) -> list[Reading]:
        """Everything that counts of a call."""
        for batch in record.batches:
            self._arrivals.note_left(batch)
            batch.choose(self.trained, self.dropped)
        found = record.readings()
        if record.call == 1 and record.layer.name in self.parameters:
            found += self.parameters[record.layer.name].values()
        return found

    def begin_pass(self) -> None:
        """Start a forward pass of the model: calls count from 1 again."""
        if self.records:
            # What waits of earlier passes is reduced now: of rollouts there may be thousands in a step.
            self.tally.settle(self.tape)
        self._stage.current, self._stage.inside = ForwardPass(), True
        self._first_passes.begin()

    def end_pass(self, outputs: object) -> None:
        """End a forward pass: what no layer consumed ends in the model's outputs."""
        start = time.perf_counter()
        current = self._stage.current
        for tensor in _tensors(outputs):
            if tensor.grad_fn is not None:
                again: list[Any] = []
                found = trace(tensor.grad_fn, current.products, current.visited, again)
                self._succession.used_again(current, again)
                for reached in found:
                    self._succession.resolve(current, reached.call, reached.path, tensor, is_input=False)
        self._stage.current, self._stage.inside = ForwardPass(), False
        self.spent += time.perf_counter() - start

    def normalized(self, output: object, unit_dim: int) -> None:
        """Note what a normalization module returned."""
        self._succession.normalized(self._stage.current, output, unit_dim)

    def begin_first_pass(self) -> None:
        """Start a forward pass of the model without gradient."""
        self._first_passes.begin()

    def foresee(self, layer: Layer) -> None:
        """Note a call without gradient: should it come again inside the backward pass, this is its place."""
        key = self._first_passes.note(layer.name)
        if key not in self.records:
            self.records[key] = CallRecord(layer, key[1])
            self._foreseen[key] = 0

    def foresee_again(self, layer: Layer) -> None:
        """Note that a call without gradient came again inside the backward pass, still without."""
        self._first_passes.note_again(layer.name)

    def recomputed(self, layer: Layer) -> int:
        """Return the number of the call that comes again, with gradient; 0 if it has been recorded or is none."""
        key = self._first_passes.take(layer.name) if self._first_passes else None
        first = self.records.get((layer.name, 1))
        if key is None or first is None or len(first.batches) > self._foreseen.get(first.key, 0):
            return 0
        if key not in self._foreseen:
            return 0
        self._foreseen[key] += 1
        return key[1]

    def repeats(self, layer: Layer, entry: Tensor, output: Tensor) -> bool:
        """Record a call whose graph is what it was at an earlier step; tell whether it is."""
        return self._repeated.record(self.records, layer, entry, output)

    def forward(self, layer: Layer, inputs: Sequence[Any], output: object, again: int = 0) -> None:
        """Record a call of a layer.

        Args:
            layer: The layer.
            inputs: What it was given.
            output: What it returned.
            again: Number of the call, where one without gradient is recomputed.
        """
        start = time.perf_counter()
        current = self._stage.current
        call = again or current.calls.get(layer.index, 0) + 1
        current.calls[layer.index] = call
        if not isinstance(output, Tensor):
            self.uncounted[layer.name] = f"its output is {type(output).__name__}, not a tensor"
            return
        key = layer.name, call
        record = self.records.get(key)
        if record is None or not (record.batches or again):
            self.records.pop(key, None)  # the place of a call without gradient, which is not this one's
            record = self.records[key] = CallRecord(layer, call)
        batch = record.open_batch()
        entry = inputs[0] if inputs and isinstance(inputs[0], Tensor) else _first_tensor(inputs)
        if again:
            batch.within = torch._C._current_graph_task_id()
            record.resolved = entry is not None and entry.grad_fn is not None
        if self._of_call:
            self._taker.take(self._of_call, batch.forward, layer, {"input": entry, "output": output})
        if self._of_u:
            reading = current.provisional[batch] = Reading()
            self._taker.take(self._of_u, reading, layer, {"activation_input": output})
        if output.requires_grad and not self._repeats(current, batch, entry, output):
            self._expect_gradient(current, batch, entry, output)
        self.spent += time.perf_counter() - start

    def _repeats(self, current: ForwardPass, batch: MicroBatch, entry: Tensor | None, output: Tensor) -> bool:
        """Record a call whose graph is what it was before; tell whether it is."""
        memo = self._memos.get(batch.record.key)
        if memo is None or entry is None or current.discovering:
            return False
        found = memo.finds(batch, entry, output, current.products)
        if found is None or (found.nodes and found.nodes[0] in current.visited):
            return False
        if memo.origin is not None and not self._succession.repeat(current, memo.origin, found, entry):
            return False
        current.products[found.node] = batch
        current.visited.update(found.nodes)
        self._repeated.await_gradient(batch, memo, found, output)
        return True

    def _expect_gradient(self, current: ForwardPass, batch: MicroBatch, entry: Tensor | None, output: Tensor) -> None:
        batch.expects = True
        product = find_product(output)
        if product is not None and product.node in current.products:
            product = None  # another layer's: this one returns a sum of which its own part needs no gradient
        if entry is not None and entry.grad_fn is not None:
            self._connect(current, batch, entry)
        current.products[product.node if product else output.grad_fn] = batch
        if self._succession.wants_phi and output._is_view():
            current.outputs[batch] = weakref.ref(output), sample(flat(output), output.shape[-1]).clone()
        how = "none"
        if product is None:
            batch.record.contributes = entry is None or not entry.requires_grad
            on_gradient(output, lambda grad: self._arrivals.on_gradient(batch, grad, None))
        else:
            module = batch.record.layer.module
            found = Contribution("none") if entry is None else find_contribution(product, entry, module)
            how, batch.record.contributes = found.how, found.how != "unknown"
            self._arrivals.hook_product(batch, product, found, (output if entry is None else entry).shape, output.shape)
        memo = learn(product, how, entry, output, current.origins.get(batch)) if self._learns else None
        if memo is not None:
            self._memos[batch.record.key] = memo
        else:
            self._memos.pop(batch.record.key, None)

    def _connect(self, current: ForwardPass, batch: MicroBatch, entry: Tensor) -> None:
        """Find the calls that this input comes from, and await its gradient."""
        record = batch.record
        before = set(current.visited) if self._first_passes.in_this_pass else None
        again: list[Any] = []
        reached = trace(entry.grad_fn, current.products, current.visited, again)
        self._succession.used_again(current, again)
        is_hidden = before is not None and any(map(self._first_passes.hides, current.visited - before))
        understood = [self._succession.resolve(current, one.call, one.path, entry) for one in reached]
        if self._learns and len(reached) == 1:
            parent, way = reached[0].call, current.ways[reached[0].call]
            found = origin_of(parent.record.key, reached[0].path, way, parent.record.activation, entry)
            if found is not None:
                current.origins[batch] = found
        # A call seen for the first time changes who comes before the calls after it.
        current.discovering = current.discovering or record.key not in self._known
        if is_hidden:
            record.resolved = False
        elif current.discovering and not record.parents:
            parents = ancestors(entry.grad_fn, current.products, current.memo)
            record.parents = frozenset(parent.record.key for parent in parents)
            record.resolved = all(understood)
            record.entry = current.entries.setdefault((entry.grad_fn, entry.output_nr), record).key
        # What goes into a checkpoint is not what comes out of it.
        batch.sources = [] if is_hidden else [one.call for one in reached]
        batch.awaits_total = self._wants_total
        if self._wants_total:
            on_gradient(entry, lambda grad: self._arrivals.on_total(batch, grad))


def _first_tensor(inputs: Iterable[Any]) -> Tensor | None:
    return next((value for value in inputs if isinstance(value, Tensor)), None)


def _tensors(value: object) -> Iterable[Tensor]:
    """All tensors in a nest of tuples, lists, mappings and dataclass-like objects, each looked at once."""
    stack, seen = [value], set[int]()
    while stack:
        one = stack.pop()
        if isinstance(one, Tensor):
            yield one
            continue
        parts = _parts(one)
        if parts and id(one) not in seen:
            seen.add(id(one))
            stack.extend(reversed(parts))


def _parts(value: object) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, tuple | list):
        return list(value)
    if hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module):
        return list(vars(value).values())
    return []
