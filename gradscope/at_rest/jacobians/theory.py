"""What theory predicts of a Jacobian: the recursion's first moment, free probability's second, the largest value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from gradscope.at_rest.jacobians.report import JacobianTheory
from gradscope.at_rest.predictions.anchor import NOTHING
from gradscope.at_rest.predictions.rows import APPROXIMATE, joined
from gradscope.at_rest.predictions.scatter import BAND, Scattering
from gradscope.at_rest.predictions.start import measure_start
from gradscope.at_rest.readings.model import Reading, read
from gradscope.errors import InvalidValueError
from gradscope.theory import Level, largest_singular_value, propagate
from gradscope.theory.expectations import moments
from gradscope.theory.functions import activation_of
from gradscope.theory.stages import Residual, Stage

Between = tuple[str | None, str | None]


def theory_of(model: nn.Module, x: Any, between: Between, train: bool, samples: int) -> JacobianTheory:
    """Return what theory says of the Jacobian, and why where it says nothing.

    To be called in ``undisturbed``.

    Args:
        model: The model.
        x: Its input.
        between: Names of the layers at the two ends; None for input and output.
        train: The mode.
        samples: How many samples the moments are the mean of.
    """
    try:
        reading = read(model, x, train)
        levels = propagate(reading.network, measure_start(reading)) if reading.network else ()
        first, last = _place(reading, between[0], 0), _place(reading, between[1], len(reading.layers) - 1)
        missing = _why_not(reading, levels, x, between, (first, last))
    except InvalidValueError as error:
        missing = str(error)
    if missing:
        return JacobianTheory(status=missing)
    known = {level.name: level for level in levels}
    stages = [one for one in reading.network if isinstance(one, Stage) and one.name]
    own = known[str(first)]
    log = 2.0 * (own.log_gradient - known[str(last)].log_gradient)
    first_var = reading.layers[0].stage.weight_var if between[0] is None else 1.0
    if first_var == 0.0 or log == -math.inf:
        return JacobianTheory(m1=0.0, status="weights of zero let nothing through")
    found = JacobianTheory(m1=math.exp(min(log + math.log(first_var), 700.0)))
    found = replace(found, status=joined(own.status, *_assumed(reading, first, last)))
    found = _banded(found, reading, levels, (first, last), samples, between[0] is None)
    if len(stages) != len(reading.network) or not all(_is_plain(one) for one in stages):
        return replace(
            found, status=joined("m2 is known for chains of linear layers and activations only", found.status)
        )
    names = [one.name for one in stages]
    part = stages[names.index(str(first)) : names.index(str(last)) + 1]
    ratio = _ratio(part, levels, between[0] is None)
    return replace(found, ratio=ratio, s_max=_largest(part) if between[0] is None else math.nan)


def _assumed(reading: Reading, first: int, last: int) -> list[str]:
    """Say what theory assumes of the layers from start to end."""
    return [
        f"{APPROXIMATE}layer {reading.layers[place].layer.name!r}: {note.removeprefix(APPROXIMATE)}"
        for place, note in sorted(reading.notes.items())
        if first <= place <= last
    ]


def _banded(
    found: JacobianTheory,
    reading: Reading,
    levels: Sequence[Level],
    ends: tuple[int, int],
    samples: int,
    from_input: bool,
) -> JacobianTheory:
    """Add the band of m1, where a chain of layers lies between the ends.

    ln m1 varies by what the mean of phi'^2 varies by at each layer, and by 2 r r' / (rows fan_in) for each random
    matrix, whose own mean square is known: r and r' are m2 / m1^2 of what comes after and before it.
    """
    stages = [one for one in reading.network if isinstance(one, Stage)]
    part = [one for one in stages if one.name and ends[0] <= int(one.name) <= ends[1]]
    chain = len(stages) == len(reading.network) and all(_is_bare(one) for one in part)
    if not chain or found.status or len(part) != ends[1] - ends[0] + 1:
        return found
    scatter = Scattering(reading.network, levels, samples, {}, NOTHING).found()
    variance = sum(scatter[one.name].slope for one in part[:-1])
    for place in range(0 if from_input else 1, len(part)):
        before = _ratio(part[:place], levels, from_input, ends_linear=False) if place else 1.0
        after = _ratio(part[place:], levels, False)
        variance += 2.0 * after * before / (part[-1].fan_out * part[place].fan_in)
    half = BAND * math.sqrt(variance)
    return replace(found, m1_low=found.m1 * math.exp(-half), m1_high=found.m1 * math.exp(half))


def _place(reading: Reading, name: str | None, default: int) -> int:
    """Place of a layer's last call."""
    return max((place for place, one in enumerate(reading.layers) if one.layer.name == name), default=default)


def _why_not(reading: Reading, levels: Sequence[Level], x: Any, between: Between, ends: tuple[int, int]) -> str:
    known = {int(level.name): level for level in levels if level.name}
    for place in ends:
        if place not in known:
            return reading.lost.get(place, "not on the way to the output")
    if math.isnan(known[ends[0]].log_gradient):
        return known[ends[0]].status
    if between[1] is None and not _same(reading.output, reading.layers[ends[1]].output):
        return "something follows the last layer: name it in between="
    first = reading.layers[0]
    if between[0] is not None:
        return ""
    if reading.start is None and _same(x, first.entry):
        if first.stage.convolution is None:
            return ""
        why = f"the first layer, {first.layer.name!r}, is a convolution; of those theory knows no Jacobian by the input"
    else:
        why = "something comes between the input and the first layer"
    return f"{why}: start from a layer's output, between=({first.layer.name!r}, {between[1]!r})"


def _same(one: Any, other: Tensor) -> bool:
    if not isinstance(one, Tensor) or one.numel() != other.numel():
        return False
    return bool((one.detach().reshape(-1) == other.detach().reshape(-1)).all())


def _is_plain(stage: Stage | Residual) -> bool:
    return isinstance(stage, Stage) and stage.convolution is None and _is_bare(stage)


def _is_bare(stage: Stage) -> bool:
    return stage.norm == "none" and stage.pool is None and stage.dropout == 0.0


def _ratio(stages: Sequence[Stage], levels: Sequence[Level], from_input: bool, *, ends_linear: bool = True) -> float:
    """m2 / m1^2, factor by factor, for any widths; of all but the last activation, or with it.

    Multiplying by phi' adds mu_2 / mu_1^2 - 1. An independent matrix of N' x N entries turns r into 1 + r N' / N; an
    orthogonal one into r N' / N where N' >= N, into 1 + (r - 1) N' / N else: products of free variables (Pennington,
    Schoenholz and Ganguli 2017), widths as in Wishart's law.
    """
    q = {level.name: level.q for level in levels}
    ratio = 1.0
    for place, stage in enumerate(stages):
        if place or from_input:
            aspect = stage.fan_out / stage.fan_in
            if not stage.orthogonal:
                ratio = 1.0 + ratio * aspect
            else:
                ratio = ratio * aspect if aspect >= 1 else 1.0 + (ratio - 1.0) * aspect
        if stage is not stages[-1] or not ends_linear:
            here = moments(activation_of(stage.activation), q[stage.name])
            ratio += float(here.slope_fourth) / float(here.slope_square) ** 2 - 1.0
    return ratio


def _largest(stages: Sequence[Stage]) -> float:
    linear = all(activation_of(one.activation).name == "identity" and not one.orthogonal for one in stages)
    if not linear or len({*(one.fan_in for one in stages), *(one.fan_out for one in stages)}) > 1:
        return math.nan
    scale = 0.5 * sum(math.log(one.weight_var) for one in stages)
    return largest_singular_value(len(stages)) * math.exp(scale)
