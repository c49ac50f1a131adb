"""Read parameters at the step boundary: what the optimizer is about to apply, and what it changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.probe.applied import Applied
from gradscope.probe.capture import Captured, FaultHandler, measure
from gradscope.probe.distributed import LocalGradient, is_sharded, local, world_size
from gradscope.probe.hooks import on_accumulation
from gradscope.probe.layers import Layer, plain
from gradscope.probe.piles import PHI, SAMPLED, WHOLE, Pile
from gradscope.probe.plan import Plan, Program
from gradscope.probe.recorder import Recorder
from gradscope.probe.records import Reading
from gradscope.probe.reduce import flat, sample

Parameter = nn.Parameter | None
Tensors = dict[str, Tensor | None]
GRADIENTS = ("weight_grad", "bias_grad")
VALUES = ("weight", "bias")
RAW = ("weight_grad_raw",)
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
        self._roster: list[tuple[Layer, Parameter, Parameter]] = []
        self._ids: list[tuple[int, type, int]] = []
        self._part: Callable[[Tensor | None], Tensor | None] = _same
        self._raw_hooks: list[Callable[[Tensor], None]] = []
        self._before: dict[Layer, Tensor] = {}
        self._forms_before: dict[Layer, dict[str, Tensor]] = {}
        self._raw: dict[Layer, Reading] = {}
        self._applied = Applied()
        self._memory: dict[Any, Tensor] = {}
        self._owned: dict[int, frozenset[int]] = {}
        self._computing: list[Layer] = []
        self._of_raw = plan.program("step", "weight_grad_raw")
        self._of_update = plan.program("step", "weight_update")
        wanted = plan.statistics
        self._keeps_all = not {"moments", "squares"}.isdisjoint(wanted.get("weight_update", ()))
        self._splits = not self._keeps_all and not set(SAMPLED).isdisjoint(wanted.get("weight", ()))
        self._forms = plan.forms("weight_update", "weight") if self._of_update.metrics else set()
        # Compiled code keeps the sample and compares, where that is all that is wanted of updates.
        self._beside = tuple(one for one in wanted.get("weight", ()) if one != "power")
        self._compares = wanted.get("weight_update") == ("power",) and not self._of_update.metrics
        self._compares = self._compares and set(self._beside) <= set(WHOLE)
        self._kept: dict[Layer, tuple[Pile, int]] = {}

    def arm(self, recorder: Recorder) -> None:
        """Await the gradients of this step as back-propagation leaves them, and note which passes leave any."""
        self._before.clear()
        self._forms_before.clear()
        self._owned.clear()
        self._raw.clear()
        self._kept.clear()
        self._applied.clear()
        recorder.tally.forget()
        if self._handles and world_size() == 1 and self._still_fits():
            self._recorder = recorder
            return
        self.disarm()
        self._recorder = recorder
        for layer, weight, _ in self._all():
            if weight is not None and _has_raw_gradient(weight):
                self._armed.append(id(weight))
                mine = LocalGradient(weight) if self._of_raw and world_size() > 1 else None
                hook = self._raw_hook(layer, mine)
                self._raw_hooks.append(hook)
                self._handles.append(on_accumulation(weight, hook))
                if mine is not None:
                    self._handles.append(mine)
        for parameter in self._behind_computed():
            self._armed.append(id(parameter))
            self._handles.append(on_accumulation(parameter, self._note_trained))

    def _still_fits(self) -> bool:
        weights = [weight for _, weight, _ in self._all() if _has_raw_gradient(weight)]
        return self._armed == [id(one) for one in (*weights, *self._behind_computed())]

    def _behind_computed(self) -> list[nn.Parameter]:
        """A parameter of every layer that computes its weight: its gradient shows which backward passes train it."""
        if not self._computing:
            return []
        shaped = [[one for one in layer.module.parameters() if plain(one) is not None] for layer in self._computing]
        found = [next(filter(_has_raw_gradient, parameters), None) for parameters in shaped]
        return [one for one in found if one is not None]

    def _note_trained(self, _: Tensor) -> None:
        if self._recorder is not None:
            self._recorder.trained.add(torch._C._current_graph_task_id())

    def _all(self) -> list[tuple[Layer, Parameter, Parameter]]:
        """Layers with weight and bias; looked up anew where a module has another parameter than before."""
        held = [layer.module._parameters for layer in self._layers]
        # A lazy parameter stays the same object when it is given its shape, of another class.
        ids = [(id(w := one.get("weight")), type(w), id(one.get("bias"))) for one in held]
        if ids != self._ids:
            self._roster = [(layer, layer.weight, layer.bias) for layer in self._layers]
            self._computing = [layer for layer, weight, _ in self._roster if weight is None]
            sharded = any(is_sharded(one) for _, *both in self._roster for one in both)
            self._ids, self._part = ids, local if sharded else _same
        return self._roster

    def disarm(self) -> None:
        """Remove every hook on a parameter."""
        for handle in self._handles:
            handle.remove()
        for kept in (
            self._handles,
            self._raw_hooks,
            self._armed,
            self._before,
            self._forms_before,
            self._raw,
            self._kept,
        ):
            kept.clear()
        self._recorder = None

    def _raw_hook(self, layer: Layer, mine: LocalGradient | None) -> Callable[[Tensor], None]:
        follows = world_size() == 1

        def hook(weight: Tensor) -> None:
            recorder = self._recorder
            if recorder is None:
                return
            task = torch._C._current_graph_task_id()
            recorder.trained.add(task)
            # Where several ranks train, DistributedDataParallel puts gradients where it likes.
            if follows and weight.grad is not None:
                self._applied.arrived(layer, weight.grad, task)
            if not self._of_raw:
                return
            start = time.perf_counter()
            try:
                if mine is not None and not mine.accumulated(weight):
                    self._raw.pop(layer, None)
                    return
                # Micro-batches accumulate into one gradient: the last reading is the whole.
                grad = weight.grad
                if grad is not None and not self._of_raw.metrics:
                    pile, place = recorder.tally.add(RAW, grad, layer.unit_dim, recorder.tape)
                    self._raw[layer] = Reading([(pile, place, "weight_grad_raw")])
                elif grad is not None:
                    self._raw[layer] = self._reading(recorder, layer, self._of_raw, {"weight_grad_raw": grad})
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
        roster = self._parameters_of(optimizer)
        remembers = optimizer is not None and "weight" in names and bool(self._of_update)
        compares = remembers and self._compares and self._part is _same
        if remembers and not compares:
            self._remember(recorder, roster)
        left = [one for one in roster if not self._read_layer(recorder, one, optimizer, names, compares)]
        if left:
            self._remember(recorder, left)
            for one in left:
                self._read_layer(recorder, one, optimizer, names, False)
        recorder.dropped = self._applied.dropped
        if recorder.computed and "weight_grad" in names:
            self._read_computed(recorder, optimizer)

    def _read_layer(
        self,
        recorder: Recorder,
        one: tuple[Layer, Parameter, Parameter],
        optimizer: Optimizer | None,
        names: tuple[str, ...],
        compares: bool,
    ) -> bool:
        """Read the parameters of a layer; tell whether compiled code kept its weight, where it is to."""
        (layer, weight, bias), part = one, self._part
        try:
            # Just before it is read, so that it comes from memory once.
            if compares and weight is not None and weight.requires_grad and not self._keeps(recorder, layer, weight):
                return False
            tensors: Tensors = {"weight": part(weight), "bias": part(bias)}
            if "weight_grad" in names:
                tensors["weight_grad"] = None if weight is None else part(weight.grad)
                tensors["bias_grad"] = None if bias is None else part(bias.grad)
            found, program = recorder.parameters.setdefault(layer.name, {}), self._plan.program("step", *names)
            key = f"{names[0]} {id(optimizer)}"
            found[key] = self._reading(recorder, layer, program, tensors, layer in self._before)
            if weight is not None and "weight_grad" in names:
                self._applied.apply(layer, weight.grad)
                # Only now: what a later backward pass leaves, as in a GAN, belongs to nobody's step.
                found["raw"] = self._raw.get(layer, _NOTHING)
        except Exception as error:
            self._fault(layer.name, "parameters", error)
        return True

    def _read_computed(self, recorder: Recorder, optimizer: Optimizer | None) -> None:
        """Read weights that layers compute, as the forward pass used them, with their gradients."""
        program = self._plan.program("step", *VALUES, *GRADIENTS)
        mine = None if optimizer is None else self._ids_of(optimizer)
        for layer, tensors in recorder.computed.read(recorder.trained):
            if mine is None or any(id(one) in mine for one in layer.module.parameters()):
                found = recorder.parameters.setdefault(layer.name, {})
                found["computed"] = self._reading(recorder, layer, program, tensors)

    def _remember(self, recorder: Recorder, roster: Iterable[tuple[Layer, Parameter, Parameter]]) -> None:
        """Keep samples of weights as they are before the optimizer step, in one vector for each type and device."""
        try:
            # A frozen weight has no update: not one of zero.
            trained = [(layer, one) for layer, one, _ in roster if one is not None and one.requires_grad]
            weights = [(layer, self._part(weight)) for layer, weight in trained]
            groups: dict[Any, list[tuple[Layer, Tensor]]] = {}
            for layer, weight in weights:
                if weight is not None:
                    groups.setdefault((weight.dtype, weight.device), []).append((layer, self._piece(weight)))
            for pieces in groups.values():
                copied = self._joined("before", [piece for _, piece in pieces])
                self._before.update(zip([one for one, _ in pieces], _cut(copied, pieces), strict=True))
            for layer, weight in weights if self._forms else ():
                if weight is not None:
                    self._forms_before[layer] = {form: _form(weight, form).clone() for form in self._forms}
        except Exception as error:
            self._fault("all layers", "weights before the step", error)

    def _keeps(self, recorder: Recorder, layer: Layer, weight: Tensor) -> bool:
        """Let compiled code keep a sample of a weight; tell whether it could."""
        pile, number = recorder.tally.keep(weight)
        if number >= 0:
            self._kept[layer] = pile, number
        return number >= 0

    def read_update(self, recorder: Recorder, optimizer: Optimizer) -> None:
        """Read what the optimizer step changed."""
        if not self._kept and not self._before:
            return
        groups: dict[Any, list[tuple[Layer, Tensor, Tensor]]] = {}
        roster = self._parameters_of(optimizer)
        for layer, weight, _ in roster if self._kept else ():
            pile, number = self._kept.pop(layer, (None, -1))
            place = -1 if pile is None or weight is None else pile.change(weight, number)
            if pile is not None and place >= 0:
                recorder.parameters.setdefault(layer.name, {})["update"] = Reading([(pile, place, PHI)])
        for layer, weight, _ in roster if self._before else ():
            before, mine = self._before.pop(layer, None), self._part(weight)
            if before is not None and mine is not None:
                groups.setdefault((mine.dtype, mine.device), []).append((layer, mine, before))
        for group in groups.values():
            try:
                self._read_updates(recorder, group)
            except Exception as error:
                self._fault("all layers", "weight update", error)

    def _read_updates(self, recorder: Recorder, group: list[tuple[Layer, Tensor, Tensor]]) -> None:
        change = self._joined("after", [self._piece(weight) for _, weight, _ in group])
        # All that was kept, as a rule, lies there in this order.
        kept = self._memory["before", change.dtype, change.device]
        change -= kept if kept.numel() == change.numel() else torch.cat([before for _, _, before in group])
        updates = _cut(change, [(layer, before) for layer, _, before in group])
        for (layer, weight, _), update in zip(group, updates, strict=True):
            reading = recorder.parameters.setdefault(layer.name, {})["update"] = Reading()
            if "weight_update" in self._of_update.statistics:
                pile, place = recorder.tally.add(("weight_update",), update, layer.unit_dim, recorder.tape)
                reading.notes.append((pile, place, "weight_update"))
            if self._of_update.metrics:
                source = _Update(weight, self._forms_before.pop(layer, {}))
                measure(self._of_update.metrics, source, reading.values, recorder.tape, layer.name, self._fault)

    def _reading(
        self, recorder: Recorder, layer: Layer, program: Program, tensors: Tensors, has_sample: bool = False
    ) -> Reading:
        reading, tally = Reading(), recorder.tally
        for signal in program.statistics:
            tensor = tensors.get(signal)
            if tensor is None:
                continue
            if signal == "weight" and layer in self._kept:
                # What is kept to see the update serves the statistics of samples, too.
                if not self._beside:
                    continue
                pile, place = tally.add((signal,), tensor, layer.unit_dim, recorder.tape, self._beside)
            elif signal == "weight" and has_sample and self._splits:
                # The sample that shows the update serves the statistics of samples, too.
                pile, place = tally.add((signal,), self._before[layer], layer.unit_dim, recorder.tape, SAMPLED)
                reading.notes.append((pile, place, signal))
                pile, place = tally.add((signal,), tensor, layer.unit_dim, recorder.tape, WHOLE)
            else:
                pile, place = tally.add((signal,), tensor, layer.unit_dim, recorder.tape)
            reading.notes.append((pile, place, signal))
        if program.metrics:
            source = Captured(tensors, layer.unit_dim)
            measure(program.metrics, source, reading.values, recorder.tape, layer.name, self._fault)
        return reading

    def _parameters_of(self, optimizer: Optimizer | None) -> list[tuple[Layer, Parameter, Parameter]]:
        """Layers with weight and bias; with an optimizer, those that it changes."""
        found = self._all()
        if optimizer is None:
            return found
        mine = self._ids_of(optimizer)
        own = [
            (layer, weight if id(weight) in mine else None, bias if id(bias) in mine else None)
            for layer, weight, bias in found
        ]
        return [one for one in own if one[1] is not None or one[2] is not None]

    def _ids_of(self, optimizer: Optimizer) -> frozenset[int]:
        mine = self._owned.get(id(optimizer))
        if mine is None:
            mine = frozenset(id(parameter) for group in optimizer.param_groups for parameter in group["params"])
            self._owned[id(optimizer)] = mine
        return mine

    def _joined(self, what: str, pieces: list[Tensor]) -> Tensor:
        """Pieces one after the other, in memory that is used again: fresh memory costs page faults."""
        like = pieces[0]
        key, size = (what, like.dtype, like.device), sum([piece.numel() for piece in pieces])
        held = self._memory.get(key)
        if held is None or held.numel() != size:
            held = self._memory[key] = like.new_empty(size)
        with torch.no_grad():
            return torch.cat(pieces, out=held)

    def _piece(self, weight: Tensor) -> Tensor:
        """What is kept of a weight to see its update: a sample, or all of it where moments are wanted."""
        vector = flat(weight)
        return vector if self._keeps_all else sample(vector, weight.shape[-1])


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


def _cut(whole: Tensor, pieces: Iterable[tuple[Layer, Tensor]]) -> Iterable[Tensor]:
    """A vector in parts as long as these."""
    sizes = [piece.numel() for _, piece in pieces]
    return torch.split_with_sizes(whole, sizes)


def _form(weight: Tensor, form: str) -> Tensor:
    return weight.detach() if form == "" else sample(flat(weight), weight.shape[-1])


def _has_raw_gradient(weight: Parameter) -> bool:
    """What reaches a sharded weight has been averaged already."""
    return weight is not None and weight.requires_grad and not is_sharded(weight)


def _same(tensor: Tensor | None) -> Tensor | None:
    return tensor
