"""The probe: follows the steps of a training, records some of them, and writes a run."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.probe.capture import Plan
from gradscope.probe.coverage import Coverage, coverage_frame, coverage_rows, survey
from gradscope.probe.hooks import Hook, HookSet, norm_modules
from gradscope.probe.layers import Layer
from gradscope.probe.parameters import GRADIENTS, VALUES, ParameterReader
from gradscope.probe.recorder import CallRecord, Recorder
from gradscope.probe.rows import UnitWindow, build_rows, histogram_rows, push_windows, unit_rows
from gradscope.probe.table import LayerTable
from gradscope.runs import Run, Writer, load

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger("gradscope.probe")
PENDING_SCALARS = 1000


class Probe:
    """Watches one model. Made by ``gradscope.watch``; use it as a context manager, or call ``close``."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        layers: Sequence[Layer],
        plan: Plan,
        writer: Writer,
        every: int,
    ) -> None:
        self._model = model
        self._optimizers = tuple(optimizers)
        self._layers = tuple(layers)
        self._plan = plan
        self._writer = writer
        self._every = every
        self._step = writer.next_step
        self._table = LayerTable(writer.layers)
        self._windows: dict[Any, UnitWindow] = {}
        self._parameters = ParameterReader(layers, plan, self._fault)
        self._lasting, self._hooks = HookSet(), HookSet()
        self._recorder: Recorder | None = None
        self._coverage: dict[str, Coverage] = {}
        self._faults: dict[str, str] = {}
        self._stepped: set[int] = set()
        self._inside_step = self._in_pass = self._saw_backward = self._closed = False
        self._recorded = 0
        self._pending: list[tuple[int, str, Tensor]] = []
        self._spent, self._start = 0.0, time.perf_counter()
        self._attach_lasting()
        self._arm()

    # What the user calls.

    @property
    def run(self) -> Run:
        """The run so far, everything recorded included."""
        if not self._closed:
            self._flush()
        run = load(self._writer.path)
        assert isinstance(run, Run)
        return run

    @property
    def layers(self) -> pd.DataFrame:
        """The layer calls seen so far, as ``Run.layers`` shows them."""
        return self.run.layers

    @property
    def closed(self) -> bool:
        """Whether the probe has been closed."""
        return self._closed

    @property
    def cost(self) -> float:
        """Share of the time since the probe was made that its own work took, from 0 to 1."""
        return self._spent / max(time.perf_counter() - self._start, 1e-9)

    def coverage(self) -> pd.DataFrame:
        """What the last recorded step showed of every layer, and why something is missing.

        Columns: layer, code, expected and fired output gradients, text.
        """
        unseen = [self._not_yet(layer) for layer in self._layers if layer.name not in self._coverage]
        return coverage_frame([*self._coverage.values(), *unseen])

    def log(self, *, step: int | None = None, **scalars: float | Tensor) -> None:
        """Record scalars, such as the loss; a tensor on a device is fetched later, without a synchronisation.

        They belong to the step in progress if a backward pass was seen since the last step closed, else to the step
        just closed; ``step=`` overrides.

        Raises:
            InvalidTypeError: for a value that is no single number.
        """
        if self._refuse_closed("log"):
            return
        at = self._current() if step is None else step
        ready: dict[str, float] = {}
        for name, value in scalars.items():
            if isinstance(value, Tensor) and value.numel() == 1 and value.device.type != "cpu":
                self._pending.append((at, name, value.detach().reshape(()).clone()))
            else:
                ready[name] = _number(name, value)
        self._writer.scalars(at, ready)
        if len(self._pending) > PENDING_SCALARS:
            self._fetch_scalars()

    def event(self, text: str, *, step: int | None = None) -> None:
        """Record a remark, such as a change of the learning rate; it belongs to the step in progress."""
        if not self._refuse_closed("event"):
            self._writer.event(self._step if step is None else step, str(text))

    def step(self) -> None:
        """Close the step, where no optimizer was given. Call it after backward.

        Raises:
            InvalidValueError: if an optimizer was given: its steps are the steps.
        """
        if self._refuse_closed("step"):
            return
        if self._optimizers:
            raise InvalidValueError(
                "this probe counts the steps of its optimizer; call probe.step() only without one"
            )
        if self._recorder is not None:
            self._parameters.before_step(self._recorder, None, (*VALUES, *GRADIENTS))
        self._close_step()

    def close(self, status: str = "finished", error: str | None = None) -> None:
        """Detach everything and finish the run; closing twice is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            self._keep_unfinished(error)
            self._fetch_scalars()
        except Exception as problem:
            self._fault("all layers", "closing", problem)
        self._detach()
        self._lasting.remove()
        self._writer.close(status, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif isinstance(error, KeyboardInterrupt):
            self.close("interrupted", "KeyboardInterrupt")
        else:
            self.close("failed", f"{type(error).__name__}: {error}")

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """A copy of the model does not record."""

    # Steps.

    def _current(self) -> int:
        if self._saw_backward or self._step == self._first_step:
            return self._step
        return self._step - 1

    def _attach_lasting(self) -> None:
        self._first_step = self._step
        for optimizer in self._optimizers:
            self._lasting.add(optimizer.register_step_pre_hook(Hook(self._before_optimizer)))
            self._lasting.add(optimizer.register_step_post_hook(Hook(self._after_optimizer)))
        trained = [
            layer.weight for layer in self._layers if layer.weight is not None and layer.weight.requires_grad
        ]
        if trained:
            # One flag for the whole backward pass: log() asks whether there was one.
            self._lasting.add(trained[-1].register_post_accumulate_grad_hook(Hook(self._note_backward)))

    def _note_backward(self, _: Tensor) -> None:
        self._saw_backward = True

    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._inside_step = _has_closure(args, kwargs)
        if self._recorder is not None:
            names = VALUES if self._inside_step else (*VALUES, *GRADIENTS)
            start = time.perf_counter()
            if not self._inside_step:
                self._parameters.before_step(self._recorder, optimizer, names)
            self._spent += time.perf_counter() - start

    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._recorder is not None:
            start = time.perf_counter()
            if self._inside_step:
                self._parameters.before_step(self._recorder, optimizer, (*VALUES, *GRADIENTS))
            else:
                self._parameters.after_step(self._recorder, optimizer)
            self._spent += time.perf_counter() - start
        self._inside_step = False
        self._stepped.add(id(optimizer))
        if len(self._stepped) == len(self._optimizers):
            self._close_step()

    def _close_step(self) -> None:
        recorder = self._recorder
        if recorder is not None:
            start = time.perf_counter()
            try:
                self._write(recorder)
            except Exception as error:
                self._fault("all layers", "writing", error)
            self._spent += time.perf_counter() - start + recorder.spent
        self._stepped.clear()
        self._saw_backward = False
        self._step += 1
        self._writer.next_step = self._step
        self._arm()

    def _arm(self) -> None:
        """Hooks exist only while a step is recorded."""
        self._recorder = None
        self._parameters.disarm()
        if self._step % self._every:
            self._hooks.remove()
            return
        self._recorder = Recorder(self._step, self._plan, self._table.ids, self._fault)
        self._parameters.arm(self._recorder)
        if not self._hooks:
            self._attach()

    def _attach(self) -> None:
        for layer in self._layers:
            self._hooks.add(layer.module.register_forward_hook(self._layer_hook(layer), with_kwargs=True))
        if self._plan.needs("activation_input"):
            for module in norm_modules(self._model):
                self._hooks.add(module.register_forward_hook(Hook(self._on_norm)))
        self._hooks.add(self._model.register_forward_pre_hook(Hook(self._before_forward)))
        self._hooks.add(self._model.register_forward_hook(Hook(self._after_forward), always_call=True))

    def _detach(self) -> None:
        if self._recorder is not None:
            self._recorder.open = False
        self._recorder = None
        self._parameters.disarm()
        self._hooks.remove()

    # Forward passes.

    def _counts(self) -> bool:
        """A forward pass without gradient, in eval mode or inside a backward pass (recomputation) never counts."""
        return torch.is_grad_enabled() and self._model.training and torch._C._current_graph_task_id() == -1

    def _before_forward(self, *_: Any) -> None:
        if self._recorder is not None and self._counts():
            if self._inside_step:
                self._recorder.restart()
            self._recorder.begin_pass()
            self._in_pass = True

    def _after_forward(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._recorder is None or not self._in_pass:
            return
        self._in_pass = False
        try:
            self._recorder.end_pass(output)
        except Exception as error:
            self._fault("all layers", "end of the forward pass", error)

    def _layer_hook(self, layer: Layer) -> Hook:
        def hook(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self._recorder is None or not self._counts():
                return
            try:
                self._recorder.forward(layer, [*args, *kwargs.values()], output)
            except Exception as error:
                self._fault(layer.name, "forward hook", error)

        return Hook(hook)

    def _on_norm(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._recorder is not None and self._counts():
            try:
                self._recorder.normalized(output)
            except Exception as error:
                self._fault("all layers", "normalization hook", error)

    # Rows.

    def _write(self, recorder: Recorder, skipped: bool = False) -> None:
        recorder.open = False
        records = list(recorder.records.values())
        numbers = recorder.tape.read()
        if self._table.update(records):
            self._writer.describe(self._table.specs)
        self._write_rows(recorder.step, records, numbers, skipped)
        self._survey(recorder, records)
        self._fetch_scalars()
        self._recorded += 1
        self._writer.tick()

    def _write_rows(self, step: int, records: list[CallRecord], numbers: Any, skipped: bool) -> None:
        if not records:
            return
        shares = push_windows(records, numbers, self._windows)
        dead = {key: window.dead for key, window in self._windows.items() if key in shares}
        found = {key: flags for key, flags in dead.items() if flags is not None}
        rows = build_rows(records, self._plan.metrics, numbers, found, self._fault)
        ids = self._table.ids
        self._writer.rows(
            step,
            np.asarray([ids[record.key] for record in records], dtype=np.int32),
            rows.values,
            rows.present,
            skipped=skipped,
        )
        if self._plan.histograms:
            self._writer.append("histograms", histogram_rows(step, records, ids, numbers))
        if _is_milestone(self._recorded):
            for record in records:
                if record.key in shares:
                    window = self._windows[record.key]
                    rows_of_units = unit_rows(step, record, ids[record.key], shares[record.key], window)
                    self._writer.append("units", rows_of_units)

    def _survey(self, recorder: Recorder, records: list[CallRecord]) -> None:
        found = survey(self._layers, records, recorder.uncounted, self._faults)
        changed = [one for one in found if self._coverage.get(one.layer) != one]
        if changed:
            self._writer.append("coverage", coverage_rows(recorder.step, changed))
        self._coverage = {one.layer: one for one in found}

    def _keep_unfinished(self, error: str | None) -> None:
        """A step that was interrupted after its backward pass is worth keeping: it may show what went wrong."""
        recorder = self._recorder
        if recorder is None or not any(record.fired for record in recorder.records.values()):
            return
        if error is not None:
            self._parameters.before_step(recorder, None, (*VALUES, *GRADIENTS))
            self._write(recorder, skipped=True)
            self._writer.event(recorder.step, f"step {recorder.step} was not finished: {error}", kind="probe")

    def _fetch_scalars(self) -> None:
        pending, self._pending = self._pending, []
        if pending:
            fetched = torch.stack([value.double() for _, _, value in pending]).tolist()
            for (step, name, _), value in zip(pending, fetched, strict=True):
                self._writer.scalars(step, {name: value})

    def _flush(self) -> None:
        self._fetch_scalars()
        self._writer.flush()

    def _not_yet(self, layer: Layer) -> Coverage:
        return Coverage(layer.name, "not_yet", 0, 0, "no step has been recorded yet")

    def _fault(self, layer: str, where: str, error: Exception) -> None:
        """Report an error of ours once; the training never sees it."""
        text = f"{where} failed at step {self._step}: {type(error).__name__}: {error}"
        _log.debug("layer %s: %s", layer, text, exc_info=error)
        key = f"{layer}|{where}"
        if key not in self._faults:
            self._faults[key] = text
            self._faults.setdefault(layer, text)
            self._writer.event(self._step, f"layer {layer}: {text}", kind="probe")
            warnings.warn(f"gradscope: layer {layer}: {text}; the training is not affected", stacklevel=2)

    def _refuse_closed(self, what: str) -> bool:
        if self._closed:
            warnings.warn(f"the probe is closed: probe.{what}() records nothing", stacklevel=3)
        return self._closed


def _has_closure(args: Iterable[Any], kwargs: dict[str, Any]) -> bool:
    return any(callable(one) and not isinstance(one, Optimizer) for one in [*args, kwargs.get("closure")])


def _is_milestone(recorded: int) -> bool:
    """One digit and zeros (0-9, 10, 20, ...): per-unit rows are kept for these, so that they do not grow with time."""
    return recorded < 10 or int(str(recorded)[1:]) == 0


def _number(name: str, value: object) -> float:
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as error:
        given = (
            f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        )
        raise InvalidTypeError(f"scalar {name!r} is a single number, not {given}") from error
