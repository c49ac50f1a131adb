"""What a linear reader gets out of a layer: the input back, and the label."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.linalg import eigh

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import Array, centred, labels, pair, samples, whole
from gradscope.information.estimate import Estimate, interval, joined
from gradscope.loading import undrawn

Indices = NDArray[np.intp]
PENALTIES = (1e-6, 1e-2, 1.0, 1e2)
ROUNDS = 200
ROUNDING = 1e-14
CONFIDENCE = 0.95


def reconstruction(t: ArrayLike, x: ArrayLike, *, folds: int = 5, seed: int = 0) -> Estimate:
    """Return how well the input is rebuilt linearly from a layer: the cross-validated R^2 over all features of x.

    That is::

        R^2 = 1 - sum |x - x'|^2 / sum |x - mean|^2        x' predicted from t by ridge regression on the other folds

    1 where the layer still holds the whole input (linearly), 0 where it says no more than the mean; below 0 where the
    fit does not carry over to new samples.

    Args:
        t: Shape (samples, features): the layer.
        x: Shape (samples, features): the input.
        folds: Parts of the sample, each predicted from the others, with the best of four penalties.
        seed: Of the parts.

    Returns:
        The value; its interval from the spread of the squared errors over samples. NaN where x is constant.

    Raises:
        InvalidTypeError: An array holds no numbers.
        InvalidValueError: An array is empty or not finite, their lengths differ, or there are fewer samples than folds.

    Source: Hoerl and Kennard 1970; Alain and Bengio 2016 for linear readers of layers.
    """
    layer, inputs = pair(t, x, ("t", "x"))
    inputs = centred(inputs)
    count = len(layer)
    _enough(folds, count)
    predicted = np.empty((len(PENALTIES), *inputs.shape))
    for seen, unseen in _folds(folds, seed, layer):
        predicted[:, unseen] = _Ridge.of(layer[seen], inputs[seen]).read(layer[unseen])
    tried = ((inputs - predicted) ** 2).sum(axis=2)
    errors = min(tried, key=lambda one: float(one.sum()))
    spreads = (inputs**2).sum(axis=1)
    total = float(spreads.sum())
    value = 1.0 - float(errors.sum()) / total if total > 0.0 else math.nan
    deviation = float((errors - (1.0 - value) * spreads).std()) * math.sqrt(count) / total if total > 0.0 else math.nan
    constant = "the input is constant" if math.isnan(value) else ""
    return Estimate(
        value, *interval(value, deviation), "reconstruction", count, {"folds": folds}, "lower", "1", constant
    )


def probe_accuracy(t: ArrayLike, y: ArrayLike, *, folds: int = 5, seed: int = 0) -> Estimate:
    """Return how often a linear reader of a layer names the label of samples it was not fitted to.

    Logistic regression on standardized features, each part of the sample predicted from the others. The share of the
    commonest label is given as `chance`.

    Args:
        t: Shape (samples, features): the layer.
        y: Labels, one for each sample.
        folds: Parts of the sample.
        seed: Of the parts.

    Returns:
        The accuracy, from 0 to 1; its interval is Wilson's for the number of samples.

    Raises:
        InvalidTypeError: t holds no numbers.
        InvalidValueError: t is empty or not finite, y has another length or one label only, or a label has fewer
            samples than there are folds.

    Source: Alain and Bengio 2016; Wilson 1927.
    """
    layer = samples("t", t)
    count = len(layer)
    classes = labels("y", y, count)
    _enough(folds, count)
    sizes = np.bincount(classes)
    if len(sizes) < 2:
        raise InvalidValueError("y holds one label only: there is nothing to tell apart")
    if sizes.min() < folds:
        raise InvalidValueError(f"a label of y has {sizes.min()} samples, fewer than the {folds} folds")
    right, stopped = 0, False
    with unfinished_fits():
        for seen, unseen in _folds(folds, seed, layer, classes):
            reader = _logistic().fit(layer[seen], classes[seen])
            right += int((reader.predict(layer[unseen]) == classes[unseen]).sum())
            stopped |= bool(reader[-1].n_iter_.max() >= ROUNDS)
    ends = stats.binomtest(right, count).proportion_ci(CONFIDENCE, "wilson")
    return Estimate(
        right / count,
        float(ends.low),
        float(ends.high),
        "probe_accuracy",
        count,
        {"folds": folds, "chance": float(sizes.max() / count)},
        "lower",
        "1",
        joined(f"the fit was stopped after {ROUNDS} rounds" if stopped else ""),
    )


@contextmanager
def unfinished_fits() -> Iterator[None]:
    """Say nothing of fits that were stopped: the result does."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        yield


@dataclass(frozen=True)
class _Ridge:
    """A ridge regression on standardized features for every penalty, from one decomposition of the smaller side."""

    mean: Array
    scale: Array
    target: Array
    basis: Array
    values: Array
    pulled: Array

    @classmethod
    def of(cls, t: Array, x: Array) -> _Ridge:
        mean, scale, target = t.mean(axis=0), t.std(axis=0), x.mean(axis=0)
        # A constant feature, as far as rounding lets one tell.
        scale[scale <= ROUNDING * np.abs(mean)] = 1.0
        given = (t - mean) / scale
        count, features = given.shape
        values, vectors = eigh(given @ given.T if features > count else given.T @ given)
        basis = given.T @ vectors if features > count else vectors
        pulled = vectors.T @ (x - target) if features > count else (given @ vectors).T @ (x - target)
        return cls(mean, scale, target, basis, np.clip(values, 0.0, None), pulled)

    def read(self, t: Array) -> Array:
        """Return what is predicted from other samples with each of the penalties: (penalties, samples, targets)."""
        spread = ((t - self.mean) / self.scale) @ self.basis
        return np.stack([self.target + (spread / (self.values + one)) @ self.pulled for one in PENALTIES])


def _folds(folds: int, seed: int, t: Array, y: NDArray[np.intp] | None = None) -> Iterable[tuple[Indices, Indices]]:
    """Return what is fitted and what is predicted, for each part of the sample."""
    # scikit-learn is imported where it is used: it takes longer than all the rest.
    with undrawn():
        from sklearn.model_selection import KFold, StratifiedKFold

    parts = KFold if y is None else StratifiedKFold
    split: Iterable[tuple[Indices, Indices]] = parts(folds, shuffle=True, random_state=seed).split(t, y)
    return split


def _logistic() -> Any:
    with undrawn():
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=ROUNDS))


def _enough(folds: int, count: int) -> None:
    if whole("folds", folds, 2) > count:
        raise InvalidValueError(f"folds is at most the number of samples, {count}, not {folds}")
