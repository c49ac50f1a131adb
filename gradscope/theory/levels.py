"""From the two passes of the recursion to what is said of each layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.theory.flow import Back, Flow, Join, Mark, through
from gradscope.theory.functions import activation_of
from gradscope.theory.scatter import Link, scatter
from gradscope.theory.signal import Signal
from gradscope.theory.stages import Level, Stage

Array = NDArray[np.float64]
BAND = 1.96
"""Standard deviations of the 95 % band."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Passage:
    """What the forward pass notes of one stage.

    Attributes:
        stage: The stage.
        signal: At its output z.
        entering: Mean square of its input; NaN for the first.
        slope: E phi'^2.
        behind: The signal behind its activation.
    """

    stage: Stage
    signal: Signal
    entering: float
    slope: float
    behind: Signal


@dataclass(frozen=True)
class _Gradient:
    """Squared norm of the gradient at one stage relative to the last: logarithm, its variance, what q adds to that."""

    log: float
    variance: float
    extra: float
    sensitive: bool


def describe(passages: Sequence[Passage], tape: Sequence[Back], *, chain: bool) -> tuple[Level, ...]:
    """Send a gradient back from the last stage and describe every stage."""
    seen: dict[int, Flow] = {}
    ends = [place for place, one in enumerate(tape) if isinstance(one, Mark | Join)]
    last = passages[-1]
    # A network that ends with a sum has its last stage inside the branch: the gradient starts behind the sum.
    shape = last.signal.q.shape
    through(tape[: ends[-1] + 1], Flow(np.full(shape, 1.0 / max(last.signal.q.size, 1))), seen)
    reference = seen[len(passages) - 1].log
    noise = _noise(passages) if chain else np.zeros((2, len(passages)))
    gradients = [
        _Gradient(
            seen[at].log - reference,
            seen[at].variance,
            float(np.nan_to_num(noise[0, at])) if _wide(passages) else 0.0,
            bool(noise[0, at] > noise[1, at] + _ROUNDING),
        )
        for at in range(len(passages))
    ]
    return tuple(_level(at, passages, gradients) for at in range(len(passages)))


def _level(at: int, passages: Sequence[Passage], gradients: Sequence[_Gradient]) -> Level:
    passage, own = passages[at], gradients[at]
    after = gradients[at + 1].log if at + 1 < len(passages) else math.nan
    log, variance = 0.5 * own.log, 0.25 * (own.variance + own.extra)
    typical = log - 0.25 * own.variance
    half = BAND * math.sqrt(max(variance, 0.0))
    return Level(
        name=passage.stage.name,
        q=passage.signal.level,
        c=passage.signal.alike[0],
        spread=_root(1.0 - passage.signal.alike[0]),
        slope=passage.slope,
        activation_mean=passage.behind.mean,
        activation_square=passage.behind.level,
        chi=_exp(own.log - after),
        log_gradient=log,
        log_weight_gradient=log + 0.5 * (_log_input(passage) - _log_input(passages[-1])),
        log_var=variance,
        typical=typical,
        low=typical - half,
        high=typical + half,
        sensitive=own.sensitive,
        status=_status(at, passages, log),
    )


def _noise(passages: Sequence[Passage]) -> Array:
    """Return, per stage, what noise of q adds to the variance, and the sum of kappa / N that it adds to.

    Without widths all are taken as 1, since only the comparison is wanted then.
    """
    wide = _wide(passages)
    links = [
        Link(
            q=one.signal.level,
            activation=activation_of(one.stage.activation),
            width=one.stage.fan_out if wide else 1,
            weight_var=after.stage.weight_var / (1.0 - one.stage.dropout),
            next_q=after.signal.level,
            orthogonal=after.stage.orthogonal,
            c=one.signal.alike[0],
            samples=one.signal.samples,
            rank=one.signal.rank,
        )
        for one, after in itertools.pairwise(passages)
    ]
    found = scatter(links)
    return np.stack([found.extra, found.kappa])


def _wide(passages: Sequence[Passage]) -> bool:
    return all(one.stage.fan_out for one in passages[:-1])


def _status(at: int, passages: Sequence[Passage], log: float) -> str:
    own = passages[at].signal
    if own.blocked:
        return own.blocked
    if math.isnan(log):
        later = next((one.behind.blocked for one in passages[at:] if one.behind.blocked), "")
        why = f": {later}" if later else ""
        return f"the gradient comes through layers of which theory says nothing{why}"
    return "; ".join(own.notes)


def _log_input(passage: Passage) -> float:
    """Return ln of the squared norm of what enters a stage; NaN for the first."""
    total = passage.entering * (passage.stage.fan_in or 1)
    return math.log(total) if total > 0 else math.nan


def _root(value: float) -> float:
    return math.nan if math.isnan(value) else math.sqrt(max(0.0, value))


def _exp(exponent: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(exponent))
