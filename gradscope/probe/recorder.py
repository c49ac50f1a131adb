"""Everything that happens during one recorded step, until its numbers become rows."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.probe.capture import FLAT_UNITS, Captured, CapturedPhi, FaultHandler, Reading, Source, take
from gradscope.probe.contribution import Contribution, find_contribution, fold_circular
from gradscope.probe.distributed import whole
from gradscope.probe.following import Way, find_phi, is_bypassed, read_way
from gradscope.probe.functions import Phi
from gradscope.probe.graph import Product, ancestors, find_product, trace
from gradscope.probe.hooks import on_gradient
from gradscope.probe.layers import Layer
from gradscope.probe.plan import Plan, Program
from gradscope.probe.records import CallRecord, FinishedCall, ForwardPass, Key, MicroBatch, finish
from gradscope.probe.reduce import Tape, flat, sample, unit_step


class Recorder:
    """Collects one recorded step. Its methods are called from hooks; its tape is read at the end of the step.

    Args:
        step: Number of the step.
        plan: What to take.
        known: Calls whose parents are known, with the names of their activation functions.
        fault: Called with layer, place and error when something of ours fails.
    """

    def __init__(self, step: int, plan: Plan, known: Mapping[Key, str], fault: FaultHandler) -> None:
        self.step = step
        self.tape = Tape()
        self.records: dict[Key, CallRecord] = {}
        self.parameters: dict[str, dict[str, Reading]] = {}
        self.uncounted: dict[str, str] = {}
        self.open = True
        self.saw_gradient = False
        self.spent = 0.0
        self._known = known
        self._fault = fault
        self._pass = ForwardPass()
        self._inside = False
        self._wants_phi = plan.needs("activation", "slope", "slope_max", "activation_input", "dead_units")
        self._wants_units = plan.needs("dead_units")
        self._wants_total = plan.needs("next_input_grad", "input_grad_total")
        self._mixes_weights = plan.mixes_weights
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

    def finished_calls(self) -> list[FinishedCall]:
        """Everything that counts of every call, in order of execution; parameters go to a layer's first call."""
        found = []
        for record in self.records.values():
            reading = record.reading()
            if record.call == 1:
                for of_parameters in self.parameters.get(record.layer.name, {}).values():
                    reading.extend(of_parameters)
            found.append(finish(record.key, record.unit_step, reading))
        return found

    def begin_pass(self) -> None:
        """Start a forward pass of the model: calls count from 1 again."""
        self._pass = ForwardPass()
        self._inside = True

    def end_pass(self, outputs: object) -> None:
        """End a forward pass: what no layer consumed ends in the model's outputs."""
        for tensor in _tensors(outputs):
            if tensor.grad_fn is not None:
                for reached in trace(tensor.grad_fn, self._pass.products, self._pass.visited):
                    self._resolve(reached.call, reached.path, tensor)
        self._pass = ForwardPass()
        self._inside = False

    def forward(self, layer: Layer, inputs: Sequence[Any], output: object) -> None:
        """Record a call of a layer."""
        start = time.perf_counter()
        call = self._pass.calls[layer.index] = self._pass.calls.get(layer.index, 0) + 1
        if not isinstance(output, Tensor):
            self.uncounted[layer.name] = f"its output is {type(output).__name__}, not a tensor"
            return
        batch = self.records.setdefault((layer.name, call), CallRecord(layer, call)).open_batch()
        entry = next((value for value in inputs if isinstance(value, Tensor)), None)
        tensors = {"input": entry, "output": output, **self._weights(layer)}
        self._take(self._of_call, Captured(tensors, layer.unit_dim), layer, batch.forward)
        if self._of_u:
            source = Captured({"activation_input": output}, layer.unit_dim)
            self._pass.provisional[batch] = self._take(self._of_u, source, layer, [])
        if output.requires_grad:
            self._expect_gradient(batch, entry, output)
        self.spent += time.perf_counter() - start

    def normalized(self, output: object, unit_dim: int) -> None:
        """Note what a normalization module returned: the activation function may receive it and change it in place."""
        if self._of_u and isinstance(output, Tensor) and output.grad_fn is not None:
            reading: Reading = []
            source = Captured({"activation_input": output}, unit_dim)
            take(self._of_u, source, reading, self.tape, "?", self._fault)
            self._pass.normalized[output.grad_fn] = reading

    def _expect_gradient(self, batch: MicroBatch, entry: Tensor | None, output: Tensor) -> None:
        batch.expects = True
        product = find_product(output)
        if product is not None and product.node in self._pass.products:
            product = None  # another layer's: this one returns a sum of which its own part needs no gradient
        if entry is not None and entry.grad_fn is not None:
            self._connect(batch, entry)
        self._pass.products[product.node if product else output.grad_fn] = batch
        if output._is_view() and self._wants_phi:
            self._pass.outputs[batch] = weakref.ref(output), sample(flat(output), output.shape[-1]).clone()
        if product is None:
            batch.record.contributes = entry is None or not entry.requires_grad
            on_gradient(output, lambda grad: self._on_gradient(batch, grad, None))
        else:
            self._hook_product(batch, product, entry, output.shape)

    def _hook_product(self, batch: MicroBatch, product: Product, entry: Tensor | None, shape: torch.Size) -> None:
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
            elif sent is not None:
                sent = sent.reshape(entry_shape) if found.how == "product" else None
            self._on_gradient(batch, grad.reshape(shape), sent)

        product.node.register_hook(hook)
        if found.node is not None:
            found.node.register_hook(lambda sent, _: self._on_contribution(batch, sent[0]))

    def _on_gradient(self, batch: MicroBatch, grad: Tensor, sent: Tensor | None) -> None:
        self.saw_gradient = True
        if not self.open or not batch.arrive(torch.is_grad_enabled()):
            return
        if not self._inside:
            # Layers called one by one, outside the model's forward, have no end of pass: their backward ends it.
            self._pass = ForwardPass()
        layer = batch.record.layer
        try:
            tensors = {"output_grad": grad, "input_grad": sent, **self._weights(layer)}
            program = self._of_output_gradient if sent is None else self._of_gradient
            self._take(program, Captured(tensors, layer.unit_dim), layer, batch.backward)
            batch.own = sent if self._wants_total else None
        except Exception as error:
            self._fault(layer.name, "backward hook", error)

    def _on_contribution(self, batch: MicroBatch, sent: Tensor | None) -> None:
        """What a call sends back, where a node such as a padding stands between its product and its input."""
        if not self.open or sent is None or batch.fired != 1:
            return
        layer = batch.record.layer
        try:
            self._take(self._of_contribution, Captured({"input_grad": sent}, layer.unit_dim), layer, batch.backward)
            batch.own = sent if self._wants_total else None
        except Exception as error:
            self._fault(layer.name, "input gradient hook", error)

    def _connect(self, batch: MicroBatch, entry: Tensor) -> None:
        """Find the calls that this input comes from, and await its gradient."""
        record = batch.record
        reached = trace(entry.grad_fn, self._pass.products, self._pass.visited)
        understood = [self._resolve(one.call, one.path, entry) for one in reached]
        # A call seen for the first time changes who comes before the calls after it.
        self._pass.discovering = self._pass.discovering or record.key not in self._known
        if self._pass.discovering and not record.parents:
            found = ancestors(entry.grad_fn, self._pass.products, self._pass.memo)
            record.parents = frozenset(parent.record.key for parent in found)
            record.resolved = all(understood)
        batch.sources = [one.call for one in reached]
        if self._wants_total:
            on_gradient(entry, lambda grad: self._on_total(batch, grad))

    def _on_total(self, batch: MicroBatch, grad: Tensor) -> None:
        if not self.open:
            return
        layer = batch.record.layer
        try:
            sent, batch.own = batch.own, None
            if sent is not None and sent.data_ptr() == grad.data_ptr() and sent.shape == grad.shape:
                grad = sent
            tensors = {"input_grad": sent, "input_grad_total": grad, "next_input_grad": grad}
            source = Captured(tensors, layer.unit_dim)
            batch.total = self._take(self._of_total, source, layer, [])
            if batch.sources:
                told = self._take(self._of_next, source, layer, [])
                for parent in batch.sources:
                    parent.told = told
        except Exception as error:
            self._fault(layer.name, "input gradient hook", error)

    def _resolve(self, batch: MicroBatch, path: tuple[Any, ...], end: Tensor) -> bool:
        """Read off what follows a call on the way to ``end``: normalization, activation function, its values.

        Returns:
            Whether everything on the way was understood.
        """
        record, seen = batch.record, self._pass.outputs.get(batch)
        way = read_way(path, seen is not None)
        record.norm = way.norm
        phi = self._find_phi(batch, way, path, end)
        if self._of_u:
            self._merge_u(batch, way, phi)
        if phi is None:
            return way.understood
        source = CapturedPhi(phi, record.layer.unit_dim)
        self._take(self._of_phi, source, record.layer, batch.forward)
        if self._wants_units:
            self._take_flat_units(batch, source, phi)
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
            layer = batch.record.layer
            self._take(self._of_u, CapturedPhi(phi, layer.unit_dim), layer, batch.forward)
        elif way.direct and way.norm == "none":
            batch.forward.extend(self._pass.provisional.get(batch, ()))
        elif way.direct:
            batch.forward.extend(self._pass.normalized.get(way.norm_node, ()))

    def _take_flat_units(self, batch: MicroBatch, source: CapturedPhi, phi: Phi) -> None:
        slope = source.get("slope", "units")
        if isinstance(slope, Tensor) and slope.numel():
            share = (slope == 0).double().mean(dim=(0, 2))
            count = phi.saved.shape[batch.record.layer.unit_dim]
            batch.record.unit_step = unit_step(count, phi.saved.numel() // count)
            batch.forward.append((FLAT_UNITS, "slope", self.tape.put(share), slope.shape[0], share.numel()))

    def _on_phi_gradient(self, batch: MicroBatch, sent: Any, got: Any) -> None:
        if not self.open:
            return
        layer = batch.record.layer
        try:
            source = Captured({"activation_grad": got[0], "activation_input_grad": sent[0]}, layer.unit_dim)
            self._take(self._of_phi_gradient, source, layer, batch.backward)
        except Exception as error:
            self._fault(layer.name, "activation gradient hook", error)

    def _weights(self, layer: Layer) -> dict[str, Tensor | None]:
        # A metric that computes with a DTensor would start collectives that other ranks do not join.
        return {"weight": whole(layer.weight), "bias": whole(layer.bias)} if self._mixes_weights else {}

    def _take(self, program: Program, source: Source, layer: Layer, reading: Reading) -> Reading:
        if program:
            take(program, source, reading, self.tape, layer.name, self._fault)
        return reading


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
