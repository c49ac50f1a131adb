"""The gradient explodes on its way to the input."""

from __future__ import annotations

import math

from gradscope.checks.finding import Advice, Finding, NotApplicable
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
    the trunk's hidden layers) lies wholly above 1 **and** the gradient that arrives is more than a decade above
    that which set out, at this step and at the first one taken:

        |dL/dz_1|(t) > 10 max(|dL/dz_H|(t), |dL/dz_H|(0))        (z_1 lowest, z_H highest hidden layer)

    Why the first step as well: training shrinks the error signal and makes weights larger. Where the signal has
    fallen by more decades than the layers add, nothing explodes, however certain the growth: the lowest layer of
    a converged training receives 1e-5 of what it once did. What set out at the first step is the measure of what
    the learning rate was chosen for. With g(t) = ln|dL/dz_1|(t) - ln|dL/dz_H|(t), the total at step t, and
    f(t) = ln|dL/dz_H|(0) - ln|dL/dz_H|(t), by what the signal has fallen, the condition is g(t) - max(f(t), 0) >
    ln 10: at the first step the total alone, and a signal that has grown since is no excuse for it. A net that
    trains drifts to totals of 5 to 13 while its loss falls, and stays silent; one that goes on multiplying an
    error that does not fall does not. All of these are ratios within one run: scale of the loss, width and batch
    do not matter.

    In a net of two or three hidden layers, which have no interval, more than 1.5 decades count.

    Severity: critical where the total is above 70, else warning; note where the training makes progress all the same,
    where it held at the first recorded step and no longer at the last, or where it is too early to tell and the total
    is below 10^1.5: the highest layer then takes part after 1,000 steps at most (`rule`).
    """
    return examine(_TREND, run)


def _holds(seen: Passage, start: Passage | None) -> bool:
    if seen.blocked or not seen.grows:
        return False
    return seen.decay.decades - _fallen(seen, start) > 1.0


def _fallen(seen: Passage, start: Passage | None) -> float:
    """Return the decades that the gradient has fallen, where it sets out, since the first step; 0 if unknown."""
    if start is None or start.blocked:
        return 0.0
    return max(math.log10(start.entry) - math.log10(seen.entry), 0.0)


def _severe(seen: Passage) -> bool:
    return seen.decay.decades >= SEVERE


def _remedy(seen: Passage, activation: str, share: Split) -> Advice:
    if share.paths > max(share.weights, share.activations, 0.0):
        text = "scale what each block adds to its skip by 1/sqrt(number of blocks), or normalize in it"
        return Advice(f"{text}; {_CLIP}", ("scale_branches", "normalize", "clip_gradients", "shallower"))
    if share.norm == "batch" or share.activations > max(share.weights, 0.0):
        text = (
            "the growth lies between layer output and next input: with batch normalization there, add skip "
            "connections or use larger batches"
        )
        return Advice(f"{text}; {_CLIP}", ("add_skips", "shallower", "clip_gradients"))
    if share.norm != "none":
        text = "add skip connections, or take fewer layers: normalization makes the size of the weights irrelevant"
        return Advice(f"{text}; {_CLIP}", ("add_skips", "shallower", "lower_learning_rate", "clip_gradients"))
    text = (
        "lower the variance of the weights at initialization to the critical value (2/fan_in for relu, "
        "1/fan_in for tanh and identity), or add skip connections"
    )
    codes = ("critical_init", "normalize", "scale_branches", "lower_learning_rate", "clip_gradients")
    return Advice(f"{text}; {_CLIP}", codes)


_TREND = Trend(
    code=CODE,
    title="the gradient explodes towards the input",
    holds=_holds,
    severe=_severe,
    remedy=_remedy,
    general=Advice(
        f"look at what the gradient passes through between the layers that are watched, and normalize it; {_CLIP}",
        ("normalize", "clip_gradients"),
    ),
    source=_SOURCE,
)
