"""Read parameters at the step boundary: what the optimizer is about to apply, and what it changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.probe.capture import Captured, FaultHandler, measure
from gradscope.probe.distributed import LocalGradient, is_sharded, local, may_be_sharded, world_size
from gradscope.probe.hooks import on_accumulation
from gradscope.probe.layers import Layer
from gradscope.probe.piles import copy_if_small
from gradscope.probe.plan import Plan, Program
from gradscope.probe.recorder import Recorder
from gradscope.probe.records import Reading
from gradscope.probe.reduce import flat, sample

Parameter = nn.Parameter | None
Tensors = dict[str, Tensor | None]
GRADIENTS = ("weight_grad", "bias_grad")
VALUES = ("weight", "bias")
_NOTHING = Reading()


class ParameterReader:
    """Takes the parameter signals of one probe's layers; they stand on a layer's first call."""

    def __init__(self, layers: Iterable[Layer], plan: Plan, fault: FaultHandler) -> None:
        self._layers = tuple(layers)
        self._plan = plan
        self._fault = fault
        self._recorder: Recorder | None = None
        self._handles: list[Any] = []
        self._armed: list[int] = []
        self._raw_hooks: list[Callable[[Tensor], None]] = []
        self._before: dict[Layer, tuple[Tensor | None, dict[str, Tensor]]] = {}
        self._raw: dict[Layer, Reading] = {}
        self._owned: dict[int, frozenset[int]] = {}
        self._of_raw = plan.program("step", "weight_grad_raw")
        self._of_update = plan.program("step", "weight_update")
        self._forms = plan.forms("weight_update", "weight") if self._of_update.metrics else set()

    def arm(self, recorder: Recorder) -> None:
        """Await the gradients of this step as back-propagation leaves them, and note which passes leave any."""
        self._before.clear()
        self._owned.clear()
        self._raw.clear()
        if self._handles and world_size() == 1 and self._still_fits():
            self._recorder = recorder
            return
        self.disarm()
        self._recorder = recorder
        for layer in self._layers:
            if layer.weight is not None and _has_raw_gradient(layer.weight):
                self._armed.append(id(layer.weight))
                mine = LocalGradient(layer.weight) if self._of_raw and world_size() > 1 else None
                hook = self._raw_hook(layer, mine)
                self._raw_hooks.append(hook)
                self._handles.append(on_accumulation(layer.weight, hook))
                if mine is not None:
                    self._handles.append(mine)

    def _still_fits(self) -> bool:
        return self._armed == [id(layer.weight) for layer in self._layers if _has_raw_gradient(layer.weight)]

    def disarm(self) -> None:
        """Remove every hook on a parameter."""
        for handle in self._handles:
            handle.remove()
        for kept in (self._handles, self._raw_hooks, self._armed, self._before, self._raw):
            kept.clear()
        self._recorder = None

    def _raw_hook(self, layer: Layer, mine: LocalGradient | None) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            recorder = self._recorder
            if recorder is None:
                return
            recorder.trained.add(torch._C._current_graph_task_id())
            if not self._of_raw:
                return
            start = time.perf_counter()
            try:
                if mine is not None and not mine.accumulated(weight):
                    self._raw.pop(layer, None)
                    return
                # Micro-batches accumulate into one gradient: the last reading is the whole.
                if weight.grad is not None:
                    grads: Tensors = {"weight_grad_raw": copy_if_small(weight.grad)}
                    self._raw[layer] = self._reading(recorder, layer, self._of_raw, grads)
            except Exception as error:
                self._fault(layer.name, "gradient hook", error)
            recorder.spent += time.perf_counter() - start

        return hook

    def read(self, recorder: Recorder, optimizer: Optimizer | None, names: tuple[str, ...]) -> None:
        """Read the parameters of an optimizer, or all of them without one; a second reading replaces the first.

        Args:
            recorder: The step.
            optimizer: Whose parameters; None for all.
            names: ``VALUES``, ``GRADIENTS`` or both.
        """
        program = self._plan.program("step", *names)
        part = local if may_be_sharded() else _same
        for layer, weight, bias in self._parameters_of(optimizer):
            try:
                tensors: Tensors = {"weight": part(weight), "bias": part(bias)}
                if "weight_grad" in names:
                    tensors["weight_grad"] = None if weight is None else part(weight.grad)
                    tensors["bias_grad"] = None if bias is None else part(bias.grad)
                found = recorder.parameters.setdefault(layer.name, {})
                found[f"{names[0]} {id(optimizer)}"] = self._reading(recorder, layer, program, tensors)
                if weight is not None and "weight_grad" in names:
                    # Only now: what a later backward pass leaves, as in a GAN, belongs to nobody's step.
                    found["raw"] = self._raw.get(layer, _NOTHING)
                if optimizer is not None and "weight" in names and weight is not None:
                    self._remember(layer, tensors["weight"])
            except Exception as error:
                self._fault(layer.name, "parameters", error)
        # The optimizer is about to change what waits.
        recorder.tally.gather()

    def read_update(self, recorder: Recorder, optimizer: Optimizer) -> None:
        """Read what the optimizer step changed."""
        for layer, weight, _ in self._parameters_of(optimizer):
            before = self._before.pop(layer, None)
            mine = local(weight) if before is not None else None
            if before is None or mine is None:
                continue
            try:
                self._read_update(recorder, layer, mine, *before)
            except Exception as error:
                self._fault(layer.name, "weight update", error)

    def _read_update(
        self, recorder: Recorder, layer: Layer, weight: Tensor, piece: Tensor | None, before: dict[str, Tensor]
    ) -> None:
        reading = recorder.parameters.setdefault(layer.name, {})["update"] = Reading()
        if piece is not None:
            now = self._piece(weight)
            pile, place = recorder.tally.add(("weight_update",), now - piece, layer.unit_dim, recorder.tape)
            reading.notes.append((pile, place, "weight_update"))
        if self._of_update.metrics:
            source = _Update(weight, before)
            measure(self._of_update.metrics, source, reading.values, recorder.tape, layer.name, self._fault)

    def _reading(self, recorder: Recorder, layer: Layer, program: Program, tensors: Tensors) -> Reading:
        reading = Reading()
        for signal in program.statistics:
            tensor = tensors.get(signal)
            if tensor is not None:
                pile, place = recorder.tally.add((signal,), tensor, layer.unit_dim, recorder.tape)
                reading.notes.append((pile, place, signal))
        if program.metrics:
            source = Captured(tensors, layer.unit_dim)
            measure(program.metrics, source, reading.values, recorder.tape, layer.name, self._fault)
        return reading

    def _parameters_of(self, optimizer: Optimizer | None) -> list[tuple[Layer, Parameter, Parameter]]:
        """Layers with weight and bias; with an optimizer, those that it changes."""
        found = [(layer, layer.weight, layer.bias) for layer in self._layers]
        if optimizer is None:
            return found
        mine = self._owned.get(id(optimizer))
        if mine is None:
            mine = frozenset(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
            self._owned[id(optimizer)] = mine
        own = [
            (layer, weight if id(weight) in mine else None, bias if id(bias) in mine else None)
            for layer, weight, bias in found
        ]
        return [one for one in own if one[1] is not None or one[2] is not None]

    def _remember(self, layer: Layer, weight: Tensor | None) -> None:
        if self._of_update and weight is not None:
            piece = self._piece(weight).clone() if "weight_update" in self._of_update.statistics else None
            self._before[layer] = piece, {form: _form(weight, form).clone() for form in self._forms}

    def _piece(self, weight: Tensor) -> Tensor:
        """What is kept of a weight to see its update: a sample, or all of it where moments are wanted."""
        vector = flat(weight)
        exact = "moments" in self._plan.statistics["weight_update"]
        return vector if exact else sample(vector, weight.shape[-1])


class _Update:
    """The weight as it was before the step, and the difference since."""

    def __init__(self, weight: Tensor, before: dict[str, Tensor]) -> None:
        self._weight = weight
        self._before = before

    def get(self, signal: str, form: str) -> Tensor | None:
        """Return the weight before the step, or what the step changed, in the form asked for."""
        before = self._before.get(form)
        if before is None or signal == "weight":
            return before
        return _form(self._weight, form) - before if signal == "weight_update" else None


def _form(weight: Tensor, form: str) -> Tensor:
    return weight.detach() if form == "" else sample(flat(weight), weight.shape[-1])


def _has_raw_gradient(weight: Parameter) -> bool:
    """What reaches a sharded weight has been averaged already."""
    return weight is not None and weight.requires_grad and not is_sharded(weight)


def _same(tensor: Tensor | None) -> Tensor | None:
    return tensor
