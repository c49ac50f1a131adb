"""Follow a GradScaler: what every gradient still carries of the loss scale, and which steps are skipped.

Nothing here reads a number from a device: scales travel with the numbers of the recorded step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.probe.overhear import overhear, stop_overhearing
from gradscope.probe.recorder import Recorder
from gradscope.probe.scale_notes import Resolve, ScaleNotes

FRAMES = 24


class LossScale:
    """What one recorded step after the other shows of the loss scale.

    Args:
        scaler: The GradScaler; None where none was given.
        counted: Optimizers whose steps are counted.
        on_skip: Called with an optimizer whose step the scaler skipped: its own hooks do not fire then.
        saw_backward: Whether there was a backward pass since the last step closed.
        remark: Called with the step, a key, and what must be said; it is said once for each key.
        fault: Called with layer, place and error when something of ours fails.
    """

    def __init__(
        self,
        scaler: GradScaler | None,
        counted: Iterable[Optimizer],
        on_skip: Callable[[Optimizer], None],
        saw_backward: Callable[[], bool],
        remark: Callable[[int, str, str], None],
        fault: Callable[[str, str, Exception], None],
    ) -> None:
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._counted = {id(one): place for place, one in enumerate(counted, start=1)}
        self._on_skip, self._saw_backward, self._remark, self._fault = on_skip, saw_backward, remark, fault
        self._recorder: Recorder | None = None
        self._notes = ScaleNotes()
        self._stepped = False
        if self._scaler is not None:
            overhear(self._scaler, self)

    def close(self) -> None:
        """Leave the scaler as it was."""
        if self._scaler is not None:
            stop_overhearing(self._scaler, self)

    def begin(self, recorder: Recorder | None) -> None:
        """Start a step; None: it is not recorded."""
        self._recorder, self._notes = recorder, ScaleNotes()

    # What the probe tells.

    def about_to_apply(self, optimizer: Optimizer) -> None:
        """Note what the gradients of an optimizer carry when its recorded step begins."""
        self._guarded(lambda recorder: self._note_applied(recorder, optimizer))

    def about_to_read(self, parameters: Iterable[nn.Parameter]) -> None:
        """Note what gradients carry that are read without an optimizer."""
        self._guarded(lambda _: self._note_read(parameters))

    def applied(self) -> None:
        """Note that an optimizer has stepped: the scaler has not skipped it."""
        self._stepped = True

    def resolver(self) -> Resolve | None:
        """End a recorded step: what turns the numbers of its tape into scales, None where there is no scale."""
        if self._recorder is None or (self._scaler is None and not self._notes.scaled):
            return None
        self._end_stretch(self._recorder)
        return self._notes.resolver(self._recorder.records)

    # What the scaler tells.

    def before(self, method: str, optimizer: Optimizer | None) -> None:
        """Learn that ``step`` or ``update`` is about to run; the latter changes the scale."""
        if method == "step":
            self._stepped = False
        elif method == "update" and self._recorder is not None:
            self._guarded(self._end_stretch)

    def after(self, method: str, optimizer: Optimizer | None) -> None:
        """Learn that ``unscale_`` or ``step`` has returned; a step that no hook has seen was skipped."""
        if optimizer is None:
            return
        if method == "step" and id(optimizer) in self._counted:
            if not self._stepped:
                self._guarded(lambda _: self._note_found(_parameters(optimizer), 1.0))
                self._on_skip(optimizer)
        elif self._recorder is None or not (self._counted or self._saw_backward()):
            return  # where `probe.step()` came first, this belongs to the step that it closed
        elif method == "unscale_":
            self._notes.unscaled |= _parameters(optimizer)
        elif method == "step" and not self._counted:
            self._guarded(lambda _: self._note_uncounted(optimizer))

    def _guarded(self, note: Callable[[Recorder], None]) -> None:
        if self._recorder is None:
            return
        try:
            note(self._recorder)
        except Exception as error:
            self._fault("all layers", "loss scale", error)

    # Notes.

    def _put(self, value: Tensor | float) -> int:
        assert self._recorder is not None
        return self._recorder.tape.put(value.detach().clone() if isinstance(value, Tensor) else value)

    def _scale(self) -> Tensor | float:
        """The scale in force; 1 before the first loss has been scaled."""
        found = self._scaler._get_scale_async() if self._scaler is not None else None
        return 1.0 if found is None else found

    def _note_applied(self, recorder: Recorder, optimizer: Optimizer) -> None:
        parameters, caller, inside = _parameters(optimizer), _calling_scaler(), _grad_scale(optimizer)
        if inside is not None:
            left, self._notes.scaled = inside, True
        elif self._scaler is None or self._notes.unscaled & parameters:
            left = 1.0
        elif caller is self._scaler:
            left = self._scale()  # an optimizer that is given the scaler, and unscales by itself
        else:
            left = 1.0
            self._note_unknown(recorder, optimizer, parameters)
        self._notes.left.update(dict.fromkeys(parameters, self._put(left)))
        found = getattr(optimizer, "found_inf", None)
        if found is not None or self._scaler is not None:
            self._note_found(parameters, 0.0 if found is None else found)
        if caller is not None and caller is not self._scaler:
            self._remark(recorder.step, "scaled", keeps_scale("GradScaler.step called the optimizer"))
        elif inside is not None and self._scaler is None:
            self._remark(recorder.step, "scaled", keeps_scale("grad_scale is set on the optimizer"))

    def _note_unknown(self, recorder: Recorder, optimizer: Optimizer, parameters: frozenset[int]) -> None:
        if not isinstance(self._scale(), Tensor):
            return  # nothing has been scaled yet
        self._notes.unknown |= parameters
        which = self._counted.get(id(optimizer), 1)
        self._remark(
            recorder.step,
            f"unscaled {which}",
            f"optimizer {which} stepped outside scaler.step on gradients that were never unscaled: "
            "whether they carry the loss scale cannot be told, and no error signal of its layers is recorded",
        )

    def _note_found(self, parameters: frozenset[int], found: Tensor | float) -> None:
        self._notes.scaled = True
        self._notes.found.append((parameters, self._put(found)))

    def _note_uncounted(self, optimizer: Optimizer) -> None:
        """Without optimizers to count, ``probe.step()`` comes after the scaler has dealt with the gradients."""
        assert self._scaler is not None
        parameters = _parameters(optimizer)
        state = self._scaler._per_optimizer_states.get(id(optimizer), {})
        found = sum(one.detach().clone() for one in state.get("found_inf_per_device", {}).values())
        self._note_found(parameters, found)
        if not self._notes.unscaled & parameters and isinstance(found, Tensor):
            # A fused optimizer leaves unscaled gradients, or scaled ones where it skipped the step.
            left = torch.where(found > 0, self._scale(), torch.ones_like(found))
            self._notes.left.update(dict.fromkeys(parameters, self._put(left)))

    def _note_read(self, parameters: Iterable[nn.Parameter]) -> None:
        if self._scaler is None:
            return
        place, plain = self._put(self._scale()), self._put(1.0)
        for one in map(id, parameters):
            self._notes.left.setdefault(one, plain if one in self._notes.unscaled else place)

    def _end_stretch(self, recorder: Recorder) -> None:
        """Note the scale, and which calls received a gradient since it last changed."""
        counts = {key: record.fired for key, record in recorder.records.items()}
        fired = frozenset(key for key, count in counts.items() if count > self._notes.counts.get(key, 0))
        self._notes.counts = counts
        if fired or (not self._notes.stretches and self._saw_backward()):
            self._notes.stretches.append((self._put(self._scale()), fired))


def keeps_scale(how: str) -> str:
    """Word what is said of a loss scale that nobody told of."""
    return (
        f"the loss is scaled ({how}), and watch was not given that scaler: from this step on, error signals and "
        "weight_grad_norm_raw carry the loss scale, and skipped steps are not counted"
    )


def _parameters(optimizer: Optimizer) -> frozenset[int]:
    return frozenset(id(one) for group in optimizer.param_groups for one in group["params"])


def _grad_scale(optimizer: Optimizer) -> Tensor | float | None:
    """What the optimizer divides its gradients by inside its step; None where it does not."""
    found = getattr(optimizer, "grad_scale", None) if getattr(optimizer, "_step_supports_amp_scaling", False) else None
    return found if isinstance(found, Tensor | float) else None


def _calling_scaler() -> GradScaler | None:
    """The GradScaler that called this optimizer step, if it scales anything."""
    frame = sys._getframe(1)
    codes = (GradScaler.step.__code__, GradScaler._maybe_opt_step.__code__)
    for _ in range(FRAMES):
        if frame.f_code in codes:
            caller: GradScaler = frame.f_locals["self"]
            return caller if caller.is_enabled() else None
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None
