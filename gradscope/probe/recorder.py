"""Record one step: what forward passes call, what flows back, and what follows from the graph between them."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.probe.capture import Captured, CapturedPhi, FaultHandler, Source, Value, measure
from gradscope.probe.contribution import Contribution, find_contribution, fold_circular
from gradscope.probe.distributed import whole
from gradscope.probe.following import Way, find_phi, is_bypassed, read_way
from gradscope.probe.functions import Phi
from gradscope.probe.graph import Product, ancestors, find_product, trace
from gradscope.probe.hooks import on_gradient
from gradscope.probe.layers import Layer
from gradscope.probe.piles import PHI, Tally, copy_if_small
from gradscope.probe.plan import Plan, Program
from gradscope.probe.records import CallRecord, ForwardPass, Key, MicroBatch, Reading
from gradscope.probe.reduce import Tape, flat, sample
from gradscope.probe.replay import Found, Origin, learn, origin_of, phi_of

# Statistics of the gradient of an input serve these three where nothing else joins there.
_SENT = ("input_grad_total", "input_grad", "input_overlap", "next_input_grad")


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
        self.open = True
        self.saw_gradient = False
        self.trained: set[int] = set()
        self.spent = 0.0
        self._known = known
        self._fault = fault
        self._pass = ForwardPass()
        self._inside = False
        self._mixes_weights = plan.mixes_weights
        self._wants = plan.statistics
        self._wants_phi = plan.needs("activation", "slope", "slope_max", "activation_input", "dead_units")
        self._wants_total = plan.needs("next_input_grad", "input_grad_total", "input_overlap")
        self._tallies_phi = any(one in self._wants for one in ("activation", "slope"))
        self._tallies_sent = tuple(one for one in _SENT if one in self._wants)
        self._memos = tally.memos
        # Metrics that run on tensors may want what only the whole graph shows.
        self._learns = not plan.tensor_metrics
        self._of_call = plan.program("forward", "input", "output")
        self._of_u = plan.program("forward", "activation_input")
        self._of_phi = plan.program("activation", "activation", "slope", "slope_max")
        self._of_phi_gradient = plan.program("activation_backward", "activation_grad", "activation_input_grad")
        self._of_gradient = plan.program("backward", "output_grad", "input_grad")
        self._of_output_gradient = plan.program("backward", "output_grad")
        self._of_contribution = plan.program("backward", "input_grad")
        self._of_total = plan.program("input_total", "input_grad", "input_grad_total")
        self._of_next = plan.program("next", "next_input_grad")

    def restart(self) -> None:
        """Forget the calls so far: an optimizer evaluates its closure again, and the last evaluation counts."""
        # Records and their micro-batches refer to each other: taken apart here, they do not wait for the collector.
        for record in self.records.values():
            record.batches.clear()
        self.records = {}

    def values(self, record: CallRecord) -> list[Value]:
        """Values of metrics that ran on tensors of a call; those of parameters go to a layer's first call."""
        return [value for reading in self.readings(record) for value in reading.values]

    def readings(self, record: CallRecord) -> list[Reading]:
        """Everything that counts of a call."""
        for batch in record.batches:
            self._note_left(batch)
            batch.choose(self.trained)
        found = record.readings()
        if record.call == 1 and record.layer.name in self.parameters:
            found += self.parameters[record.layer.name].values()
        return found

    def begin_pass(self) -> None:
        """Start a forward pass of the model: calls count from 1 again."""
        if self.records:
            # What waits of earlier passes is reduced now: of rollouts there may be thousands in a step.
            self.tally.settle(self.tape)
        self._pass = ForwardPass()
        self._inside = True

    def end_pass(self, outputs: object) -> None:
        """End a forward pass: what no layer consumed ends in the model's outputs."""
        start = time.perf_counter()
        for tensor in _tensors(outputs):
            if tensor.grad_fn is not None:
                for reached in trace(tensor.grad_fn, self._pass.products, self._pass.visited):
                    self._resolve(reached.call, reached.path, tensor)
        self._pass = ForwardPass()
        self._inside = False
        self.spent += time.perf_counter() - start

    def forward(self, layer: Layer, inputs: Sequence[Any], output: object) -> None:
        """Record a call of a layer."""
        start = time.perf_counter()
        call = self._pass.calls[layer.index] = self._pass.calls.get(layer.index, 0) + 1
        if not isinstance(output, Tensor):
            self.uncounted[layer.name] = f"its output is {type(output).__name__}, not a tensor"
            return
        key = layer.name, call
        record = self.records.get(key)
        if record is None:
            record = self.records[key] = CallRecord(layer, call)
        batch = record.open_batch()
        entry = inputs[0] if inputs and isinstance(inputs[0], Tensor) else _first_tensor(inputs)
        if self._of_call:
            self._take(self._of_call, batch.forward, layer, {"input": entry, "output": output}, changeable=True)
        if self._of_u:
            reading = self._pass.provisional[batch] = Reading()
            self._take(self._of_u, reading, layer, {"activation_input": output}, changeable=True)
        if output.requires_grad and not self._repeats(batch, entry, output):
            self._expect_gradient(batch, entry, output)
        self.spent += time.perf_counter() - start

    def _repeats(self, batch: MicroBatch, entry: Tensor | None, output: Tensor) -> bool:
        """Record a call whose graph is what it was before; tell whether it is."""
        memo = self._memos.get(batch.record.key)
        if memo is None or entry is None or self._pass.discovering:
            return False
        found = memo.finds(batch, entry, output, self._pass.products)
        if found is None or (found.nodes and found.nodes[0] in self._pass.visited):
            return False
        if memo.origin is not None and not self._repeat_origin(memo.origin, found, entry):
            return False
        batch.expects = True
        self._pass.products[found.node] = batch
        self._pass.visited.update(found.nodes)
        edge = memo.edge
        found.node.register_hook(lambda sent, got: self._on_gradient(batch, got[0], sent[edge]))
        if found.parent is not None:
            batch.sources = [found.parent]
            batch.awaits_total = self._wants_total
            if self._wants_total:
                found.nodes[0].register_prehook(lambda got: self._on_total(batch, got[0]))
        return True

    def _repeat_origin(self, origin: Origin, found: Found, entry: Tensor) -> bool:
        parent = found.parent
        assert parent is not None
        if origin.has_phi and self._tallies_phi:
            try:
                phi = phi_of(origin.name, found.nodes[0], entry)
            except RuntimeError:
                phi = None
            if phi is None:
                return False
            pile, place = self.tally.add_phi(phi, parent.record.layer.unit_dim, self.tape)
            parent.forward.notes.append((pile, place, PHI))
        if self._of_u and origin.direct:
            norms = [self._pass.normalized[node] for node in found.nodes if node in self._pass.normalized]
            own = self._pass.provisional.get(parent) if origin.norm == "none" else None
            for reading in norms if own is None else [own]:
                parent.forward.extend(reading)
        parent.record.activation, parent.record.norm = origin.name, origin.norm
        return True

    def normalized(self, output: object, unit_dim: int) -> None:
        """Note what a normalization module returned: the activation function may receive it and change it in place."""
        if self._of_u and isinstance(output, Tensor) and output.grad_fn is not None:
            reading = Reading()
            if "activation_input" in self._of_u.statistics:
                self._note("activation_input", copy_if_small(output), unit_dim, reading)
            source = Captured({"activation_input": output}, unit_dim)
            measure(self._of_u.metrics, source, reading.values, self.tape, "?", self._fault)
            self._pass.normalized[output.grad_fn] = reading

    def _expect_gradient(self, batch: MicroBatch, entry: Tensor | None, output: Tensor) -> None:
        batch.expects = True
        product = find_product(output)
        if product is not None and product.node in self._pass.products:
            product = None  # another layer's: this one returns a sum of which its own part needs no gradient
        if entry is not None and entry.grad_fn is not None:
            self._connect(batch, entry)
        self._pass.products[product.node if product else output.grad_fn] = batch
        if self._wants_phi and output._is_view():
            self._pass.outputs[batch] = weakref.ref(output), sample(flat(output), output.shape[-1]).clone()
        how = "none"
        if product is None:
            batch.record.contributes = entry is None or not entry.requires_grad
            on_gradient(output, lambda grad: self._on_gradient(batch, grad, None))
        else:
            how = self._hook_product(batch, product, entry, output.shape)
        memo = learn(product, how, entry, output, self._pass.origins.get(batch)) if self._learns else None
        if memo is not None:
            self._memos[batch.record.key] = memo
        else:
            self._memos.pop(batch.record.key, None)

    def _hook_product(self, batch: MicroBatch, product: Product, entry: Tensor | None, shape: torch.Size) -> str:
        """One hook shows the output gradient and, as a rule, what the call sends back, in the tensors' own shapes."""
        found = Contribution("none") if entry is None else find_contribution(product, entry, batch.record.layer.module)
        batch.record.contributes = found.how != "unknown"
        entry_shape = shape if entry is None else entry.shape
        edge, module = product.input_edge, batch.record.layer.module

        def hook(grad_inputs: Any, grad_outputs: Any) -> None:
            grad, sent = grad_outputs[0], grad_inputs[edge]
            if grad is None:
                return
            if sent is not None and found.how == "circular":
                sent = fold_circular(sent, entry_shape, module)
            elif sent is not None and found.how != "product":
                sent = None
            elif sent is not None and sent.shape != entry_shape:
                sent = sent.reshape(entry_shape)
            self._on_gradient(batch, grad if grad.shape == shape else grad.reshape(shape), sent)

        product.node.register_hook(hook)
        if found.node is not None:
            found.node.register_hook(lambda sent, _: self._on_contribution(batch, sent[0]))
        return found.how

    def _on_gradient(self, batch: MicroBatch, grad: Tensor | None, sent: Tensor | None) -> None:
        self.saw_gradient = True
        task = torch._C._current_graph_task_id()
        before = batch.backward.get(task)
        if grad is None or not self.open or (before is not None and before.arrived):
            return
        start = time.perf_counter()
        if not self._inside:
            # Layers called one by one, outside the model's forward, have no end of pass: their backward ends it.
            self._pass = ForwardPass()
        layer, reading = batch.record.layer, before or Reading()
        batch.backward[task], reading.arrived = reading, True
        if torch.is_grad_enabled():
            batch.provisional.append(task)
        try:
            program = self._of_output_gradient if sent is None else self._of_gradient
            if program.metrics:
                self._measure(program, reading, layer, {"output_grad": grad, "input_grad": sent})
            if "output_grad" in self._wants:
                self._note("output_grad", grad, layer.unit_dim, reading)
            self._keep_own(batch, reading, sent)
        except Exception as error:
            self._fault(layer.name, "backward hook", error)
        self.spent += time.perf_counter() - start

    def _on_contribution(self, batch: MicroBatch, sent: Tensor | None) -> None:
        """What a call sends back, where a node such as a padding stands between its product and its input."""
        reading = batch.backward.get(torch._C._current_graph_task_id())
        if not self.open or sent is None or reading is None:
            return
        layer = batch.record.layer
        try:
            if self._of_contribution.metrics:
                self._measure(self._of_contribution, reading, layer, {"input_grad": sent})
            self._keep_own(batch, reading, sent)
        except Exception as error:
            self._fault(layer.name, "input gradient hook", error)

    def _keep_own(self, batch: MicroBatch, reading: Reading, sent: Tensor | None) -> None:
        if sent is not None and batch.awaits_total:
            batch.own = sent
        elif sent is not None and "input_grad" in self._wants:
            self._note("input_grad", sent, batch.record.layer.unit_dim, reading)

    def _note_left(self, batch: MicroBatch) -> None:
        """Take what a call sent back, where the gradient of its input was never seen as a whole."""
        if batch.own is not None and "input_grad" in self._wants and batch.backward:
            reading = list(batch.backward.values())[-1]
            self._note("input_grad", batch.own, batch.record.layer.unit_dim, reading)
        batch.own = None

    def _connect(self, batch: MicroBatch, entry: Tensor) -> None:
        """Find the calls that this input comes from, and await its gradient."""
        record = batch.record
        reached = trace(entry.grad_fn, self._pass.products, self._pass.visited)
        understood = [self._resolve(one.call, one.path, entry) for one in reached]
        if self._learns and len(reached) == 1:
            parent, way = reached[0].call, self._pass.ways[reached[0].call]
            found = origin_of(parent.record.key, reached[0].path, way, parent.record.activation, entry)
            if found is not None:
                self._pass.origins[batch] = found
        # A call seen for the first time changes who comes before the calls after it.
        self._pass.discovering = self._pass.discovering or record.key not in self._known
        if self._pass.discovering and not record.parents:
            before = ancestors(entry.grad_fn, self._pass.products, self._pass.memo)
            record.parents = frozenset(parent.record.key for parent in before)
            record.resolved = all(understood)
        batch.sources = [one.call for one in reached]
        batch.awaits_total = self._wants_total
        if self._wants_total:
            on_gradient(entry, lambda grad: self._on_total(batch, grad))

    def _on_total(self, batch: MicroBatch, grad: Tensor | None) -> None:
        if grad is None or not self.open:
            return
        start = time.perf_counter()
        task = torch._C._current_graph_task_id()
        # The layer itself may not be part of the loss, while what it shares its input with is.
        reading = batch.backward.get(task) or Reading()
        layer = batch.record.layer
        try:
            sent, batch.own = batch.own, None
            alike = sent is not None and sent.data_ptr() == grad.data_ptr() and sent.shape == grad.shape
            self._note_total(batch, reading, task, grad, sent, alike)
            if self._of_total.metrics:
                tensors = {"input_grad": grad if alike else sent, "input_grad_total": grad}
                self._measure(self._of_total, reading, layer, tensors)
            if self._of_next.metrics and batch.sources:
                told = Reading()
                self._measure(self._of_next, told, layer, {"next_input_grad": grad})
                for parent in batch.sources:
                    parent.told.setdefault(task, Reading()).values = told.values
        except Exception as error:
            self._fault(layer.name, "input gradient hook", error)
        self.spent += time.perf_counter() - start

    def _note_total(
        self, batch: MicroBatch, reading: Reading, task: int, grad: Tensor, sent: Tensor | None, alike: bool
    ) -> None:
        """Take the statistics of the gradient of an input once, for all who ask for them."""
        unit_dim, notes = batch.record.layer.unit_dim, reading.notes
        if self._tallies_sent:
            pile, place = self.tally.add(_SENT, grad, unit_dim, self.tape)
            notes.append((pile, place, "input_grad_total"))
            if alike:
                notes.append((pile, place, "input_grad"))
                notes.append((pile, place, "input_overlap"))
            for parent in batch.sources:
                parent.told[task] = Reading([(pile, place, "next_input_grad")])
        if sent is not None and not alike:
            if "input_grad" in self._wants:
                self._note("input_grad", sent, unit_dim, reading)
            if "input_overlap" in self._wants:
                pile, place = self.tally.add_overlap(sent, grad, self.tape)
                notes.append((pile, place, "input_overlap"))

    def _resolve(self, batch: MicroBatch, path: tuple[Any, ...], end: Tensor) -> bool:
        """Read off what follows a call on the way to ``end``: normalization, activation function, its values.

        Returns:
            Whether everything on the way was understood.
        """
        record, seen = batch.record, self._pass.outputs.get(batch)
        way = self._pass.ways[batch] = read_way(path, seen is not None)
        record.norm = way.norm
        phi = self._find_phi(batch, way, path, end)
        if self._of_u:
            self._merge_u(batch, way, phi)
        if phi is None:
            return way.understood
        layer = record.layer
        if self._tallies_phi:
            pile, place = self.tally.add_phi(phi, layer.unit_dim, self.tape)
            batch.forward.notes.append((pile, place, PHI))
        if self._of_phi.metrics:
            self._measure_source(self._of_phi, batch.forward, layer, CapturedPhi(phi, layer.unit_dim))
        if self._of_phi_gradient and way.node is not None:
            way.node.register_hook(lambda sent, got: self._on_phi_gradient(batch, sent, got))
        return way.understood

    def _find_phi(self, batch: MicroBatch, way: Way, path: tuple[Any, ...], end: Tensor) -> Phi | None:
        record = batch.record
        settled = self._known.get(record.key, "?") != "?"
        if not settled and is_bypassed(way, path, self._pass.products, batch):
            # z also reaches the end around phi, as in z * sigmoid(z): together they are another function.
            record.activation = "?"
            return None
        try:
            record.activation, phi = find_phi(way, end, self._pass.outputs.get(batch))
        except RuntimeError as error:
            # Changed in place since: back-propagation will fail on it too.
            self._fault(record.layer.name, "saved activation", error)
            record.activation, phi = "?", None
        return phi

    def _merge_u(self, batch: MicroBatch, way: Way, phi: Phi | None) -> None:
        if phi is not None and phi.saved_input:
            self._take(self._of_u, batch.forward, batch.record.layer, {"activation_input": phi.saved})
        elif way.direct and way.norm == "none" and batch in self._pass.provisional:
            batch.forward.extend(self._pass.provisional[batch])
        elif way.direct and way.norm_node in self._pass.normalized:
            batch.forward.extend(self._pass.normalized[way.norm_node])

    def _on_phi_gradient(self, batch: MicroBatch, sent: Any, got: Any) -> None:
        if not self.open:
            return
        layer = batch.record.layer
        try:
            tensors = {"activation_grad": got[0], "activation_input_grad": sent[0]}
            # It comes before that of the layer's output.
            reading = batch.backward.setdefault(torch._C._current_graph_task_id(), Reading())
            self._take(self._of_phi_gradient, reading, layer, tensors)
        except Exception as error:
            self._fault(layer.name, "activation gradient hook", error)

    def _take(
        self,
        program: Program,
        reading: Reading,
        layer: Layer,
        tensors: Mapping[str, Tensor | None],
        *,
        changeable: bool = False,
    ) -> None:
        """Take the statistics of the tensors at hand, and run the metrics that want them.

        Args:
            program: What is wanted.
            reading: Extended.
            layer: Whose tensors these are.
            tensors: The signals at hand.
            changeable: Whether the model may change them in place once the hook has returned.
        """
        for signal in program.statistics:
            tensor = tensors.get(signal)
            if tensor is not None:
                self._note(signal, copy_if_small(tensor) if changeable else tensor, layer.unit_dim, reading)
        if program.metrics:
            self._measure(program, reading, layer, tensors)

    def _note(self, signal: str, tensor: Tensor, unit_dim: int, reading: Reading) -> None:
        pile, place = self.tally.add((signal,), tensor, unit_dim, self.tape)
        reading.notes.append((pile, place, signal))

    def _measure(self, program: Program, reading: Reading, layer: Layer, tensors: Mapping[str, Tensor | None]) -> None:
        # A metric that computes with a DTensor would start collectives that other ranks do not join.
        weights = {"weight": whole(layer.weight), "bias": whole(layer.bias)} if self._mixes_weights else {}
        self._measure_source(program, reading, layer, Captured({**tensors, **weights}, layer.unit_dim))

    def _measure_source(self, program: Program, reading: Reading, layer: Layer, source: Source) -> None:
        measure(program.metrics, source, reading.values, self.tape, layer.name, self._fault)


def _first_tensor(inputs: Iterable[Any]) -> Tensor | None:
    return next((value for value in inputs if isinstance(value, Tensor)), None)


def _tensors(value: object) -> Iterable[Tensor]:
    """All tensors in a nest of tuples, lists, mappings and dataclass-like objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _tensors(one)
    elif hasattr(value, "__dict__") and not isinstance(value, torch.nn.Module):
        yield from _tensors(vars(value))
