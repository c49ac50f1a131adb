"""Hooks on the model's forward passes: which passes count, and what each call hands to the recorder."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.probe.compiled import called_from_compiled, eager_steps, holds_compiled
from gradscope.probe.computed import parametrization_of
from gradscope.probe.coverage import IN_EVALUATION, WITHOUT_GRADIENT
from gradscope.probe.distributed import why_unseen
from gradscope.probe.hooks import HookSet, StepHook, is_capturing, norm_modules, norm_unit_dim
from gradscope.probe.layers import Layer
from gradscope.probe.recorder import Recorder

# By names of this module: every call of every layer asks.
_is_grad_enabled, _graph_task = torch.is_grad_enabled, torch._C._current_graph_task_id
_transform = torch._C._functorch.peek_interpreter_stack
Fault = Callable[[str, str, Exception], None]


class Attachment:
    """Forward hooks of one probe; they exist only while a step is recorded, and then compiled code runs eagerly.

    Attributes:
        recorder: Where calls go; None between recorded steps.
        compiled: Whether something compiled was seen to run eagerly for a recorded step.
    """

    def __init__(self, model: nn.Module, layers: tuple[Layer, ...], watch_norms: bool, fault: Fault) -> None:
        self.recorder: Recorder | None = None
        self._model = model
        self._layers = layers
        self._watch_norms = watch_norms
        self._fault = fault
        self.compiled = False
        self._hooks = HookSet()
        self._passes = 0
        self._looked = False
        # A probe that is dropped in the middle of a recorded step gives the compiler back.
        weakref.finalize(self, eager_steps.release, id(self)).atexit = False

    def attach(self, recorder: Recorder) -> None:
        """Send the calls of the coming step to a recorder."""
        self.recorder, self._passes = recorder, 0
        if not self._layers:
            return
        eager_steps.hold(id(self))
        if self._hooks:
            return
        for layer in self._layers:
            self._hooks.add(layer.module.register_forward_hook(self._layer_hook(layer), with_kwargs=True))
            parametrization = parametrization_of(layer.module)
            if parametrization is not None:
                self._hooks.add(parametrization.register_forward_hook(self._weight_hook(layer)))
        for module in norm_modules(self._model) if self._watch_norms else ():
            self._hooks.add(module.register_forward_hook(StepHook(self._on_norm)))
        self._hooks.add(self._model.register_forward_pre_hook(StepHook(self._before_forward)))
        self._hooks.add(self._model.register_forward_hook(StepHook(self._after_forward), always_call=True))

    def detach(self) -> None:
        """Remove every hook."""
        if self.recorder is not None:
            self.recorder.finish()
        self.recorder = None
        self._passes = 0
        self._hooks.remove()
        eager_steps.release(id(self))

    def _counts(self) -> bool:
        """A pass without gradient, in eval mode, inside a backward pass or a transform of functions never counts."""
        return (
            _is_grad_enabled()
            and self._model.training
            and _graph_task() == -1
            and _transform() is None
            and not is_capturing()
        )

    def _why_uncounted(self) -> str:
        if is_capturing():
            return "called only while a CUDA graph was captured: nothing can be read then, and replays call no hook"
        if torch._C._current_graph_task_id() != -1:
            return "called only inside a backward pass: the recomputation of a checkpoint is no call"
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return "called only inside a transform (torch.func): its tensors stand for many"
        if not torch.is_grad_enabled():
            return WITHOUT_GRADIENT
        return IN_EVALUATION

    def _before_forward(self, *_: Any) -> None:
        if self.recorder is None:
            return
        if not self._counts():
            if self._passes == 0 and not torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1:
                self.recorder.begin_first_pass()
        else:
            self._passes += 1
            # A model that calls itself is still in its first pass.
            if self._passes == 1:
                self.recorder.begin_pass()
                self._look_for_compiled()

    def _look_for_compiled(self) -> None:
        self.compiled = self.compiled or called_from_compiled() or (not self._looked and holds_compiled(self._model))
        self._looked = True

    def _after_forward(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self.recorder is None or self._passes == 0:
            return
        self._passes -= 1
        if self._passes == 0:
            try:
                self.recorder.end_pass(output)
            except Exception as error:
                self._fault("all layers", "end of the forward pass", error)

    def _layer_hook(self, layer: Layer) -> StepHook:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            recorder = self.recorder
            if recorder is None:
                return
            is_plain = module is layer.module and type(output) is Tensor and args and type(args[0]) is Tensor
            if is_plain and type(module._parameters.get("weight")) is nn.Parameter and self._counts():
                try:
                    if recorder.repeats(layer, args[0], output):
                        return
                except Exception as error:
                    self._fault(layer.name, "forward hook", error)
                    return
            again = 0
            if not self._counts():
                again = self._recomputed(recorder, layer)
                if not again:
                    recorder.uncounted.setdefault(layer.name, self._why_uncounted())
                    return
            unseen = why_unseen(layer.module, module, output)
            if unseen is not None:
                recorder.uncounted[layer.name] = unseen
                return
            try:
                if "weight" not in module._parameters:
                    recorder.computed.used(layer, module)
                recorder.forward(layer, [*args, *kwargs.values()], output, again)
            except Exception as error:
                self._fault(layer.name, "forward hook", error)

        return StepHook(hook)

    def _weight_hook(self, layer: Layer) -> StepHook:
        def hook(_module: nn.Module, _args: Any, weight: Any) -> None:
            if self.recorder is not None:
                self.recorder.computed.made(layer, weight)

        return StepHook(hook)

    def _recomputed(self, recorder: Recorder, layer: Layer) -> int:
        """Number of the call that a reentrant checkpoint made without gradient and now makes again; 0 for any other."""
        if is_capturing() or not self._model.training or torch._C._functorch.peek_interpreter_stack() is not None:
            return 0
        if torch._C._current_graph_task_id() == -1:
            recorder.foresee(layer)
        elif torch.is_grad_enabled():
            return recorder.recomputed(layer)
        else:
            recorder.foresee_again(layer)
        return 0

    def _on_norm(self, module: nn.Module, _args: Any, output: Any) -> None:
        if self.recorder is not None and self._counts():
            try:
                self.recorder.normalized(output, norm_unit_dim(module, output))
            except Exception as error:
                self._fault("all layers", "normalization hook", error)
