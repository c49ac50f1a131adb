"""How far the gradients of different samples pull at a weight together: their correlation, from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradscope.theory import propagate
from gradscope.theory.expectations import moments
from gradscope.theory.functions import Activation, Array, Function, activation_of
from gradscope.theory.stages import Level, Residual, Stage, Start

Network = Sequence[Stage | Residual]


@dataclass(frozen=True)
class Place:
    """Variance and correlation of samples at the input of an activation function."""

    q: float = 1.0
    c: float = 1.0


def places(network: Network, known: Mapping[str, Level]) -> dict[str, Place]:
    """Return what the activation functions of stages receive, by the names of these."""
    found: dict[str, Place] = {}
    for one in network:
        if isinstance(one, Residual):
            found |= places(one.branch, known) | places(one.shortcut, known)
        elif one.name:
            level = known[one.name]
            # A normalization brings the variance to 1; what samples have in common stays, but over a batch.
            c = 1.0 if math.isnan(level.c) else level.c
            found[one.name] = Place(level.q if one.norm == "none" else 1.0, 0.0 if one.norm == "batch" else c)
    return found


def coherence(network: Network, levels: Sequence[Level], start: Start, alike: float, samples: int) -> dict[str, float]:
    """Return <d_i, d_j> / |d|^2 of the gradients of different samples, on average, by the name of a stage.

    The scalar product of the gradients of two samples passes weights like a squared norm, and an activation function
    with E phi'(u) phi'(u') in place of E phi'(u)^2: the recursion once more, with such slopes. A normalization over the
    batch takes away what all gradients have in common: -1 / (samples - 1) is left.

    Args:
        network: Stages and skips.
        levels: What theory says of them.
        start: Where it began.
        alike: Its value at the last stage.
        samples: Size of the batch.
    """
    if samples < 2 or any(math.isnan(level.c) for level in levels):
        return {}
    normed = _batch_normed(network)
    known = places(network, {one.name: one for one in levels})
    # Slopes do not ask for the correlation again; a normalization over the batch does.
    begin = start if normed else replace(start, c=math.nan)
    pairs = propagate(_with_pairs(network, known, [Place()]), begin)
    found = {
        one.name: alike * math.exp(min(0.0, 2.0 * (pair.log_gradient - one.log_gradient)))
        for one, pair in zip(levels, pairs, strict=True)
        if one.name and not math.isnan(one.log_gradient)
    }
    return {name: -1.0 / (samples - 1) if name in normed else value for name, value in found.items()}


def apart(network: Network, levels: Sequence[Level]) -> dict[str, float]:
    """Return the variance of z over samples, q (1 - c), by the name of a stage.

    Where samples are nearly alike, 1 - c is lost to rounding; along a chain their difference then passes like a small
    perturbation: times sigma_w^2 E phi'^2 from layer to layer.
    """
    stages = [one for one in network if isinstance(one, Stage)]
    chain = len(stages) == len(network) == len(levels)
    found: list[float] = []
    for place, level in enumerate(levels):
        difference = level.q * level.spread**2
        if chain and place and level.spread**2 < _ALIKE and _is_plain(stages[place - 1]):
            difference = found[-1] * stages[place].weight_var * levels[place - 1].slope
        found.append(difference)
    return {level.name: difference for level, difference in zip(levels, found, strict=True)}


_ALIKE = 1e-7


def _is_plain(stage: Stage) -> bool:
    return stage.norm == "none" and stage.pool is None and stage.dropout == 0.0


def _with_pairs(network: Network, known: Mapping[str, Place], at: list[Place]) -> list[Stage | Residual]:
    found: list[Stage | Residual] = []
    for one in network:
        if isinstance(one, Stage):
            at[0] = known.get(one.name, at[0])
            found.append(replace(one, activation=_paired(one.activation, at[0]), dropout=0.0))
            continue
        before = _paired(one.before_activation, at[0])
        branch = _with_pairs(one.branch, known, at)
        shortcut = _with_pairs(one.shortcut, known, at)
        found.append(
            replace(
                one,
                branch=tuple(branch),
                shortcut=tuple(shortcut),
                before_activation=before,
                activation=_paired(one.activation, at[0]),
            )
        )
    return found


def _paired(activation: str | Activation, at: Place) -> Activation:
    """Return the same function with a constant slope, the root of E phi'(u) phi'(u')."""
    phi = activation_of(activation)
    if phi.name == "identity" or math.isnan(at.q):
        return phi
    pair = rough_pair(phi.slope, at)
    whole = float(moments(phi, at.q).slope_square)
    slope = math.sqrt(min(max(pair, 0.0), whole))
    return Activation(phi.name, phi.phi, lambda u: np.full_like(u, slope), phi.kinks)


def rough_pair(function: Function, at: Place) -> float:
    """Return E f(u1) f(u2) to about three digits, a hundred times faster than to fourteen: enough for a scatter."""
    c = min(max(at.c, -1.0), 1.0)
    first, weight = _GRID
    second = c * first[:, None] + math.sqrt(1.0 - c * c) * first
    root = math.sqrt(at.q)
    return float((weight * function(root * first)) @ (function(root * second) @ weight))


def _grid(nodes: int, reach: float = 6.0) -> tuple[Array, Array]:
    z = np.linspace(-reach, reach, nodes)
    density = np.exp(-0.5 * z * z)
    return z, density / density.sum()


_GRID = _grid(128)


def _batch_normed(network: Network) -> set[str]:
    found: set[str] = set()
    for one in network:
        if isinstance(one, Residual):
            found |= _batch_normed(one.branch) | _batch_normed(one.shortcut)
        elif one.norm == "batch":
            found.add(one.name)
    return found
