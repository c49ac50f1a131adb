"""Read parameters at the step boundary: what the optimizer is about to apply, and what it changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.probe.capture import Captured, FaultHandler, Reading, Source, take
from gradscope.probe.distributed import LocalGradient, is_sharded, local, world_size
from gradscope.probe.hooks import on_accumulation
from gradscope.probe.layers import Layer
from gradscope.probe.plan import Plan, Program
from gradscope.probe.recorder import Recorder
from gradscope.probe.reduce import flat, sample

Parameter = nn.Parameter | None
GRADIENTS = ("weight_grad", "bias_grad")
VALUES = ("weight", "bias")


class ParameterReader:
    """Takes the parameter signals of one probe's layers; they stand on a layer's first call."""

    def __init__(self, layers: Iterable[Layer], plan: Plan, fault: FaultHandler) -> None:
        self._layers = tuple(layers)
        self._plan = plan
        self._fault = fault
        self._handles: list[Any] = []
        self._raw_hooks: list[Callable[[Tensor], None]] = []
        self._before: dict[Layer, dict[str, Tensor]] = {}
        self._of_raw = plan.program("step", "weight_grad_raw")
        self._of_update = plan.program("step", "weight_update")
        self._forms = plan.forms("weight_update") | plan.forms("weight")

    def arm(self, recorder: Recorder) -> None:
        """Await the gradients of this step as back-propagation leaves them."""
        self._before.clear()
        if not self._plan.needs("weight_grad_raw"):
            return
        for layer in self._layers:
            # What reaches a sharded weight has been averaged already.
            if layer.weight is not None and layer.weight.requires_grad and not is_sharded(layer.weight):
                mine = LocalGradient(layer.weight) if world_size() > 1 else None
                hook = self._raw_hook(layer, recorder, mine)
                self._raw_hooks.append(hook)
                self._handles.append(on_accumulation(layer.weight, hook))
                if mine is not None:
                    self._handles.append(mine)

    def disarm(self) -> None:
        """Remove every hook on a parameter."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._raw_hooks.clear()
        self._before.clear()

    def _raw_hook(self, layer: Layer, recorder: Recorder, mine: LocalGradient | None) -> Callable[[Tensor], None]:
        def hook(weight: Tensor) -> None:
            try:
                if mine is not None and not mine.accumulated(weight):
                    recorder.parameters.get(layer.name, {}).pop("raw", None)
                    return
                # Micro-batches accumulate into one gradient: the last reading is the whole.
                source = Captured({"weight_grad_raw": weight.grad}, layer.unit_dim)
                self._read(recorder, layer, "raw", self._of_raw, source)
            except Exception as error:
                self._fault(layer.name, "gradient hook", error)

        return hook

    def read(self, recorder: Recorder, optimizer: Optimizer | None, names: tuple[str, ...]) -> None:
        """Read the parameters of an optimizer, or all of them without one; a second reading replaces the first.

        Args:
            recorder: The step.
            optimizer: Whose parameters; None for all.
            names: ``VALUES``, ``GRADIENTS`` or both.
        """
        program = self._plan.program("step", *names)
        for layer, weight, bias in self._parameters_of(optimizer):
            try:
                tensors: dict[str, Tensor | None] = {"weight": local(weight), "bias": local(bias)}
                if "weight_grad" in names:
                    tensors["weight_grad"] = None if weight is None else local(weight.grad)
                    tensors["bias_grad"] = None if bias is None else local(bias.grad)
                self._read(recorder, layer, names[0], program, Captured(tensors, layer.unit_dim))
                if optimizer is not None and "weight" in names and weight is not None:
                    self._remember(layer, local(weight))
            except Exception as error:
                self._fault(layer.name, "parameters", error)

    def read_update(self, recorder: Recorder, optimizer: Optimizer) -> None:
        """Read what the optimizer step changed."""
        for layer, weight, _ in self._parameters_of(optimizer):
            before, mine = self._before.pop(layer, None), local(weight)
            if before is None or mine is None:
                continue
            try:
                self._read(recorder, layer, "update", self._of_update, _Update(mine, before))
            except Exception as error:
                self._fault(layer.name, "weight update", error)

    def _read(self, recorder: Recorder, layer: Layer, what: str, program: Program, source: Source) -> None:
        reading: Reading = []
        take(program, source, reading, recorder.tape, layer.name, self._fault)
        recorder.parameters.setdefault(layer.name, {})[what] = reading

    def _parameters_of(self, optimizer: Optimizer | None) -> list[tuple[Layer, Parameter, Parameter]]:
        """Layers with weight and bias; with an optimizer, those that it changes."""
        found = [(layer, layer.weight, layer.bias) for layer in self._layers]
        if optimizer is None:
            return found
        mine = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [one for one in found if id(one[1]) in mine or id(one[2]) in mine]

    def _remember(self, layer: Layer, weight: Tensor | None) -> None:
        if self._of_update and weight is not None:
            self._before[layer] = {form: _form(weight, form).clone() for form in self._forms}


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
