"""Sentences that the checks of vanishing and exploding share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradscope.checks.passage import Last, Passage, Split

NAMED = 6
"""Gaps that are named one by one."""


def observed(seen: Passage, activation: str, share: Split) -> str:
    """Say what the gradient goes through, and which factors make it."""
    top, bottom = seen.path[-1], seen.path[0]
    if seen.silent:
        return f"At step {seen.step} the output gradient of every layer is exactly zero in every entry."
    if seen.last is not None:
        return (
            f"At step {seen.step} the output gradient of layer {bottom} is exactly zero in every entry, "
            f"although the head receives a gradient. {_ending(seen.last)}"
        )
    decay = seen.decay
    interval = f" (95 % interval {decay.low:.3g} to {decay.high:.3g})" if math.isfinite(decay.low) else ""
    text = (
        f"On its way from layer {top} to layer {bottom} the output gradient is multiplied by "
        f"{decay.rate:.3g} per layer{interval}, in total by {_factor(seen.decades)}."
    )
    if math.isnan(share.weights + share.activations + share.paths):
        return text
    parts = f"the activation function ({activation}) makes {_factor(share.functions)}, "
    parts += f"the weights make {_factor(share.weights)}"
    for what, decades in (("normalization makes", share.norms), ("pooling makes", share.pools)):
        if abs(decades) > 0.01:
            parts += f", {what} {_factor(decades)}"
    if abs(share.paths) > 0.01:
        parts += f", skips and branches make {_factor(share.paths)}"
    return f"{text} Of this, {parts}."


def not_blamed(gaps: Sequence[tuple[int, int]]) -> list[str]:
    """Say between which layers something is not watched, and what follows: nothing where there is no such gap.

    >>> not_blamed([(2, 3)])
    ['What lies between layers 2 and 3 is not watched: it is not said which factor is to blame.']
    """
    if not gaps:
        return []
    where = ", ".join(f"{lower} and {upper}" for lower, upper in gaps[:NAMED])
    if len(gaps) > NAMED:
        where += f" and so on, {len(gaps)} places in all,"
    return [f"What lies between layers {where} is not watched: it is not said which factor is to blame."]


def left_out(skipped: int) -> list[str]:
    """Say how many recorded steps were not looked at: nothing where there is none.

    >>> left_out(1)
    ['1 recorded step that the optimizer skipped is left out.']
    """
    if not skipped:
        return []
    steps, are = ("step", "is") if skipped == 1 else ("steps", "are")
    return [f"{skipped} recorded {steps} that the optimizer skipped {are} left out."]


def duration(first: int | None, last: int | None, since: int) -> str:
    """Say when it holds: at the first recorded step, at the last, or both."""
    if first is not None and first == last:
        return f"It is so at step {first}, the only one recorded."
    if first is not None and last is not None:
        return f"It was so at the first recorded step, {first}, and is so at the last, {last}."
    if last is not None:
        return f"It was not so at the first recorded step; it is so since step {since}, up to the last, {last}."
    return f"It was so at the first recorded step, {first}, and is no longer so at the last."


def numbers(seen: Passage, share: Split) -> dict[str, float]:
    """Return the evidence; what is undefined is left out."""
    found = {
        "rate": 0.0 if seen.last else seen.decay.rate,
        "low": seen.decay.low,
        "high": seen.decay.high,
        "decades": seen.decades,
        "activation_decades": share.activations,
        "weight_decades": share.weights,
        "norm_decades": share.norms if abs(share.norms) > 1e-9 else math.nan,
        "pool_decades": share.pools if abs(share.pools) > 1e-9 else math.nan,
        "path_decades": share.paths,
        "layers": float(len(seen.path)),
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _ending(last: Last) -> str:
    """Say where the gradient ends.

    >>> _ending(Last(51, 1.4e-43, 0.1))
    'The error signal underflows: the last norm above zero is 1.4e-43, of layer 51.'
    """
    what = "underflows" if last.underflowed else "ends"
    return f"The error signal {what}: the last norm above zero is {last.norm:.2g}, of layer {last.depth}."


def _factor(decades: float) -> str:
    """Return 10 to the power of `decades`; as a power where no float could hold it.

    >>> _factor(-1.0), _factor(-400.0)
    ('0.1', '10^-400')
    """
    return f"{10.0**decades:.2g}" if abs(decades) < 300 else f"10^{decades:.0f}"
