"""Batch normalization that makes the gradient explode."""

from __future__ import annotations

import math

from gradscope.checks.branches import bridged
from gradscope.checks.course import course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.passage import Passage, activation_of, first_and_last, layer_numbers
from gradscope.checks.recent import of_depths
from gradscope.runs import Run
from gradscope.theory import ACTIVATIONS
from gradscope.theory.mean_field import mean_field

CODE = "norm-explosion"
_SOURCE = "Yang et al. 2019: with batch normalization chi = E[phi'(u)^2] / Var[phi(u)] > 1, whatever the weights"


def norm_explosion(run: Run) -> list[Finding] | NotApplicable:
    """Find a gradient that batch normalization multiplies from layer to layer.

    In a chain of batch-normalized layers chi = E[phi'^2] / Var[phi] at unit variance, above 1 for every function but
    the identity: relu 1.467, 1.21 per layer in norm. It holds at the first step taken where theory adds up to more than
    a decade along the trunk, and the measured decay lies wholly above 1 and comes to at least half of that.

    What a skip leads around does not multiply up: block l of a pre-activation net with relu makes
    sqrt(1 + 1 / (1 + l (1 - 1/pi))), 20 of them a factor of 6.6 (Yang et al. 2019). Such layers do not count.

    Severity: critical above 100 in total, else warning; note where the training makes progress.
    """
    ends = first_and_last(run)
    if isinstance(ends, NotApplicable):
        return ends
    start = ends[0]
    if isinstance(start, NotApplicable):
        return start
    layers = of_depths(run, start.path)
    if not any(one.norm == "batch" for one in layers):
        return NotApplicable("no batch normalization between the layers")
    activation = activation_of(run, start.path)
    if activation not in ACTIVATIONS:
        return NotApplicable(f"theory does not know the activation function {activation!r}")
    chi = mean_field(activation, 1.0, norm="batch").chi
    around = bridged(run)
    chain = [one for one in layers[:-1] if one.norm == "batch" and one.depth not in around]
    if not chain:
        return NotApplicable("skips lead around every batch normalization between the layers")
    expected = len(chain) * math.log10(chi) / 2.0
    holds = expected > 1.0 and start.decay.low > 1.0 and start.decay.decades > expected / 2.0
    return [_finding(run, start, activation, chi, expected)] if holds else []


def _finding(run: Run, start: Passage, activation: str, chi: float, expected: float) -> Finding:
    going, decades = course(run), start.decay.decades
    return Finding(
        code=CODE,
        title="batch normalization makes the gradient explode",
        severity=going.judge("critical" if decades > 2.0 else "warning"),
        layers=start.path,
        steps=(start.step,),
        evidence={"chi": chi, "decades_expected": expected, "decades": decades, "rate": start.decay.rate},
        cause=" ".join(
            [
                f"With batch normalization before {activation}, theory expects the gradient to grow by "
                f"{math.sqrt(chi):.3g} per layer towards the input, {10.0**expected:.2g} in total, whatever the "
                f"weights; measured at step {start.step}: {start.decay.rate:.3g} per layer, {10.0**decades:.2g} in "
                "total.",
                *going.said,
            ]
        ),
        remedy="add skip connections, take layer instead of batch normalization, fewer layers, or larger batches",
        source=_SOURCE,
        remedies=("add_skips", "shallower", "clip_gradients"),
        by_layer=layer_numbers(run, start),
    )
