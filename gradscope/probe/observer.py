"""The probe: follows the steps of a training, records some of them, and writes a run."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.probe.attachment import Attachment
from gradscope.probe.backlog import Backlog
from gradscope.probe.closures import has_closure, restarting
from gradscope.probe.compiled import outside_compiled
from gradscope.probe.coverage import coverage_frame
from gradscope.probe.flags import Flag, hooked, spread
from gradscope.probe.hooks import HookSet, is_capturing
from gradscope.probe.information import Informant
from gradscope.probe.layers import Layer
from gradscope.probe.loss_scale import LossScale
from gradscope.probe.meter import Meter
from gradscope.probe.nesting import is_inner_step, may_nest
from gradscope.probe.pacing import raised
from gradscope.probe.parameters import GRADIENTS, VALUES, ParameterReader
from gradscope.probe.plan import Plan
from gradscope.probe.recorder import Recorder
from gradscope.probe.reduce import on_host
from gradscope.probe.scaling import without_degree
from gradscope.probe.sink import Sink
from gradscope.probe.tiers import Scope, add_uncalled, moved_since
from gradscope.runs import Run, Writer, load
from gradscope.runs.coverage import CoverageTable
from gradscope.runs.given import real, warn_always, whole

if TYPE_CHECKING:
    import pandas as pd

FLAGS = 4


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
        *,
        budget: float | None = None,
        scaler: GradScaler | None = None,
        scope: Scope | None = None,
        informant: Informant | None = None,
    ) -> None:
        self._model = model
        self._optimizers = tuple(optimizers)
        self._plan = plan
        self._writer = writer
        self._meter = Meter(every, budget)
        self._every = every
        self._step = self._first_step = writer.next_step
        self._scope = scope or Scope()
        self._layers = tuple(layers)
        self._sink = Sink(writer, plan, self._layers, self._scope, informant)
        self._parameters = ParameterReader(layers, plan, self._fault)
        seen = tuple(layer for layer in layers if layer.name not in self._scope.limits)
        self._attachment = Attachment(model, seen, plan.needs("activation_input"), self._fault)
        self._loss_scale = LossScale(
            scaler, self._optimizers, self._skip, self._saw_backward, self._sink.remark, self._fault
        )
        self._lasting, self._recording = HookSet(), HookSet()
        self._before_step = outside_compiled(self._before_optimizer)
        self._recorder: Recorder | None = None
        self._stepped: set[int] = set()
        self._nesting = may_nest(self._optimizers)
        self._backward = Flag()
        self._evaluates = self._closed = False
        # A probe that is dropped together with its model leaves a finished run.
        self._finalizer = weakref.finalize(self, _finish, self._sink.backlog, writer)
        self._finalizer.atexit = False
        self._attach_lasting()
        self._say_what_stays_scaled(scaler)
        self._arm()

    # What the user calls.

    @property
    def run(self) -> Run:
        """The run so far, everything recorded included."""
        if not self._closed:
            self._sink.settle()
            self._writer.flush()
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
        """Share of the training's time that watching takes, from 0 to 1.

        (own work + what nobody's clock sees + 5 us for every unrecorded step) / all that passes, by the clock of this
        process. Own work is timed: hooks, reading of parameters, writing. The second is how much longer the rest of a
        recorded step, and of the two after it, is than the third: torch calling hooks, cold caches. It is the median
        of the last 31 periods, at least 0 and at most the own work; 20 % of that where there are not yet 5 periods,
        or every step or every second is recorded. Counted since the probe was made; with ``every="auto"`` since the
        first recorded step, and anew where ``every`` is raised (until a step is recorded, what is expected of it).
        0 before the first step is recorded. On a GPU it is the host's time: kernels of ours that the host does not
        wait for are not in it.
        """
        return self._meter.cost

    def coverage(self) -> CoverageTable:
        """What the last recorded step showed of every layer, and why something is missing; print it to read it.

        A DataFrame. Columns: layer, code, expected and fired output gradients, text, and the tiers ``parameters``
        (weights, their gradients and updates), ``boundaries`` (activations and error signals) and ``units`` (of
        activation functions), each ``yes``, ``no`` or ``part``.
        """
        return coverage_frame(self._sink.coverage(moved_since(self._model, self._layers, self._scope)))

    def log(self, *, step: int | None = None, **scalars: float | Tensor) -> None:
        """Record scalars, such as the loss; a tensor on a device is fetched later, without a synchronisation.

        They belong to the step in progress if a backward pass was seen since the last step closed, else to the step
        just closed; ``step=`` overrides.

        Raises:
            InvalidTypeError: for a value that is no single real number, or a step that is no whole number.
            InvalidValueError: for a number beyond the range of a float.
        """
        if not self._refuse_closed("log"):
            at = self._current() if step is None else whole("step", step)
            self._sink.scalars(at, {name: _number(name, value) for name, value in scalars.items()})

    def event(self, text: str, *, step: int | None = None) -> None:
        """Record a remark, such as a change of the learning rate; it belongs to the step in progress."""
        if not self._refuse_closed("event"):
            self._writer.event(self._step if step is None else whole("step", step), str(text))

    def step(self) -> None:
        """Close the step, where no optimizer was given. Call it after backward.

        Raises:
            InvalidValueError: if an optimizer was given: its steps are the steps.
        """
        if self._refuse_closed("step"):
            return
        if self._optimizers:
            raise InvalidValueError("this probe counts the steps of its optimizer; call probe.step() only without one")
        if self._recorder is not None:
            start = self._meter.clock()
            self._read_parameters(self._recorder)
            self._meter.add(self._meter.clock() - start)
        self._close_step()

    def close(self, status: str = "finished", error: str | None = None) -> None:
        """Detach everything and finish the run; closing twice is harmless.

        Args:
            status: ``finished``, ``failed`` or ``interrupted``.
            error: What ended the training, if it was cut short.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._keep_unfinished(error)
            self._sink.settle()
            self._name_idle_optimizers(error)
            self._sink.name_unseen(self._step, error)
            moved = moved_since(self._model, self._layers, self._scope)
            if moved:
                self._sink.note_moved(self._step, moved)
            self._sink.count_faults()
        except Exception as problem:
            self._fault("all layers", "closing", problem)
        self._attachment.detach()
        self._parameters.disarm()
        self._loss_scale.close()
        self._lasting.remove()
        self._recording.remove()
        self._meter.stop()
        self._finalizer.detach()
        self._writer.close(status, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
        elif isinstance(error, KeyboardInterrupt):
            self.close("interrupted", "KeyboardInterrupt")
        else:
            self.close("failed", f"{type(error).__name__}: {error}")

    # Steps.

    def _attach_lasting(self) -> None:
        for optimizer in self._optimizers:
            self._lasting.add(optimizer.register_step_post_hook(outside_compiled(self._after_optimizer)))
        # log() asks whether there was a backward pass; a flag on some parameters tells, wherever the loss reaches.
        for parameter in spread(self._model, FLAGS):
            self._lasting.add(hooked(parameter, self._backward.hook()))

    def _say_what_stays_scaled(self, scaler: GradScaler | None) -> None:
        names = without_degree(metric.spec for metric in self._plan.metrics)
        if names and scaler is not None and scaler.is_enabled():
            text = (
                f"these metrics are of the gradient with its loss scale, as half precision holds it: {', '.join(names)}"
            )
            self._writer.event(self._step, text, kind="probe")

    def _current(self) -> int:
        """Step that a scalar logged now belongs to."""
        return self._step if self._saw_backward() or self._step == self._first_step else self._step - 1

    def _saw_backward(self) -> bool:
        """Tell whether there was a backward pass since the last step closed."""
        return self._backward.seen or (self._recorder is not None and self._recorder.saw_gradient)

    def _before_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        recorder = self._recorder
        if recorder is None or is_capturing():
            return None
        start = self._meter.clock()
        self._evaluates = has_closure(args, kwargs)
        try:
            self._loss_scale.about_to_apply(optimizer)
            # With a closure, gradients come only inside the step.
            self._parameters.read(recorder, optimizer, VALUES if self._evaluates else (*VALUES, *GRADIENTS))
        except Exception as error:
            self._fault("all layers", "before the optimizer step", error)
        self._meter.add(self._meter.clock() - start)
        return restarting(recorder.restart, args, kwargs) if self._evaluates else None

    def _after_optimizer(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_capturing() or (id(optimizer) in self._nesting and is_inner_step(optimizer)):
            return  # nothing is changed by a step that is only captured; an inner one is part of the outer
        if self._recorder is not None:
            start = self._meter.clock()
            try:
                if self._evaluates:
                    self._parameters.read(self._recorder, optimizer, GRADIENTS)
                self._parameters.read_update(self._recorder, optimizer)
            except Exception as error:
                self._fault("all layers", "after the optimizer step", error)
            self._meter.add(self._meter.clock() - start)
        self._loss_scale.applied()
        self._count(optimizer)

    def _skip(self, optimizer: Optimizer) -> None:
        """A scaler skipped the step of this optimizer, so that no hook of it was called."""
        if self._recorder is not None:
            start = self._meter.clock()
            self._parameters.read(self._recorder, optimizer, (*VALUES, *GRADIENTS))
            self._parameters.read_update(self._recorder, optimizer)
            self._meter.add(self._meter.clock() - start)
        self._count(optimizer)

    def _count(self, optimizer: Optimizer) -> None:
        self._stepped.add(id(optimizer))
        if len(self._stepped) == len(self._optimizers):
            self._close_step()

    def _close_step(self) -> None:
        if self._recorder is not None:
            self._write(self._recorder)
        else:
            self._meter.pass_step()
            if self._sink.sample_every and self._step % self._sink.sample_every == 0:
                self._meter.set_aside(self._sink.measure(self._step))
        self._stepped.clear()
        self._backward.seen = False
        self._step += 1
        self._writer.next_step = self._step
        if self._recorder is not None or self._step % self._every == 0:
            start = self._meter.clock()
            try:
                self._arm()
            except Exception as error:
                self._fault("all layers", "the start of a step", error)
            self._meter.add(self._meter.clock() - start)
            self._meter.begin_step()

    def _write(self, recorder: Recorder) -> None:
        start = self._meter.clock()
        try:
            recorder.finish()
            add_uncalled(recorder, self._layers, self._scope.limits)
            self._sink.compiled = self._attachment.compiled
            aside = self._sink.write(recorder, scales=self._loss_scale.resolver())
            self._meter.set_aside(aside)
            start += aside
        except Exception as error:
            self._fault("all layers", "writing", error)
        recorder.restart()
        self._meter.add(self._meter.clock() - start + recorder.seconds)
        before = self._meter.close_step()
        if before is not None:
            self._every = self._meter.pace.every
            self._writer.pace(self._every)
            self._writer.event(self._step, raised(before, self._meter.pace, self._step + 1), kind="probe")

    def _arm(self) -> None:
        """Hooks exist only while a step is recorded: other steps cost a test of a flag."""
        if self._step % self._every:
            self._parameters.disarm()
            self._recording.remove()
            self._attachment.detach()
            self._recorder = None
            self._loss_scale.begin(None)
            return
        self._recorder = Recorder(self._step, self._plan, self._sink.table.known, self._sink.tally, self._fault)
        self._loss_scale.begin(self._recorder)
        for optimizer in () if self._recording else self._optimizers:
            self._recording.add(optimizer.register_step_pre_hook(self._before_step))
        self._parameters.arm(self._recorder)
        self._attachment.attach(self._recorder)

    def _keep_unfinished(self, error: str | None) -> None:
        """A step that was cut short after its backward pass is worth keeping: it may show what went wrong."""
        recorder = self._recorder
        if recorder is None or error is None or not any(one.fired for one in recorder.records.values()):
            return
        self._read_parameters(recorder)
        self._sink.write(recorder, skipped=True, scales=self._loss_scale.resolver())
        self._writer.event(recorder.step, f"step {recorder.step} was not finished: {error}", kind="probe")

    def _name_idle_optimizers(self, error: str | None) -> None:
        """A run without a step is seldom meant: say what would have closed one."""
        if self._step > self._first_step:
            return
        if self._stepped:
            idle = [place for place, one in enumerate(self._optimizers) if id(one) not in self._stepped]
            text = f"no step was closed: of {len(self._optimizers)} optimizers, number {idle[0] + 1} never stepped"
            self._writer.event(self._step, text, kind="probe")
            warn_always(text)
        elif self._recorder is not None and self._recorder.saw_gradient:
            missing = "the optimizer given to watch never stepped" if self._optimizers else "call probe.step() after it"
            text = f"no step was closed although there was a backward pass: {missing}"
            self._writer.event(self._step, text, kind="probe")
            if error is None:  # a training that failed in its first step says so itself
                warn_always(text)

    def _read_parameters(self, recorder: Recorder) -> None:
        self._loss_scale.about_to_read(self._model.parameters())
        self._parameters.read(recorder, None, (*VALUES, *GRADIENTS))

    def _fault(self, layer: str, where: str, error: Exception) -> None:
        self._sink.fault(self._step, layer, where, error)

    def _refuse_closed(self, what: str) -> bool:
        if self._closed:
            warnings.warn(f"the probe is closed: probe.{what}() records nothing", stacklevel=3)
        return self._closed


def _finish(backlog: Backlog, writer: Writer) -> None:
    backlog.settle()
    writer.close()


def _number(name: str, value: object) -> float | Tensor:
    if not isinstance(value, Tensor):
        return real(name, value)
    if value.numel() != 1 or value.is_complex():
        given = f"a {'complex ' if value.is_complex() else ''}tensor of shape {tuple(value.shape)}"
        raise InvalidTypeError(f"scalar {name!r} is a single number, not {given}")
    return value.detach().item() if on_host(value) else value.detach()
