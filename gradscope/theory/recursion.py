"""The layer-wise recursion: q, correlation and gradient from layer to layer, where no fixed point is reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.theory.flow import Back, Dense, Flow, Join, Mark, through
from gradscope.theory.functions import activation_of
from gradscope.theory.geometry import convolve, pool
from gradscope.theory.signal import Signal, activate, add, drop, normalize
from gradscope.theory.stages import Level, Residual, Stage, Start

Array = NDArray[np.float64]
Network = Sequence[Stage | Residual]
BAND = 1.96
"""Standard deviations of the 95 % band."""


@dataclass(frozen=True)
class Passage:
    """What the forward pass notes of one stage."""

    stage: Stage
    signal: Signal
    entering: float
    slope: float
    behind: Signal


def propagate(network: Network, start: Start | None = None) -> tuple[Level, ...]:
    """Follow signal and gradient through a network at initialization, layer by layer.

    For layers l with variance q of the output z, u = norm(z), correlation c of two samples::

        q_l+1   = sigma_w^2 E[phi(u_l)^2] + sigma_b^2
        c_l+1   = (sigma_w^2 E[phi(u_l) phi(u_l')] + sigma_b^2) / q_l+1
        |dL/dz_l|^2 = sigma_w^2 E[phi'(u_l)^2] |dL/dz_l+1|^2            norms, whatever the widths
        ln |dL/dz_1|^2 / |dL/dz_L|^2 ~ N(ln prod chi - beta / 2, beta)  beta = sum of kappa / N

    Convolutions average q over their taps, with zeros beyond the edge; batch norm divides by the variance over the
    batch, layer norm by that over units; a skip adds energies.

    Args:
        network: Stages and skips in order of execution; the last stage is the one that gradients are relative to.
        start: q, and where needed the correlation, at the output of the first stage; q = 1 where not given.

    Returns:
        One level per stage, in order; of a skip, those of the branch before those of the shortcut.

    Raises:
        InvalidValueError: No stage, shapes that do not fit, or a variance below zero.
        UnknownNameError: No such activation.

    Sources: Poole et al. 2016; Schoenholz et al. 2017; Xiao et al. 2018 (convolutions); Yang & Schoenholz 2017 (skips);
    Yang et al. 2019 (batch norm); Hanin & Nica 2020 (finite width).

    >>> levels = propagate([Stage(1.0, activation="relu")] * 3, Start(q=1.0))
    >>> [round(one.chi, 6) for one in levels[:2]], [round(one.q, 6) for one in levels]
    ([0.5, 0.5], [1.0, 0.5, 0.25])
    """
    start = start or Start()
    walk = _Walk()
    q = np.asarray(start.q, np.float64)
    signal = Signal(q, (float(start.c), *start.neighbours))
    signal = walk.run(network, signal, first=True)
    if not walk.passages:
        raise InvalidValueError("a network for theory needs at least one stage")
    return walk.levels()


class _Walk:
    """One pass forward and back."""

    def __init__(self) -> None:
        self.passages: list[Passage] = []
        self.tape: list[Back] = []

    def run(self, network: Network, signal: Signal, *, first: bool = False) -> Signal:
        """Pass through stages and skips, noting what the gradient will pass."""
        for place, item in enumerate(network):
            if isinstance(item, Stage):
                signal = self._stage(item, signal, known=first and place == 0)
            else:
                signal = self._residual(item, signal)
        return signal

    def levels(self) -> tuple[Level, ...]:
        """Send a gradient back from the last stage and describe every stage."""
        seen: dict[int, Flow] = {}
        last = self.passages[-1].signal
        cut = _up_to_last_mark(self.tape)
        share = np.full(last.q.shape, 1.0 / max(last.q.size, 1))
        through(cut, Flow(share), seen)
        return tuple(self._level(index, seen) for index in range(len(self.passages)))

    def _stage(self, stage: Stage, signal: Signal, *, known: bool) -> Signal:
        entering = math.nan if known else signal.level
        signal = replace(signal, width=stage.fan_out) if known else self._weights(stage, signal)
        index = len(self.passages)
        self.tape.append(Mark(index))
        if stage.why_not and not signal.blocked:
            signal = replace(signal, q=np.full_like(signal.q, np.nan), blocked=stage.why_not)
        at_z = signal
        signal, back = normalize(signal, stage.norm, stage.norm_eps)
        self._note(back)
        phi = activation_of(stage.activation)
        response = activate(signal, phi)
        self.passages.append(Passage(stage, at_z, entering, float(np.mean(response.slope)), response.signal))
        behind, backs = pool(signal, response, phi, stage.pool)
        self.tape.extend(backs)
        behind, back = drop(behind, stage.dropout)
        self._note(back)
        return behind

    def _weights(self, stage: Stage, signal: Signal) -> Signal:
        if stage.convolution is not None:
            signal, back = convolve(signal, stage)
            self.tape.append(back)
            return signal
        inputs = signal.width * max(signal.q.size, 1)
        noise = 0.0 if stage.orthogonal or not inputs else 2.0 / inputs
        self.tape.append(Dense(stage.weight_var, signal.q.shape, noise))
        q = stage.weight_var * signal.level + stage.bias_var
        alike = signal.alike[0] * signal.level * stage.weight_var + stage.bias_var
        return replace(
            signal,
            q=np.asarray(q),
            alike=(alike / q if q > 0 else math.nan,),
            mean=0.0,
            normal=True,
            width=stage.fan_out,
        )

    def _residual(self, block: Residual, signal: Signal) -> Signal:
        outer, self.tape = self.tape, []
        inner, back = normalize(signal, block.before_norm, block.norm_eps)
        self._note(back)
        response = activate(inner, activation_of(block.before_activation))
        self._note(response.back)
        own = self.run(block.branch, response.signal)
        branch, self.tape = self.tape, []
        over = self.run(block.shortcut, signal)
        shortcut, self.tape = self.tape, outer
        if own.q.shape != over.q.shape:
            raise InvalidValueError(
                f"a skip adds positions {over.q.shape} to positions {own.q.shape} of its branch; they must be the same"
            )
        self.tape.append(Join(tuple(branch), tuple(shortcut), block.scale, signal.width))
        total, back = normalize(add(over, own, block.scale), block.norm, block.norm_eps)
        self._note(back)
        phi = activation_of(block.activation)
        behind, backs = pool(total, activate(total, phi), phi, block.pool)
        self.tape.extend(backs)
        return behind

    def _note(self, back: Back | None) -> None:
        if back is not None:
            self.tape.append(back)

    def _level(self, index: int, seen: dict[int, Flow]) -> Level:
        passage, last = self.passages[index], self.passages[-1]
        flow = seen[index]
        log, variance = 0.5 * flow.log, 0.25 * flow.variance
        after = seen.get(index + 1)
        half = BAND * math.sqrt(variance) if variance >= 0 else math.nan
        return Level(
            name=passage.stage.name,
            q=passage.signal.level,
            c=passage.signal.alike[0],
            spread=math.sqrt(max(0.0, 1.0 - passage.signal.alike[0])),
            slope=passage.slope,
            activation_mean=passage.behind.mean,
            activation_square=passage.behind.level,
            chi=_exp(flow.log - after.log) if after is not None else math.nan,
            log_gradient=log,
            log_weight_gradient=log + 0.5 * (_log_input(passage) - _log_input(last)),
            log_var=variance,
            typical=log - variance,
            low=log - variance - half,
            high=log - variance + half,
            status="; ".join((passage.signal.blocked,) if passage.signal.blocked else passage.signal.notes),
        )


def _up_to_last_mark(tape: list[Back]) -> list[Back]:
    """Return the tape without what follows the last stage, or the last sum."""
    ends = [place for place, one in enumerate(tape) if isinstance(one, Mark | Join)]
    return tape[: ends[-1] + 1]


def _log_input(passage: Passage) -> float:
    """Return ln of the squared norm of what enters a stage; NaN for the first."""
    total = passage.entering * (passage.stage.fan_in or 1)
    return math.log(total) if total > 0 else math.nan


def _exp(exponent: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(exponent))
