"""Units that let no gradient through on any sample."""

from __future__ import annotations

import pandas as pd

from gradscope.checks import rule
from gradscope.checks.course import course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, last_steps, late, named, seen, since
from gradscope.runs import Run

CODE = "dead-units"
_SOURCE = (
    "Lu et al. 2020 (dying relu); a random unit is dead with probability at most 1/2, and 0.71 of 16 units is more by "
    "chance in 5 % of the cases; half: SageMaker Debugger, DeadRelu; 0.7: Zhang et al. 2021 (AUTOTRAINER)"
)


def dead_units(run: Run) -> list[Finding] | NotApplicable:
    """Find layers most of whose units have a slope of zero on every one of at least 64 samples.

    It holds where dead_fraction is above 1/2 + 1.645 / (2 sqrt(16)) = 0.71 at most of the last recorded steps: where
    all inputs of a random relu unit point one way, as they do deep in a network, it is dead with probability 1/2, and
    no fault; at least 16 units are looked at. A layer that puts out exactly zero for all of them has no units that died
    but zero weights or a silent input (no-gradient), and of one that puts out NaN nothing is said.

    Severity: critical where a layer has no living unit, else warning; note where the training makes progress.
    """
    frame = seen(run, "dead_fraction")
    if isinstance(frame, NotApplicable):
        return frame
    frame = _of_outputs(run, frame)
    if frame.empty:
        return NotApplicable("no layer puts out anything but zeros, NaN or infinities")
    dead = late(frame)
    layers = [int(depth) for depth in dead.index[dead > rule.DEAD]]
    if not layers:
        return []
    going, whole = course(run), [depth for depth in layers if dead[depth] >= 1.0]
    worst = whole[0] if whole else max(layers, key=lambda depth: float(dead[depth]))
    began = since(frame, lambda row: bool((row > rule.DEAD).any()))
    share = "all units" if whole else f"{float(dead[worst]):.0%} of the units"
    return [
        Finding(
            code=CODE,
            title="dead units: a layer lets no gradient through" if whole else "most units of a layer are dead",
            severity=going.judge("critical" if whole else "warning"),
            layers=tuple(layers),
            steps=tuple(sorted({began, *last_steps(frame)[-1:]})),
            evidence={"dead_fraction": float(dead[worst]), "layers": float(len(layers)), "since": float(began)},
            cause=" ".join(
                [
                    f"In {named(run, [worst])}, {share} have a slope of exactly zero on all of the last samples, at "
                    f"least 64; so it is in {len(layers)} of {len(dead)} layers, since step {began}.",
                    *going.said,
                ]
            ),
            remedy=(
                "a dead unit does not come back by itself: lower the learning rate, set its bias to zero, or take an "
                "activation function with a slope on either side (leaky_relu, elu, gelu); normalize before it"
            ),
            source=_SOURCE,
            remedies=("lower_learning_rate", "change_activation", "critical_init", "normalize"),
            by_layer={"dead_fraction": by_depth(dead)},
        )
    ]


def _of_outputs(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Leave out what was seen of outputs that are all zero, NaN or infinite."""
    outputs = seen(run, "output_rms")
    if isinstance(outputs, NotApplicable):
        return frame
    return frame.where(outputs.reindex_like(frame) > 0.0).dropna(how="all")
