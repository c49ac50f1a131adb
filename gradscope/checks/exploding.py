"""The gradient explodes on its way to the input."""

from __future__ import annotations

import math

from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.passage import Passage, Split
from gradscope.checks.trend import Trend, examine
from gradscope.runs import Run

CODE = "exploding"
SEVERE = math.log10(70.0)
"""Decades: AUTOTRAINER calls weight gradients exploding at 70 times from last to first layer."""

_SOURCE = (
    "Pascanu, Mikolov and Bengio 2013; Glorot and Bengio 2010; He et al. 2015; "
    "Yang and Schoenholz 2017 (skips); Yang et al. 2019 (batch normalization); "
    "critical above 70 in total: Zhang et al. 2021 (AUTOTRAINER)"
)

_CLIP = "clipping the gradient keeps the step finite meanwhile, but leaves the ratio between layers as it is"


def exploding(run: Run) -> list[Finding] | NotApplicable:
    """Find a gradient that grows layer by layer towards the input.

    It holds at a step if the 95 % interval of the decay (the t-interval of the increments of ln|dL/dz| along
    the trunk's hidden layers) lies wholly above 1 **and** the total is more than a decade: slope *
    increments > ln 10. Both are ratios: scale of the loss, width and batch do not matter.

    Severity: critical where the total is above 70, else warning; note where it held at the first recorded
    step and no longer at the last.
    """
    return examine(_TREND, run)


def _holds(seen: Passage) -> bool:
    return not seen.blocked and seen.decay.low > 1.0 and seen.decay.decades > 1.0


def _severe(seen: Passage) -> bool:
    return seen.decay.decades >= SEVERE


def _remedy(seen: Passage, activation: str, share: Split) -> str:
    if share.paths > max(share.weights, share.activations, 0.0):
        return f"scale what each block adds to its skip by 1/sqrt(number of blocks), or normalize in it; {_CLIP}"
    if share.activations > max(share.weights, 0.0):
        return (
            "the growth lies between layer output and next input: with batch normalization there, add skip "
            f"connections or use larger batches; {_CLIP}"
        )
    return (
        "lower the variance of the weights at initialization to the critical value (2/fan_in for relu, "
        f"1/fan_in for tanh and identity), or add skip connections; {_CLIP}"
    )


_TREND = Trend(
    code=CODE,
    title="the gradient explodes towards the input",
    holds=_holds,
    severe=_severe,
    remedy=_remedy,
    general=f"look at what the gradient passes through between the layers that are watched, and normalize it; {_CLIP}",
    source=_SOURCE,
)
