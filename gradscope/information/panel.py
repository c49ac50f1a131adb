"""All that is estimated of the layers of one network on one sample: matrices are shared, and rows are sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from gradscope.errors import InvalidValueError, unknown_name
from gradscope.information.arrays import (
    ROUNDING,
    Array,
    by_name,
    centred,
    flat,
    labels,
    plain,
    positive,
    precision,
    samples,
    whole,
)
from gradscope.information.binning import binning
from gradscope.information.cka import cka_of_grams
from gradscope.information.estimate import Estimate, interval, joined
from gradscope.information.kde import kde_from_distances
from gradscope.information.parallel import side_by_side
from gradscope.information.readout import probe_accuracy, reconstruction, unfinished_fits
from gradscope.information.sliced import sliced
from gradscope.information.spectrum import Spectrum, effective_rank, participation_ratio, pca_saturation, spectrum_of
from gradscope.loading import load

Rows = list[dict[str, object]]
ROWS = 256
NOISE_VAR = 0.1
GROUPS = 10


@dataclass(frozen=True)
class Sample:
    """What all layers are compared with: inputs, labels, and the rows that pairwise estimators look at.

    Attributes:
        rows: Places of the sampled rows.
        x: Inputs (samples, features).
        y: Labels as numbers from 0; None where there are none.
        target: The labels one-hot, or what was given in their place if its values are continuous; None without any.
        gram_x: Centred Gram matrix of the sampled inputs.
        gram_y: That of the sampled target; None where there is none.
        noise_var: Declared variance of the noise.
        seed: Of everything random.
    """

    rows: NDArray[np.intp]
    x: Array
    y: NDArray[np.intp] | None
    target: Array | None
    gram_x: Array
    gram_y: Array | None
    noise_var: float
    seed: int


@dataclass
class Layer:
    """The activations of one layer, with the matrices that several estimators share, made when first used."""

    values: Array
    sample: Sample
    eps: float = float(np.finfo(np.float64).eps)
    """Relative precision of the numbers as they were given."""
    _spectrum: Spectrum | None = field(default=None, repr=False)
    _gram: Array | None = field(default=None, repr=False)

    @property
    def spectrum(self) -> Spectrum:
        """Spectrum of all rows."""
        if self._spectrum is None:
            self._spectrum = spectrum_of(self.values, eps=self.eps)
        return self._spectrum

    @property
    def even(self) -> str:
        """How even all rows are, where they differ by no more than rounding."""
        return self.spectrum.flat if self._spectrum is not None else flat(self.values, self.eps)

    @property
    def gram(self) -> Array:
        """Centred Gram matrix of the sampled rows."""
        if self._gram is None:
            self._gram = gram_of(self.values[self.sample.rows])
        return self._gram

    @property
    def distances(self) -> Array:
        """Squared distances of the sampled rows, from the Gram matrix."""
        own = np.diagonal(self.gram)
        squared = np.maximum(own[:, None] + own[None, :] - 2.0 * self.gram, 0.0)
        np.fill_diagonal(squared, 0.0)
        return squared


def gram_of(values: Array) -> Array:
    """Return the Gram matrix of centred rows."""
    shifted = centred(values)
    return np.asarray(shifted @ shifted.T)


def _cka(layer: Layer, other: Array | None) -> Estimate | None:
    if other is None:
        return None
    value, count = cka_of_grams(layer.gram, other), len(other)
    kept = [np.flatnonzero(np.arange(count) % GROUPS != group) for group in range(GROUPS)] if count >= 40 else []
    # Left out group by group; the unbiased product centres what is left by itself.
    without = [cka_of_grams(layer.gram[np.ix_(one, one)], other[np.ix_(one, one)]) for one in kept]
    error = math.sqrt((GROUPS - 1) * float(np.var(without))) if without else math.nan
    even = flat(layer.values[layer.sample.rows], layer.eps)
    warning = f"a side is {even}" if even else "a side is constant" if math.isnan(value) else ""
    return Estimate(
        value, *interval(value, error, GROUPS), "cka", count, {"debiased": "true"}, unit="1", warning=warning
    )


def _kde(layer: Layer, classes: bool) -> Estimate | None:
    known = _classes(layer) if classes else None
    if classes and known is None:
        return None
    chosen = None if known is None else known[layer.sample.rows]
    return kde_from_distances(layer.distances, chosen, layer.sample.noise_var)


def _labelled(estimator: Callable[[Array, NDArray[np.intp]], Estimate], layer: Layer) -> Estimate | None:
    known = _classes(layer)
    return None if known is None else estimator(layer.values, known)


def _classes(layer: Layer) -> NDArray[np.intp] | None:
    if layer.sample.y is None and layer.sample.target is not None:
        raise InvalidValueError("y holds continuous values, not labels")
    return layer.sample.y


def _sliced_labels(layer: Layer) -> Estimate | None:
    target = layer.sample.target
    return None if target is None else sliced(layer.values, target, slices=50, seed=layer.sample.seed)


ESTIMATORS: dict[str, Callable[[Layer], Estimate | None]] = {
    "effective_rank": lambda layer: effective_rank(layer.spectrum),
    "participation_ratio": lambda layer: participation_ratio(layer.spectrum),
    "cka_input": lambda layer: _cka(layer, layer.sample.gram_x),
    "cka_label": lambda layer: _cka(layer, layer.sample.gram_y),
    "input_information": lambda layer: _kde(layer, classes=False),
    "label_information": lambda layer: _kde(layer, classes=True),
    "pca_saturation": lambda layer: pca_saturation(layer.spectrum),
    "input_information_binned": lambda layer: binning(layer.values),
    "label_information_binned": lambda layer: _labelled(binning, layer),
    "label_information_sliced": _sliced_labels,
    "input_reconstruction": lambda layer: reconstruction(layer.values, layer.sample.x, seed=layer.sample.seed),
    "label_accuracy": lambda layer: _labelled(
        lambda values, classes: probe_accuracy(values, classes, seed=layer.sample.seed), layer
    ),
}
DEFAULT = tuple(ESTIMATORS)[:6]
OF_ONE_SCALE = ("input_information", "label_information")
"""Estimators that know how large rounding is: their noise is. The others see any deviation, however small."""
COLUMNS = ("layer", "metric", "value", "low", "high", "unit", "bound", "estimator", "n", "parameters", "warning")


def panel(
    layers: Mapping[str, ArrayLike],
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    metrics: str | Iterable[str] = "default",
    rows: int = ROWS,
    noise_var: float = NOISE_VAR,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Estimate the information in every layer, on one sample.

    ``default``: effective rank, participation ratio, debiased CKA with input and label, and the bounds on the
    information about input and label under Gaussian noise of a declared variance. ``all`` adds saturation, binning,
    sliced information, and what a linear reader gets out. Ranks and readers use all rows; what compares rows in pairs
    uses a random `rows` of them, the same ones for every layer. Layers are estimated side by side in threads, as many
    as linear algebra may use; the numbers do not depend on it.

    Args:
        layers: Activations by name of the layer, each of shape (samples, ...).
        x: The inputs, (samples, ...).
        y: Labels; what needs them is left out where None. Numbers with fractions are a continuous target: CKA and
            sliced information take it as it is, what needs labels has no value.
        metrics: ``default``, ``all``, or names.
        rows: How many rows pairwise estimators look at.
        noise_var: Variance of the noise that the bounds are for, per feature, in the units of the activations.
        seed: Of the rows and everything else random.
        progress: Show a bar on the error stream.

    Returns:
        One row per layer and metric: layer, metric, value, low, high, unit, bound, estimator, n, parameters (text) and
        warning. The value is NaN, and the warning says why, where the sample does not allow an estimate.

    Raises:
        InvalidTypeError: An array holds no numbers, or layers are not given by name.
        InvalidValueError: An array is empty or not finite, or has another number of samples than the inputs.
        UnknownNameError: No such metric.
    """
    chosen = _chosen(metrics)
    sample = _sample(x, y, whole("rows", rows, 4), positive("noise_var", noise_var), seed)
    named = {name: samples(f"layer {name!r}", one) for name, one in by_name(layers).items()}
    for name, values in named.items():
        if len(values) != len(sample.x):
            raise InvalidValueError(f"layer {name!r} has {len(values)} samples and x has {len(sample.x)}")
    # Here, and not in the threads, which share what is done about warnings.
    with unfinished_fits():
        made = side_by_side(
            lambda one: _rows(one[0], Layer(one[1], sample, precision(layers[one[0]])), chosen), named.items()
        )
        found = [row for layer in (_tracked(made, len(named)) if progress else made) for row in layer]
    return pd.DataFrame(found, columns=pd.Index(COLUMNS))


def _tracked(made: Iterable[Rows], count: int) -> Iterable[Rows]:
    console = load("rich.console").Console(stderr=True)
    shown: Iterable[Rows] = load("rich.progress").track(made, "information", count, console=console)
    return shown


def _chosen(metrics: str | Iterable[str]) -> Sequence[str]:
    groups = {"default": DEFAULT, "all": tuple(ESTIMATORS)}
    if isinstance(metrics, str) and metrics in groups:
        return groups[metrics]
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    for name in names:
        if name not in ESTIMATORS:
            raise unknown_name("information metric", name, [*groups, *ESTIMATORS])
    return names


def _sample(x: ArrayLike, y: ArrayLike | None, rows: int, noise_var: float, seed: int) -> Sample:
    inputs = samples("x", x, 4)
    count = len(inputs)
    classes, target = (None, None) if y is None else _target(y, count)
    places = np.sort(np.random.default_rng(seed).permutation(count)[:rows])
    gram_y = None if target is None else gram_of(target[places])
    return Sample(places, inputs, classes, target, gram_of(inputs[places]), gram_y, noise_var, seed)


def _target(y: ArrayLike, count: int) -> tuple[NDArray[np.intp] | None, Array]:
    """Return labels as numbers and one-hot; of continuous values no labels."""
    classes, given = labels("y", y, count), plain(y)
    if given.dtype.kind == "f" and (given != np.rint(given)).any():
        return None, samples("y", y)
    return classes, np.eye(int(classes.max()) + 1)[classes]


def _rows(name: str, layer: Layer, chosen: Sequence[str]) -> Rows:
    found = {metric: _tried(metric, layer) for metric in chosen}
    return [
        {
            "layer": name,
            "metric": metric,
            "value": one.value,
            "low": one.low,
            "high": one.high,
            "unit": one.unit,
            "bound": one.bound,
            "estimator": one.estimator,
            "n": one.n,
            "parameters": ", ".join(f"{key}={value}" for key, value in one.parameters.items()),
            "warning": one.warning,
        }
        for metric, one in found.items()
        if one is not None
    ]


def _tried(metric: str, layer: Layer) -> Estimate | None:
    """Return an estimate, without a value and with the reason where this sample does not allow it."""
    try:
        found = ESTIMATORS[metric](layer)
    except InvalidValueError as error:
        return Estimate(math.nan, math.nan, math.nan, metric, len(layer.values), {}, unit="1", warning=str(error))
    if found is None or metric in OF_ONE_SCALE or layer.even != ROUNDING or ROUNDING in found.warning:
        return found
    return replace(found, warning=joined(f"the features are {ROUNDING}", found.warning))
