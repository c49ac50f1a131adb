"""Everything that happens during one recorded step, until its numbers become rows."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradscope.probe.capture import Captured, CapturedPhi, FaultHandler, Reading, Source, take
from gradscope.probe.following import Way, find_phi, read_way
from gradscope.probe.functions import Phi
from gradscope.probe.graph import Product, ancestors, find_product, trace
from gradscope.probe.hooks import on_gradient
from gradscope.probe.layers import Layer
from gradscope.probe.plan import Plan, Program
from gradscope.probe.records import CallRecord, ForwardPass, Key
from gradscope.probe.reduce import Tape, flat, sample, unit_step


class Recorder:
    """Collects one recorded step. Methods are called from hooks; ``numbers`` of the tape are read at its end."""

    def __init__(self, step: int, plan: Plan, known: Iterable[Key], fault: FaultHandler) -> None:
        self.step = step
        self.plan = plan
        self.tape = Tape()
        self.records: dict[Key, CallRecord] = {}
        self.raw: dict[str, Reading] = {}
        self.uncounted: dict[str, str] = {}
        self.open = True
        self.spent = 0.0
        self._known = frozenset(known)
        self._fault = fault
        self._pass = ForwardPass()
        self._inside = False
        self._wants_phi = plan.needs("activation", "slope", "slope_max", "activation_input", "dead_units")
        self._of_call = plan.program("forward", "input", "output")
        self._of_u = plan.program("forward", "activation_input")
        self._of_phi = plan.program("activation", "activation", "slope", "slope_max")
        self._of_phi_gradient = plan.program("activation_backward", "activation_grad", "activation_input_grad")
        self._of_gradient = plan.program("backward", "output_grad", "input_grad")
        self._of_total = plan.program("input_total", "input_grad", "input_grad_total")
        self._of_next = plan.program("next", "next_input_grad")
        self._wants_total = plan.needs("next_input_grad", "input_grad_total")

    def restart(self) -> None:
        """Forget what was collected: an optimizer with a closure evaluates again, and the last evaluation counts."""
        self.tape = Tape()
        self.records = {}
        self.raw = {}

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
        record = self.records.setdefault((layer.name, call), CallRecord(layer, call))
        entry = next((value for value in inputs if isinstance(value, Tensor)), None)
        source = Captured(
            {"input": entry, "output": output, "weight": layer.weight, "bias": layer.bias}, layer.unit_dim
        )
        self._take(self._of_call, source, record)
        if self._of_u:
            source = Captured({"activation_input": output}, layer.unit_dim)
            self._pass.provisional[record] = self._take(self._of_u, source, record, Reading())
        if output.requires_grad:
            self._expect_gradient(record, entry, output)
        self.spent += time.perf_counter() - start

    def normalized(self, output: object, unit_dim: int) -> None:
        """Note what a normalization module returned: the activation function may receive it and change it in place."""
        if self._of_u and isinstance(output, Tensor) and output.grad_fn is not None:
            source, reading = Captured({"activation_input": output}, unit_dim), Reading()
            take(self._of_u, source, reading, self.tape, "?", self._fault)
            self._pass.normalized[output.grad_fn] = reading

    def _expect_gradient(self, record: CallRecord, entry: Tensor | None, output: Tensor) -> None:
        record.expected += 1
        own: list[Tensor] = []
        product = find_product(output)
        node = product.node if product else output.grad_fn
        if entry is not None and entry.grad_fn is not None:
            self._connect(record, entry, own)
        self._pass.products[node] = record
        hides = output._is_view() and self._wants_phi
        before = sample(flat(output), output.shape[-1]).clone() if hides else None
        self._pass.outputs[record] = None if before is None else (weakref.ref(output), before)
        if product is None:
            on_gradient(output, lambda grad: self._on_gradient(record, grad, None, own))
        else:
            product.node.register_hook(self._product_hook(record, product, own))

    def _product_hook(self, record: CallRecord, product: Product, own: list[Tensor]) -> Callable[[Any, Any], None]:
        edge = product.input_edge

        def hook(grad_inputs: Any, grad_outputs: Any) -> None:
            sent = grad_inputs[edge] if edge < len(grad_inputs) else None
            self._on_gradient(record, grad_outputs[0], sent, own)

        return hook

    def _on_gradient(self, record: CallRecord, grad: Tensor | None, sent: Tensor | None, own: list[Tensor]) -> None:
        if not self.open or grad is None:
            return
        if not self._inside:
            # Layers called one by one, outside the model's forward, have no end of pass: let go of their graph here.
            self._pass = ForwardPass(calls=self._pass.calls)
        try:
            record.fired += 1
            layer = record.layer
            tensors = {"output_grad": grad, "input_grad": sent, "weight": layer.weight, "bias": layer.bias}
            self._take(self._of_gradient, Captured(tensors, layer.unit_dim), record)
            if sent is not None and self._wants_total:
                # Kept only until the gradient of the input, of which it is a part, is complete.
                own.append(sent)
        except Exception as error:
            self._fault(record.layer.name, "backward hook", error)

    def _connect(self, record: CallRecord, entry: Tensor, own: list[Tensor]) -> None:
        """Find the calls that this input comes from, and await its gradient."""
        reached = trace(entry.grad_fn, self._pass.products, self._pass.visited)
        for one in reached:
            self._resolve(one.call, one.path, entry)
        if record.key not in self._known and not record.parents:
            found = ancestors(entry.grad_fn, self._pass.products, self._pass.memo)
            record.parents = frozenset(parent.key for parent in found)
        sources = [one.call for one in reached]
        if self._wants_total:
            on_gradient(entry, lambda grad: self._on_total(record, sources, grad, own))

    def _on_total(self, record: CallRecord, sources: list[CallRecord], grad: Tensor, own: list[Tensor]) -> None:
        if not self.open:
            return
        try:
            sent = own.pop() if own else None
            if sent is not None and sent.data_ptr() == grad.data_ptr() and sent.numel() == grad.numel():
                grad = sent
            source = Captured(
                {"input_grad": sent, "input_grad_total": grad, "next_input_grad": grad}, record.layer.unit_dim
            )
            self._take(self._of_total, source, record)
            if sources:
                shared = self._next_reading(record, source, grad is sent)
                for parent in sources:
                    parent.reading.merge(shared)
        except Exception as error:
            self._fault(record.layer.name, "input gradient hook", error)

    def _next_reading(self, record: CallRecord, source: Source, only_path: bool) -> Reading:
        """What the calls before this input are told of its gradient."""
        own = record.reading.moments.get("input_grad")
        if only_path and own and self._of_next.moments and not (self._of_next.metrics or self._of_next.histograms):
            # The only path: its moments have been taken already.
            return Reading(moments={"next_input_grad": [own[-1]]})
        return self._take(self._of_next, source, record, Reading())

    def _resolve(self, record: CallRecord, path: tuple[Any, ...], end: Tensor) -> None:
        """Read off what follows a call on the way to ``end``: normalization, activation function, its values."""
        seen = self._pass.outputs.get(record)
        way = read_way(path, seen is not None)
        record.norm = way.norm
        try:
            record.activation, phi = find_phi(way, end, seen)
        except RuntimeError as error:
            # Changed in place since: back-propagation will fail on it too.
            self._fault(record.layer.name, "saved activation", error)
            record.activation, phi = "?", None
        if self._of_u:
            self._merge_u(record, way, phi)
        if phi is None:
            return
        source = CapturedPhi(phi, record.layer.unit_dim)
        self._take(self._of_phi, source, record)
        if self.plan.needs("dead_units"):
            self._take_flat_units(record, source, phi)
        if self._of_phi_gradient and way.node is not None:
            way.node.register_hook(lambda sent, got: self._on_phi_gradient(record, sent, got))

    def _merge_u(self, record: CallRecord, way: Way, phi: Phi | None) -> None:
        if phi is not None and phi.saved_input:
            source = CapturedPhi(phi, record.layer.unit_dim)
            self._take(self._of_u, source, record)
        elif way.direct and way.norm == "none":
            record.reading.merge(self._pass.provisional.get(record, Reading()))
        elif way.direct:
            record.reading.merge(self._pass.normalized.get(way.norm_node, Reading()))

    def _take_flat_units(self, record: CallRecord, source: CapturedPhi, phi: Phi) -> None:
        slope = source.get("slope", "units")
        if isinstance(slope, Tensor) and slope.numel():
            share = (slope == 0).double().mean(dim=(0, 2))
            record.unit_step = unit_step(
                phi.saved.shape[record.layer.unit_dim],
                phi.saved.numel() // phi.saved.shape[record.layer.unit_dim],
            )
            record.reading.flat_units.append((slope.shape[0], share.numel(), self.tape.put(share)))

    def _on_phi_gradient(self, record: CallRecord, sent: Any, got: Any) -> None:
        if not self.open:
            return
        try:
            tensors = {"activation_grad": got[0], "activation_input_grad": sent[0]}
            source = Captured(tensors, record.layer.unit_dim)
            self._take(self._of_phi_gradient, source, record)
        except Exception as error:
            self._fault(record.layer.name, "activation gradient hook", error)

    def _take(self, program: Program, source: Source, record: CallRecord, reading: Reading | None = None) -> Reading:
        reading = record.reading if reading is None else reading
        if program:
            take(program, source, reading, self.tape, record.layer.name, self._fault)
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
