"""``watch``: check the arguments, open the run, attach the probe."""

from __future__ import annotations

import atexit
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
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.errors import InvalidTypeError, InvalidValueError, RunFormatError
from gradscope.metrics import select, wants_histograms
from gradscope.metrics.information import choose, of_sample
from gradscope.probe.arguments import first_pace, given_pace, scaler_or_none, share_of_time, whole_steps
from gradscope.probe.compiled import COMPILED_WARNING, is_compiled, unwrap
from gradscope.probe.distributed import rank, world_size
from gradscope.probe.information import Informant, fixed_sample
from gradscope.probe.layers import Layer, LayerFilter, find_layers
from gradscope.probe.observer import Probe
from gradscope.probe.plan import Plan
from gradscope.probe.tiers import scope_of
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
    scaler: GradScaler | None = None,
    budget: float = 0.02,
    resume: bool = False,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Probe:
    """Watch a model while it trains, and record every layer's gradients, activations and weights into a run.

    Losses, parameters, gradients, buffers and random states are the same with and without. Each step of the optimizer
    closes a step of the run; without an optimizer call ``probe.step()`` after backward.

    Args:
        model: Any module with Linear or convolution layers. Watch it first and ``torch.compile`` it then: recorded
            steps run eagerly, the others as compiled. Of a model that is compiled already only the parameters are
            recorded, with a warning.
        optimizer: Whose steps are counted; a list where several share the model (a step closes when all of them
            have stepped).
        out: Folder of the run; ``runs/<name or date>`` by default. The ranks of a distributed training share it, and
            open it in any order; rank 0 must be one of them.
        every: Record the steps k with k % every == 0. ``"auto"`` starts with all of them and doubles it as often as
            it takes to keep ``Probe.cost`` within ``budget``; it is never lowered, an event says what was chosen and
            why, and a run that is resumed goes on where it was.
        metrics: ``"default"``, ``"all"``, ``"histograms"``, a group, a metric, or a list of these.
        layers: fnmatch pattern on qualified names, a list of them, or a callable (name, module) -> bool.
        sample: A fixed sample (x, y), for what the layers tell of input and label: it goes through the model in
            evaluation mode, outside the training step, and leaves no trace. At most 1,024 samples are used; y is None
            without labels. Adds the metrics of information to the run (effective rank, participation ratio, CKA, and
            bounds on information under noise, with intervals; ``metrics=`` may name others, or ``"information"``).
        information_every: The sample is measured as the steps k with k % information_every == 0 leave the model,
            recorded or not.
        scaler: The GradScaler of a mixed-precision training: every metric of gradients is divided by the loss scale
            (to the power of the metric's degree), and steps that it skips are counted and flagged ``skipped``. Error
            signals carry the scale of their backward pass, parameter gradients what is left when the optimizer applies
            them, fused ones too. ``fp16_underflow_fraction``, and metrics of your own without a degree, stay those of
            the scaled gradient.
        budget: With ``every="auto"``: share of the training's time that recording may take.
        resume: Continue the run in ``out``, with its step numbers.
        name: What tables call the run; the folder's name by default.
        config: What tells this run from others (depth, activation, learning rate, ...).

    Returns:
        The probe; use it as a context manager, or close it.

    Raises:
        InvalidTypeError: for a model that is no module, is TorchScript, or another argument of the wrong type.
        InvalidValueError: for a model without layers, ``every`` below 1, a budget that is no share.
        UnknownNameError: for an unknown metric or a layer pattern that matches nothing; it lists the choices.
        RunExistsError: if ``out`` holds a run and ``resume`` is False.
    """
    if not isinstance(resume, bool):
        raise InvalidTypeError(f"resume is True or False, not {resume!r}")
    target = unwrap(model)
    found = find_layers(target, layers)
    optimizers = _optimizers(optimizer)
    _warn_of_strangers(target, optimizers)
    steps = given_pace(every)
    information_every = whole_steps("information_every", information_every)
    scaler, budget = scaler_or_none(scaler), share_of_time(budget)
    fixed = None if sample is None else fixed_sample(sample)
    chosen, information = choose(metrics, fixed is not None)
    information = information if fixed is None else of_sample(information, len(fixed.inputs))
    plan = Plan(select(chosen) if chosen or not information else (), wants_histograms(chosen), information)
    scope = scope_of(target, found, plan, is_compiled(model))
    if is_compiled(model):
        warnings.warn(COMPILED_WARNING, stacklevel=2)
    folder = _folder(out, name)
    if resume:
        _refuse_other_model(folder, found)
        _close_previous(target)  # it may be writing this very run
    pace = steps or first_pace(folder, resume)
    writer = Writer(
        folder,
        metrics=list(plan.specs),
        config=_config(config),
        environment=_environment(target) | ({"loss_scaled": True} if scaler is not None else {}),
        name=name,
        every=pace,
        resume=resume,
        rank=rank(),
    )
    try:
        _close_previous(target)
    except Warning:
        writer.close("failed", "the model was being watched already, and warnings are errors here")
        raise
    kept = None if steps else budget
    informant = Informant(target, found, fixed, information_every, information) if fixed is not None else None
    probe = Probe(
        target, optimizers, found, plan, writer, pace, budget=kept, scaler=scaler, scope=scope, informant=informant
    )
    _probes[target] = weakref.ref(probe)
    return probe


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


def _warn_of_strangers(model: nn.Module, optimizers: tuple[Optimizer, ...]) -> None:
    """Name optimizers of other parameters; not an error, as parameters may be added to model or optimizer later."""
    own = {id(one) for one in model.parameters()}
    for place, optimizer in enumerate(optimizers, start=1):
        if not any(id(one) in own for group in optimizer.param_groups for one in group["params"]):
            which = f"number {place} of {len(optimizers)}, " if len(optimizers) > 1 else ""
            warnings.warn(
                f"the optimizer given to watch, {which}{type(optimizer).__name__}, holds none of the model's "
                "parameters: is it the one that trains this model?",
                stacklevel=3,
            )


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
    if rank():
        raise InvalidValueError(f"rank {rank()} needs out= or name=: the ranks of a training write into one folder")
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


def _environment(model: nn.Module) -> dict[str, Any]:
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": ", ".join(devices),
        "dtype": ", ".join(sorted({str(parameter.dtype) for parameter in model.parameters()})),
        "model": type(model).__name__,
        "command": " ".join(sys.argv[:1]),
        **({"world_size": world_size()} if world_size() > 1 else {}),
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
