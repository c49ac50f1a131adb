"""How single networks of finite width scatter around the mean field: noise of q, carried on from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.theory.expectations import moments, pair_moment
from gradscope.theory.functions import Activation

Array = NDArray[np.float64]
_STEP = 1e-3


@dataclass(frozen=True)
class Link:
    """One layer of a chain: variance `q` of its output, what follows it, its width, the next weights, and the batch."""

    q: float
    activation: Activation
    width: int
    weight_var: float
    next_q: float
    orthogonal: bool
    c: float = math.nan
    samples: int = 1
    rank: float = 1.0


@dataclass(frozen=True)
class Scatter:
    """What noise of q does along a chain, one entry per layer.

    Attributes:
        extra: What it adds to the variance of ln |dL/dz_l|^2 / |dL/dz_L|^2 beyond the sum of kappa / N.
        kappa: The sum of kappa / N itself.
        grown: By how much relative noise in q of the first layer has grown at this one.
    """

    extra: Array
    kappa: Array
    grown: Array


def scatter(links: Sequence[Link]) -> Scatter:
    """Follow the relative noise of q along a chain of layers, to first order in 1 / N.

    The mean of phi^2 over N units differs from E phi^2 by a relative t, with a variance of order 1 / N; it changes q
    of the next layer, is carried on by A = dln q_l+1 / dln q_l, and changes chi by a = dln chi / dln q. In the layer
    where it arises it goes along with the noise of phi'^2, which kappa counts. Orthogonal weights keep the length, so
    that only what is not proportional to it scatters.

    Args:
        links: All layers but the last, first layer first.

    Returns:
        One entry per link, and one, 0, for the last layer.
    """
    count = len(links)
    terms = np.array([_terms(one) for one in links]).reshape(count, 6)
    carry, bend, own, noise, common, kappa = terms.T
    pull = np.zeros(count + 1)
    for at in range(count - 1, -1, -1):
        pull[at] = bend[at] + carry[at] * pull[at + 1]
    later = common * 2.0 * pull[1:] + pull[1:] ** 2 * noise + own
    before = np.zeros(count + 1)
    for at in range(count):
        before[at + 1] = carry[at] ** 2 * before[at] + noise[at]
    extra = np.append(np.cumsum(later[::-1])[::-1], 0.0) + pull**2 * before
    summed = np.append(np.cumsum(kappa[::-1])[::-1], 0.0)
    return Scatter(extra, summed, np.append(1.0, np.cumprod(np.abs(carry))))


def _terms(link: Link) -> tuple[float, float, float, float, float, float]:
    """Return A, a, correction and variance of t, covariance of t with the own factor, and kappa / N."""
    found = moments(link.activation, np.array([link.q, link.q * (1 + _STEP), link.q * (1 - _STEP)]))
    slope, square = float(found.slope_square[0]), float(found.square[0])
    if not (slope > 0.0 and link.next_q > 0.0):
        return (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    part = link.weight_var / link.next_q
    carry = part * link.q * float(found.length_slope[0])
    bend = float(np.log(found.slope_square[1] / found.slope_square[2])) / float(np.log((1 + _STEP) / (1 - _STEP)))
    noise = part**2 * (float(found.fourth[0]) - square**2)
    common = part * (float(found.mixed[0]) / slope - square)
    own = 0.0
    if link.orthogonal:
        noise, common, own = noise - 2.0 * carry**2, common - 2.0 * carry * bend, -2.0 * bend**2
    kappa = 3.0 * float(found.slope_fourth[0]) / slope**2 - (3.0 if link.orthogonal else 1.0)
    left = _left(link, float(found.fourth[0]), square) / link.width
    noise, common, own, kappa = left * max(noise, 0.0), left * common, left * own, kappa / link.width
    return (carry, bend, own, noise, common, kappa)


def _left(link: Link, fourth: float, square: float) -> float:
    """Return the part of the noise of q that a mean over the samples of a batch leaves: their correlation of phi^2."""
    if link.samples == 1 or math.isnan(link.c) or fourth <= square**2:
        return 1.0
    phi = link.activation
    squared = Activation(f"{phi.name} squared", lambda u: phi.phi(u) ** 2, phi.slope, phi.kinks)
    both = pair_moment(squared, link.q, float(np.clip(link.c, -1.0, 1.0)), slope=False)
    alike = (both - square**2) / (fourth - square**2)
    return 1.0 / link.samples + (1.0 - 1.0 / link.samples) * float(np.clip(alike, 0.0, 1.0))
