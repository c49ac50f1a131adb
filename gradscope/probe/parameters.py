"""Read parameters at the step boundary: what the optimizer is about to apply, and what it changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.probe.capture import Captured, FaultHandler, Reading, take
from gradscope.probe.hooks import on_accumulation
from gradscope.probe.layers import Layer
from gradscope.probe.plan import Plan
from gradscope.probe.recorder import Recorder
from gradscope.probe.records import CallRecord
from gradscope.probe.reduce import flat, sample

GRADIENTS = ("weight_grad", "bias_grad")
VALUES = ("weight", "bias")


class ParameterReader:
    """Takes the parameter signals of one probe's layers; they stand on a layer's first call."""

    def __init__(self, layers: Iterable[Layer], plan: Plan, fault: FaultHandler) -> None:
        self._layers = tuple(layers)
        self._plan = plan
        self._fault = fault
        self._handles: list[Any] = []
        self._before: dict[Layer, dict[str, Tensor]] = {}
        self._of_raw = plan.program("step", "weight_grad_raw")
        self._of_update = plan.program("step", "weight_update")

    def arm(self, recorder: Recorder) -> None:
        """Await the gradients of this step as back-propagation leaves them."""
        self._before.clear()
        if not self._plan.needs("weight_grad_raw"):
            return
        for layer in self._layers:
            if layer.weight is not None and layer.weight.requires_grad:
                hook = self._raw_hook(layer, recorder)
                self._handles.append(on_accumulation(layer.weight, hook))

    def disarm(self) -> None:
        """Remove every hook on a parameter."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._before.clear()

    def _raw_hook(self, layer: Layer, recorder: Recorder) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            try:
                # Micro-batches accumulate into one gradient: the last reading is the whole.
                reading = Reading()
                source = Captured({"weight_grad_raw": weight.grad}, layer.unit_dim)
                take(self._of_raw, source, reading, recorder.tape, layer.name, self._fault)
                recorder.raw[layer.name] = reading
            except Exception as error:
                self._fault(layer.name, "gradient hook", error)

        return hook

    def before_step(self, recorder: Recorder, optimizer: Optimizer | None, names: tuple[str, ...]) -> None:
        """Read the parameters that an optimizer is about to change, or all of them without one.

        Args:
            recorder: The step.
            optimizer: Whose parameters; None for all.
            names: Which of weight, bias, weight_grad and bias_grad to read.
        """
        program = self._plan.program("step", *names)
        for layer, record in self._touched(recorder, optimizer):
            try:
                tensors = {name: _parameter(layer, name) for name in names}
                source = Captured(tensors, layer.unit_dim)
                take(program, source, record.reading, recorder.tape, layer.name, self._fault)
                raw = recorder.raw.pop(layer.name, None) if "weight_grad" in names else None
                if raw is not None:
                    record.reading.merge(raw)
                if optimizer is not None and "weight" in names:
                    self._remember(layer)
            except Exception as error:
                self._fault(layer.name, "parameters", error)

    def after_step(self, recorder: Recorder, optimizer: Optimizer) -> None:
        """Read what the optimizer step changed."""
        for layer, record in self._touched(recorder, optimizer):
            before = self._before.pop(layer, None)
            if before is None or layer.weight is None:
                continue
            try:
                source = _Update(layer.weight, before)
                take(self._of_update, source, record.reading, recorder.tape, layer.name, self._fault)
            except Exception as error:
                self._fault(layer.name, "weight update", error)

    def _touched(self, recorder: Recorder, optimizer: Optimizer | None) -> Iterable[tuple[Layer, CallRecord]]:
        mine = _parameters_of(optimizer) if optimizer is not None else None
        for layer in self._layers:
            record = recorder.records.get((layer.name, 1))
            if record is not None and (mine is None or id(layer.weight) in mine or id(layer.bias) in mine):
                yield layer, record

    def _remember(self, layer: Layer) -> None:
        if layer.weight is not None and self._of_update:
            forms = self._plan.forms("weight_update") | self._plan.forms("weight")
            self._before[layer] = {form: _form(layer.weight, form).clone() for form in forms}


class _Update:
    """The weight as it was before the step, and the difference since."""

    def __init__(self, weight: Tensor, before: dict[str, Tensor]) -> None:
        self._weight = weight
        self._before = before

    def get(self, signal: str, form: str) -> Tensor | None:
        """Return the weight before the step, or what the step changed, in the form asked for."""
        before = self._before.get("moments" if form == "flat" else form)
        if before is None or signal == "weight":
            return before
        return _form(self._weight, form) - before if signal == "weight_update" else None


def _form(weight: Tensor, form: str) -> Tensor:
    if form == "":
        return weight.detach()
    vector = flat(weight)
    return sample(vector, weight.shape[-1]) if form == "sample" else vector


def _parameter(layer: Layer, name: str) -> Tensor | None:
    parameter: nn.Parameter | None = layer.weight if name.startswith("weight") else layer.bias
    if parameter is None or name in VALUES:
        return parameter
    return parameter.grad


def _parameters_of(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
