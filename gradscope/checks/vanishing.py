"""The gradient vanishes on its way to the input."""

from __future__ import annotations

import math

from gradscope.checks.finding import Advice, Finding, NotApplicable
from gradscope.checks.passage import Last, Passage, Split
from gradscope.checks.trend import Trend, examine
from gradscope.runs import Run

CODE = "vanishing"
SEVERE = -3.0
"""Decades: AUTOTRAINER calls weight gradients vanished at 1e-3 from last to first (and 1e-4 absolute)."""

# What the slope of the function and the theory of signal propagation say of each.
_STEEPEST = {"sigmoid": "1/4"}
_CRITICAL = {
    "relu": "2/fan_in (kaiming)",
    "leaky_relu": "2/((1 + slope^2) fan_in) (kaiming)",
    "tanh": "1/fan_in (xavier) or slightly more",
    "softsign": "1/fan_in (xavier) or slightly more",
    "identity": "1/fan_in (xavier)",
    "selu": "1/fan_in (lecun)",
    "elu": "2/fan_in (kaiming) or slightly less",
    "gelu": "2/fan_in (kaiming)",
    "silu": "2/fan_in (kaiming)",
}
_SOURCE = (
    "Hochreiter 1991; Bengio, Simard and Frasconi 1994; Glorot and Bengio 2010; He et al. 2015; "
    "critical below 1e-3 in total: Zhang et al. 2021 (AUTOTRAINER)"
)


def vanishing(run: Run) -> list[Finding] | NotApplicable:
    """Find a gradient that shrinks layer by layer towards the input.

    It holds at a step if the 95 % interval of the decay (the t-interval of the increments of ln|dL/dz| along
    the trunk's hidden layers) lies wholly below 1 **and** the total is more than a decade: |slope| *
    increments > ln 10. Both are ratios: scale of the loss, width and batch do not matter, and no absolute
    threshold is used. In a net of two or three hidden layers, which have no interval, more than 1.5 decades count: of
    ln|dL/dz|, finite width makes 0.3 per layer (16 units, relu). An exact zero in the lowest layer is vanishing too; a
    last norm below 1e-30 above it is called underflow, whose remedy is that of vanishing.

    Severity: critical where the total is below 1e-3 or an exact zero arrives, else warning; note where the training
    makes progress all the same, where it held at the first recorded step and no longer at the last, or where it is too
    early to tell and the lowest layer takes part after 1,000 steps at most (`rule`): the total is above 10^-1.5, or the
    optimizer updates it as fast as the others and fast enough.
    """
    return examine(_TREND, run)


def _holds(seen: Passage, _: Passage | None) -> bool:
    return seen.blocked or (seen.falls and seen.decay.decades < -1.0)


def _severe(seen: Passage) -> bool:
    return seen.blocked or seen.decay.decades <= SEVERE


def _remedy(seen: Passage, activation: str, share: Split) -> Advice:
    other = "or shorten the path: normalize before the activation function, or add skip connections"
    shorten = ("normalize", "add_skips", "shallower")
    if seen.silent:
        text = (
            "look at the loss: it may not depend on what the network puts out, be multiplied by zero, be flat "
            "there, or have a gradient that underflows"
        )
        return Advice(text, ("scale_loss",))
    if seen.last is not None and not seen.last.underflowed:
        return _blocked(seen.last, share)
    if seen.last is not None:
        other += "; to scale the loss only helps the last decades"
    if activation in _STEEPEST:
        steepest = _STEEPEST[activation]
        text = f"replace {activation} (slope at most {steepest}) by tanh (xavier) or relu (kaiming), {other}"
        return Advice(text, ("change_activation", "centered_lsuv", *shorten))
    if share.paths < min(share.weights, share.activations, 0.0):
        return Advice(f"look where paths meet: their gradients cancel; {other[3:]}", shorten)
    if activation in _CRITICAL:
        text = f"initialize with the weight variance {_CRITICAL[activation]} and zero biases, {other}"
        return Advice(text, ("critical_init", *shorten))
    return Advice(f"raise the variance of the weights at initialization, {other}", ("critical_init", *shorten))


def _blocked(last: Last, share: Split) -> Advice:
    """Say what to try where a gradient of ordinary size becomes an exact zero from one layer to the next."""
    if share.weights == -math.inf and last.weight_rms == 0.0:
        text = f"set the weights of layer {last.depth}, which are all zero: nothing passes back through them"
        return Advice(text, ("critical_init",))
    if share.weights == -math.inf and last.weight_rms > 0.0:
        text = (
            f"the weights of layer {last.depth} are not all zero, but nothing passes back through them: where the "
            "numbers underflow, scale the loss or train in bfloat16 or float32"
        )
        return Advice(text, ("scale_loss",))
    text = (
        f"look at what lies below layer {last.depth}, the lowest that still receives a gradient: every unit is dead "
        "(relu: lower the learning rate, or use leaky_relu), weights are all zero, or the numbers underflow "
        "(scale the loss)"
    )
    return Advice(text, ("lower_learning_rate", "change_activation", "scale_loss"))


_TREND = Trend(
    code=CODE,
    title="the gradient vanishes towards the input",
    holds=_holds,
    severe=_severe,
    remedy=_remedy,
    general=Advice(
        "shorten the path: normalize, or add skip connections; look at what the gradient passes through between the "
        "layers that are watched",
        ("normalize", "add_skips"),
    ),
    source=_SOURCE,
)
