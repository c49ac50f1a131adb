"""InfoNCE: a lower bound by telling pairs from strangers, and its ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import Array, pair, whole
from gradscope.information.estimate import Estimate, interval, joined

NAME = "info_nce"
FOLDS = 5
CROWDED = 10
Critic = Callable[[Array, Array], Array]


def info_nce(x: ArrayLike, y: ArrayLike, *, critic: Critic | None = None, batch: int = 128, seed: int = 0) -> Estimate:
    """Bound I(X;Y) from below by how well a critic tells each sample's partner from those of K - 1 others.

    With f the critic::

        I >= ln K + < f(x_i, y_i) - ln sum_j exp f(x_i, y_j) >        over batches of K, at most ln K

    The bound is tight for f = ln p(y|x)/p(y) + c(x) and K much above exp(I); within ln 10 of its ceiling ln K it says
    only that there is more.

    Args:
        x: Shape (samples, features).
        y: Shape (samples, features).
        critic: Takes (K, features) of x and of y, and returns f as a matrix (K, K), a row for each x. Where None, the
            log density ratio of a Gaussian fitted to the first half of the samples, which are then not used for the
            bound: still a lower bound, whatever the law.
        batch: K; the rest of the samples that fills no batch is left out.
        seed: Of the order of the samples.

    Returns:
        The lower bound in nats; its interval from the spread over batches, NaN for a single one.

    Raises:
        InvalidTypeError: An array holds no numbers.
        InvalidValueError: An array is empty or not finite, their lengths differ, there is not one batch of samples,
            or the critic returns another shape.

    Source: van den Oord, Li and Vinyals 2018; Poole et al. 2019 for ceiling and bias.
    """
    first, second = pair(x, y, least=4)
    size = whole("batch", batch, 2)
    order = np.random.default_rng(seed).permutation(len(first))
    few = ""
    there = len(order) - (len(order) // 2 if critic is None else 0)
    if there < size:
        raise InvalidValueError(f"batch is at most the {there} samples that there are for the bound, not {batch}")
    if critic is None:
        fitted, order = np.split(order, [len(order) // 2])
        few = _few(len(fitted), first.shape[1] + second.shape[1])
        critic = gaussian_critic(first[fitted], second[fitted])
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    values = np.array([_bound(critic, first[one], second[one]) for one in batches])
    value, ceiling = float(values.mean()), math.log(size)
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return Estimate(
        value,
        *interval(value, error, len(values)),
        NAME,
        len(values) * size,
        {"batch": size, "ceiling": ceiling},
        "lower",
        warning=joined(
            f"close to its ceiling ln {size} = {ceiling:.4g}: there may be much more"
            if value > ceiling - math.log(10)
            else "",
            few,
        ),
    )


def gaussian_critic(x: Array, y: Array) -> Critic:
    """Fit ln p(y|x)/p(y) of a Gaussian, but for a constant: linear regression with the covariance of its residuals."""
    inputs, outputs, weights = _regression(x, y)
    conditional = _whitening(_residuals(x, y))
    marginal = _whitening(y - outputs)

    def critic(some_x: Array, some_y: Array) -> Array:
        predicted = (some_x - inputs) @ weights @ conditional
        given = (some_y - outputs) @ conditional
        squared = (predicted**2).sum(1)[:, None] - 2.0 * predicted @ given.T + (given**2).sum(1)
        return np.asarray(0.5 * (((some_y - outputs) @ marginal) ** 2).sum(1) - 0.5 * squared)

    return critic


def _regression(x: Array, y: Array) -> tuple[Array, Array, Array]:
    inputs, outputs = x.mean(axis=0), y.mean(axis=0)
    return inputs, outputs, np.linalg.lstsq(x - inputs, y - outputs, rcond=None)[0]


def _residuals(x: Array, y: Array) -> Array:
    """Return what regression leaves of samples that it was not fitted to: those it was fitted to flatter it."""
    parts = np.arange(len(x)) % FOLDS
    left = np.empty_like(y)
    for part in set(parts.tolist()):
        unseen = parts == part
        inputs, outputs, weights = _regression(x[~unseen], y[~unseen])
        left[unseen] = y[unseen] - outputs - (x[unseen] - inputs) @ weights
    return left


def _whitening(residuals: Array) -> Array:
    """Return the matrix that makes residuals white."""
    features = residuals.shape[1]
    covariance = residuals.T @ residuals / len(residuals)
    mean, squares = float(np.trace(covariance)) / features, float((covariance**2).mean())
    # Shrunk towards a sphere, by much where the samples are few for the features (Chen et al. 2010). What is
    # predicted without error gets an error of a billionth, so that it can be inverted.
    denominator = (len(residuals) + 1.0) * (squares - mean**2 / features)
    share = min(1.0, (squares + mean**2) / denominator) if denominator > 0.0 else 1.0
    covariance = (1.0 - share) * covariance + np.eye(features) * max(share * mean, 1e-9 * mean, 1e-300)
    return np.asarray(np.linalg.inv(np.linalg.cholesky(covariance)).T, np.float64)


def _few(count: int, features: int) -> str:
    crowded = features * CROWDED > count
    return f"the critic has {features} features and was fitted to {count} samples: far from tight" if crowded else ""


def _bound(critic: Critic, x: Array, y: Array) -> float:
    scores = np.asarray(critic(x, y), np.float64)
    if scores.shape != (len(x), len(x)):
        raise InvalidValueError(f"critic returns a matrix of shape {(len(x), len(x))}, not {scores.shape}")
    return float(math.log(len(x)) + (np.diagonal(scores) - logsumexp(scores, axis=1)).mean())
