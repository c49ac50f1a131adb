"""What a linear reader gets out of a layer: the input back, and the label."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike

from gradscope.errors import InvalidValueError
from gradscope.information.arrays import labels, pair, samples, whole
from gradscope.information.estimate import Estimate, interval, joined

PENALTIES = (1e-6, 1e-2, 1.0, 1e2)
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
    # Imported where it is used: it takes longer than all the rest.
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    layer, inputs = pair(t, x, ("t", "x"))
    count = len(layer)
    _enough(folds, count)
    parts = KFold(folds, shuffle=True, random_state=seed)
    tried = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of singular matrices, which the penalty is for
        for penalty in PENALTIES:
            reader = make_pipeline(StandardScaler(), Ridge(penalty))
            predicted = np.asarray(cross_val_predict(reader, layer, inputs, cv=parts)).reshape(inputs.shape)
            tried.append(((inputs - predicted) ** 2).sum(axis=1))
    errors = min(tried, key=lambda one: float(one.sum()))
    spreads = ((inputs - inputs.mean(axis=0)) ** 2).sum(axis=1)
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
    from scipy import stats
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    layer = samples("t", t)
    count = len(layer)
    classes = labels("y", y, count)
    _enough(folds, count)
    sizes = np.bincount(classes)
    if len(sizes) < 2:
        raise InvalidValueError("y holds one label only: there is nothing to tell apart")
    if sizes.min() < folds:
        raise InvalidValueError(f"a label of y has {sizes.min()} samples, fewer than the {folds} folds")
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    reader = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        predicted = cross_val_predict(reader, layer, classes, cv=parts)
    stopped = any(issubclass(one.category, ConvergenceWarning) for one in caught)
    right = int((predicted == classes).sum())
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
        joined("the fit was stopped after 200 rounds" if stopped else ""),
    )


def _enough(folds: int, count: int) -> None:
    if whole("folds", folds, 2) > count:
        raise InvalidValueError(f"folds is at most the number of samples, {count}, not {folds}")
