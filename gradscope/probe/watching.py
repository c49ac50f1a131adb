"""``watch``: check the arguments, open the run, attach the probe."""

from __future__ import annotations

import atexit
import operator
import os
import platform
import sys
import time
import warnings
import weakref
from collections.abc import Iterable, Mapping
from os import PathLike, fspath
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gradscope.errors import InvalidTypeError, InvalidValueError, NotYetError, RunFormatError
from gradscope.metrics import select, wants_histograms
from gradscope.probe.layers import Layer, LayerFilter, find_layers
from gradscope.probe.observer import Probe
from gradscope.probe.plan import Plan
from gradscope.runs import Runs, Writer, load

_process = os.getpid()
_probes: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Probe]] = weakref.WeakKeyDictionary()


def watch(
    model: nn.Module,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
    *,
    out: str | PathLike[str] | None = None,
    every: int | Literal["auto"] = 10,
    metrics: str | Iterable[str] = "default",
    layers: LayerFilter = None,
    sample: tuple[Any, Any] | None = None,
    information_every: int = 100,
    scaler: object | None = None,
    resume: bool = False,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Probe:
    """Watch a model while it trains, and record every layer's gradients, activations and weights into a run.

    Losses, parameters, gradients, buffers and random states are the same with and without. Each step of the optimizer
    closes a step of the run; without an optimizer call ``probe.step()`` after backward.

    Args:
        model: Any module with Linear or convolution layers.
        optimizer: Whose steps are counted; a list where several share the model (a step closes when all of them
            have stepped).
        out: Folder of the run; ``runs/<name or date>`` by default.
        every: Record the steps k with k % every == 0.
        metrics: ``"default"``, ``"all"``, ``"histograms"``, a group, a metric, or a list of these.
        layers: fnmatch pattern on qualified names, a list of them, or a callable (name, module) -> bool.
        sample: Not in this version: a fixed sample (x, y) for information metrics.
        information_every: Steps between two information measurements, once ``sample`` is taken.
        scaler: Not in this version: the GradScaler of a mixed-precision training.
        resume: Continue the run in ``out``, with its step numbers.
        name: What tables call the run; the folder's name by default.
        config: What tells this run from others (depth, activation, learning rate, ...).

    Returns:
        The probe; use it as a context manager, or close it.

    Raises:
        InvalidTypeError: for a model that is no module, or another argument of the wrong type.
        InvalidValueError: for a model without layers, ``every`` below 1.
        UnknownNameError: for an unknown metric or a layer pattern that matches nothing; it lists the choices.
        RunExistsError: if ``out`` holds a run and ``resume`` is False.
        NotYetError: for ``scaler``, ``sample`` and ``every="auto"``, which this version would ignore.
    """
    _refuse_ignored(sample, scaler, every)
    if not isinstance(resume, bool):
        raise InvalidTypeError(f"resume is True or False, not {resume!r}")
    target = model.module if isinstance(model, DistributedDataParallel) else model
    found = find_layers(target, layers)
    optimizers = _optimizers(optimizer)
    steps = _whole("every", every)
    _whole("information_every", information_every)
    plan = Plan(select(metrics), wants_histograms(metrics))
    folder = _folder(out, name)
    if resume:
        _refuse_other_model(folder, found)
        _close_previous(target)  # it may be writing this very run
    writer = Writer(
        folder,
        metrics=[metric.spec for metric in plan.metrics],
        config=_config(config),
        environment=_environment(target),
        name=name,
        every=steps,
        resume=resume,
        rank=_rank(),
    )
    try:
        _close_previous(target)
    except Warning:
        writer.close("failed", "the model was being watched already, and warnings are errors here")
        raise
    probe = Probe(target, optimizers, found, plan, writer, steps)
    _probes[target] = weakref.ref(probe)
    return probe


def _refuse_ignored(sample: object, scaler: object, every: object) -> None:
    if scaler is not None:
        raise NotYetError("scaler= is not supported yet: recorded gradients would keep the loss scale; leave it out")
    if sample is not None:
        raise NotYetError("sample= is not supported yet: no information metric would be recorded; leave it out")
    if every == "auto":
        raise NotYetError("every='auto' is not supported yet; give a number of steps, such as every=10")


def _whole(name: str, value: object) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidTypeError(f"{name} is a whole number of steps, not {value!r}") from None
    if number < 1:
        raise InvalidValueError(f"{name} is at least 1, not {number}")
    return number


def _optimizers(optimizer: object) -> tuple[Optimizer, ...]:
    if optimizer is None:
        return ()
    given = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
    if not isinstance(given, Iterable):
        raise InvalidTypeError(
            f"optimizer is a torch.optim.Optimizer or a list of them, not {type(optimizer).__name__}"
        )
    found = tuple(given)
    if not found:
        raise InvalidValueError("optimizer is an empty list; leave it out to count steps with probe.step()")
    for one in found:
        if not isinstance(one, Optimizer):
            raise InvalidTypeError(f"optimizer is a torch.optim.Optimizer or a list of them, not {type(one).__name__}")
    return found


def _config(config: object) -> dict[str, Any]:
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise InvalidTypeError(f"config is a mapping of names to values, not {type(config).__name__}")
    return dict(config)


def _folder(out: object, name: str | None) -> str:
    if isinstance(out, str | PathLike):
        return str(fspath(out))
    if out is not None:
        raise InvalidTypeError(f"out is a string or a path, not {type(out).__name__}")
    if name is not None:
        return f"runs/{name}"
    return f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**6:06d}"


def _refuse_other_model(folder: str, layers: Iterable[Layer]) -> None:
    try:
        stored = load(folder)
    except RunFormatError:
        return  # nothing to resume yet, or the writer names what is wrong with it
    watched = {layer.name for layer in layers}
    missing = [] if isinstance(stored, Runs) else [one.layer for one in stored.specs if one.layer not in watched]
    if missing:
        raise InvalidValueError(f"cannot resume {folder}: it holds layers this model lacks: {', '.join(missing)}")


def _rank() -> int:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_rank())
    return 0


def _environment(model: nn.Module) -> dict[str, Any]:
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": ", ".join(devices),
        "model": type(model).__name__,
        "command": " ".join(sys.argv[:1]),
    }


def _close_previous(model: nn.Module) -> None:
    previous = _probes.pop(model, None)
    probe = previous() if previous is not None else None
    if probe is not None and not probe.closed:
        probe.close()
        warnings.warn("this model was being watched already; the first probe is closed", stacklevel=3)


@atexit.register
def _close_all() -> None:
    """A script that ends without closing leaves a finished run, or a failed one if an exception ended it."""
    if os.getpid() != _process:
        return  # a fork: the run belongs to the parent
    error = getattr(sys, "last_value", None)
    for reference in list(_probes.values()):
        probe = reference()
        if probe is not None and error is None:
            probe.close()
        elif probe is not None:
            probe.close("failed", f"{type(error).__name__}: {error}")
