"""The layer-wise recursion: q, correlation and gradient from layer to layer, where no fixed point is reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import InvalidValueError
from gradscope.theory.flow import Back, Dense, Gain, Join, Mark
from gradscope.theory.functions import activation_of
from gradscope.theory.geometry import convolve, leaked, pool
from gradscope.theory.levels import Passage, describe
from gradscope.theory.response import activate, weight_noise
from gradscope.theory.signal import Signal, add, drop, normalize
from gradscope.theory.stages import Level, Residual, Stage, Start

Array = NDArray[np.float64]
Network = Sequence[Stage | Residual]


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
    walk = _Walk(start.unequal)
    if start.samples < 1 or not 1.0 <= start.rank <= start.samples:
        raise InvalidValueError(
            f"rank of the start is between 1 and its samples, not {start.rank:.6g} of {start.samples}"
        )
    q = _begin(network, start.q)
    elsewhere = np.asarray(start.elsewhere if q.ndim else start.c)
    level = float(np.mean(elsewhere))
    alike = (float(start.c), level, *start.neighbours)
    edge = elsewhere / level if elsewhere.shape == q.shape and q.ndim and level > 0 else None
    signal = Signal(
        q,
        alike,
        edge=edge,
        windows=_windows(network),
        samples=start.samples,
        rank=start.rank,
        sampling=_has_sums(network),
    )
    walk.run(network, signal, first=True)
    if not walk.passages:
        raise InvalidValueError("a network for theory needs at least one stage")
    return describe(walk.passages, walk.tape, chain=_is_chain(network))


def _windows(network: Network) -> tuple[tuple[int, ...], ...]:
    """Return the windows of all poolings, in the order in which a signal meets them."""
    found: list[tuple[int, ...]] = []
    for one in network:
        if isinstance(one, Residual):
            found += [*_windows(one.branch), *_windows(one.shortcut)]
        if one.pool is not None:
            found.append(one.pool.window)
    return tuple(found)


class _Walk:
    """One pass forward and back."""

    def __init__(self, unequal: float) -> None:
        self._unequal = unequal
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

    def _stage(self, stage: Stage, signal: Signal, *, known: bool) -> Signal:
        entering = math.nan if known else signal.level
        signal = replace(signal, width=stage.fan_out) if known else self._weights(stage, signal)
        index = len(self.passages)
        self.tape.append(Mark(index))
        if stage.why_not and not signal.blocked:
            signal = replace(signal, q=np.full_like(signal.q, np.nan), blocked=stage.why_not)
        at_z = signal
        if stage.why_not_behind:
            return self._lost(stage, at_z, entering)
        signal, back = normalize(signal, stage.norm, stage.norm_eps)
        self._note(back)
        if known and stage.norm == "batch":
            self._note(Gain(np.full_like(signal.q, self._unequal)))
        phi = activation_of(stage.activation)
        response = activate(signal, phi)
        self.passages.append(Passage(stage, at_z, entering, float(np.mean(response.slope)), response.signal))
        behind, backs = pool(signal, response, phi, stage.pool)
        self.tape.extend(backs)
        behind, back = drop(behind, stage.dropout)
        self._note(back)
        return behind

    def _lost(self, stage: Stage, signal: Signal, entering: float) -> Signal:
        """Give up behind the output of a stage: neither signal nor gradient can be followed there."""
        nothing = np.full_like(signal.q, np.nan)
        behind = replace(signal, q=nothing, mean=math.nan, blocked=signal.blocked or stage.why_not_behind)
        self.passages.append(Passage(stage, signal, entering, math.nan, behind))
        self.tape.append(Gain(nothing))
        return behind

    def _weights(self, stage: Stage, signal: Signal) -> Signal:
        if stage.convolution is not None:
            signal, back = convolve(signal, stage)
            self.tape.append(back)
            return signal
        inputs = signal.width * max(signal.q.size, 1)
        noise = weight_noise(signal, inputs, orthogonal=stage.orthogonal)
        self.tape.append(Dense(stage.weight_var, signal.q.shape, noise))
        q = stage.weight_var * signal.level + stage.bias_var
        alike = signal.alike[0] * signal.level * stage.weight_var + stage.bias_var
        return replace(
            signal,
            q=np.asarray(q),
            alike=(alike / q if q > 0 else math.nan,) * 2,
            edge=None,
            mean=0.0,
            units=None,
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


def _begin(network: Network, q: float | Array) -> Array:
    """Return q at the first output: a single number is spread over positions as an even picture would leave it."""
    given = np.asarray(q, np.float64)
    if not np.all(given >= 0.0):
        raise InvalidValueError(f"q of the start is not below 0 anywhere, not {q!r}")
    first = network[0] if network else None
    if given.ndim or not isinstance(first, Stage) or first.convolution is None:
        return given
    return leaked(first.convolution, float(given), first.bias_var)


def _has_sums(network: Network) -> bool:
    return any(isinstance(one, Residual) for one in network)


def _is_chain(network: Network) -> bool:
    """Tell whether these are dense layers and activations alone, for which noise of q can be followed."""
    return all(
        isinstance(one, Stage) and one.convolution is None and one.norm == "none" and one.pool is None
        for one in network
    )
