"""Layers that should learn and receive no gradient: cut off, or an exact zero."""

from __future__ import annotations

import pandas as pd

from gradscope.checks.course import course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, hidden, last_steps, late, named, seen, since
from gradscope.runs import Run

CODE = "no-gradient"
CUT = ("unused", "missed")
_BLANK = (
    "give the weights that are all zero random values (gradscope.lab.initialize), and look at what set them to zero"
)
_SILENT = (
    "look at the layer above: all its units dead (lower the learning rate, leaky_relu), its weights zero, or numbers "
    "that underflow (scale the loss)"
)
_SOURCE = "Wardat, Le and Rajan 2021 (DeepLocalize): gradients of exactly zero; no threshold is involved"


def no_gradient(run: Run) -> list[Finding] | NotApplicable:
    """Find layers that are cut off from the loss, and those whose gradient is exactly zero.

    Cut off: the layer took part in the forward pass and has something to train, but no gradient came back (a detach, a
    loss that does not depend on it); layers that are frozen are not meant. Zero: |dL/dz| or |dL/dW| is exactly zero at
    most of the last recorded steps.

    Severity: critical; warning where the training makes progress all the same; note for a branch of a network whose
    other layers receive a gradient through the same input, and for a training that has come to an exact zero everywhere
    while it made progress.
    """
    signal = seen(run, "output_grad_norm")
    cut = cut_off(run)
    if isinstance(signal, NotApplicable) and not cut:
        return signal
    found = [_cut(run, cut)] if cut else []
    if not isinstance(signal, NotApplicable):
        found += _zero(run, signal)
    return found


def cut_off(run: Run) -> tuple[int, ...]:
    """Return the depths of the layers that took part last time they were looked at, and got no gradient."""
    table = run.coverage
    own = table[table["rank"] == 0].groupby("layer")["code"].last()
    names = set(own.index[own.isin(CUT)])
    return tuple(one.depth for one in run.specs if one.layer in names)


def _cut(run: Run, depths: tuple[int, ...]) -> Finding:
    going, joined = course(run), _joined(run, depths)
    severity = "note" if joined else "warning" if going.verdict == "learning" else "critical"
    steps = tuple(run.steps()[-1:])
    what = "a branch that the loss does not use" if joined else "between them and the loss the graph is cut"
    return Finding(
        code=CODE,
        title="layers are cut off from the loss",
        severity=severity,  # type: ignore[arg-type]
        layers=depths,
        steps=steps,
        evidence={"layers": float(len(depths))},
        cause=" ".join([f"No gradient comes back to {named(run, depths)}: {what}.", *going.said]),
        remedy=(
            "look for detach(), .data, .item(), numpy or torch.no_grad() between these layers and the loss; freeze "
            "them (requires_grad_(False)) if they are not to learn"
        ),
        source=_SOURCE,
    )


def _joined(run: Run, depths: tuple[int, ...]) -> bool:
    """Tell whether every one of these layers takes in what layers with a gradient put out."""
    apart = {one.id for one in run.specs if one.depth in depths}
    reached: set[int] = {one.id for one in run.specs} - apart
    for one in run.specs:
        if one.id in apart and set(one.parents) & reached:
            reached.add(one.id)
    return apart <= reached


def _zero(run: Run, signal: pd.DataFrame) -> list[Finding]:
    arriving, weights = late(signal), seen(run, "weight_grad_norm")
    silent = [int(depth) for depth in arriving.index[arriving == 0.0]]
    idle: list[int] = []
    if not isinstance(weights, NotApplicable):
        learnt = late(weights)
        idle = [int(depth) for depth in learnt.index[learnt == 0.0] if depth not in silent]
    depths = tuple(sorted({*silent, *idle}))
    if not depths:
        return []
    going, blank = course(run), _of_zeros(run)
    everywhere = len(silent) == len(arriving)
    calm = going.verdict == "learning"
    where = "every layer" if everywhere else named(run, silent or idle)
    text = f"The output gradient of {where} is exactly zero at most of the last recorded steps."
    if not silent:
        text = f"The weight gradient of {where} is exactly zero, though an error signal arrives: its input is zero."
    if blank:
        text += f" The weights of {named(run, blank)} are all zero: nothing passes through them, either way."
    began = since(signal, lambda row: bool((row == 0.0).any()))
    return [
        Finding(
            code=CODE,
            title="the gradient is exactly zero",
            severity="note" if calm and everywhere else "warning" if calm else "critical",
            layers=depths,
            steps=tuple(sorted({began, *last_steps(signal)[-1:]})),
            evidence={"layers": float(len(depths)), "silent_layers": float(len(silent))},
            cause=" ".join([text, *going.said]),
            remedy=_BLANK if blank else _SILENT,
            source=_SOURCE,
            remedies=("critical_init",)
            if blank
            else ("lower_learning_rate", "change_activation", "critical_init", "scale_loss"),
            by_layer={"output_grad_norm": by_depth(arriving)},
        )
    ]


def _of_zeros(run: Run) -> list[int]:
    """Return the hidden layers whose weights are all zero at most of the last recorded steps."""
    weights = seen(run, "weight_rms")
    if isinstance(weights, NotApplicable):
        return []
    size = late(weights).reindex(list(hidden(run)))
    return [int(depth) for depth in size.index[size == 0.0]]
