"""Read parameters at the step boundary: what the optimizer is about to apply, and what it changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.metrics import Metric
from gradscope.probe.capture import Captured, Plan, take
from gradscope.probe.hooks import on_accumulation
from gradscope.probe.layers import Layer
from gradscope.probe.recorder import CallRecord, FaultHandler, Recorder
from gradscope.probe.reduce import flat, sample
from gradscope.signals import Request

GRADIENTS = ("weight_grad", "bias_grad")
VALUES = ("weight", "bias")


class ParameterReader:
    """Takes the parameter signals of one probe's layers; they stand on a layer's first call."""

    def __init__(self, layers: Iterable[Layer], plan: Plan, fault: FaultHandler) -> None:
        self._layers = tuple(layers)
        self._plan = plan
        self._fault = fault
        self._handles: list[Any] = []
        self._before: dict[Layer, dict[Request, Tensor]] = {}
        self._update_metrics = _update_metrics(plan)

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
                recorder.raw[layer.name] = self._read(recorder, layer, {"weight_grad_raw": weight.grad})
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
        for layer, record in self._touched(recorder, optimizer):
            try:
                tensors = {name: _parameter(layer, name) for name in names}
                record.reading.merge(self._read(recorder, layer, tensors))
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
                for metric in self._update_metrics:
                    single = Plan((metric,), {}, {"step": (metric,)}, histograms=False)
                    fault = self._metric_fault(layer)
                    record.reading.merge(take(source, "step", single, recorder.tape, fault))
                if "weight_update" in self._plan.moments.get("step", ()):
                    single = Plan((), {"step": ("weight_update",)}, {}, histograms=False)
                    record.reading.merge(take(source, "step", single, recorder.tape, self._metric_fault(layer)))
            except Exception as error:
                self._fault(layer.name, "weight update", error)

    def _touched(self, recorder: Recorder, optimizer: Optimizer | None) -> Iterable[tuple[Layer, CallRecord]]:
        mine = _parameters_of(optimizer) if optimizer is not None else None
        for layer in self._layers:
            record = recorder.records.get((layer.name, 1))
            if record is not None and (mine is None or id(layer.weight) in mine or id(layer.bias) in mine):
                yield layer, record

    def _remember(self, layer: Layer) -> None:
        forms = self._plan.forms("weight_update") | self._plan.forms("weight")
        if layer.weight is None or not self._plan.needs("weight_update"):
            return
        self._before[layer] = {
            Request("weight", form): _form(layer.weight, form).clone() for form in forms | {"sample"}
        }

    def _read(self, recorder: Recorder, layer: Layer, tensors: dict[str, Tensor | None]) -> Any:
        source = Captured(tensors, layer.unit_dim)
        return take(source, "step", self._plan, recorder.tape, self._metric_fault(layer), tuple(tensors))

    def _metric_fault(self, layer: Layer) -> Callable[[str, Exception], None]:
        return lambda metric, error: self._fault(layer.name, f"metric {metric!r}", error)


class _Update:
    """The weight as it was before the step, and the difference since."""

    def __init__(self, weight: Tensor, before: dict[Request, Tensor]) -> None:
        self._weight = weight
        self._before = before

    def get(self, request: Request) -> Tensor | None:
        """Return the weight before the step, or what the step changed, in the form asked for."""
        before = self._before.get(Request("weight", request.form))
        if before is None or request.signal == "weight":
            return before
        return _form(self._weight, request.form) - before if request.signal == "weight_update" else None


def _form(weight: Tensor, form: str) -> Tensor:
    if form == "":
        return weight.detach()
    vector = flat(weight)
    return vector if form == "moments" else sample(vector, weight.shape[-1])


def _parameter(layer: Layer, name: str) -> Tensor | None:
    parameter: nn.Parameter | None = layer.weight if name.startswith("weight") else layer.bias
    if parameter is None or name in VALUES:
        return parameter
    return parameter.grad


def _parameters_of(optimizer: Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _update_metrics(plan: Plan) -> tuple[Metric, ...]:
    def uses_update(metric: Metric) -> bool:
        return any(request.signal == "weight_update" for request in metric.requests)

    return tuple(metric for metric in plan.tensor_metrics.get("step", ()) if uses_update(metric))
