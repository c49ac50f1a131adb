"""Information about a fixed sample, as metrics of a run: what can be chosen, and what readers know of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gradscope.errors import InvalidValueError
from gradscope.information.panel import DEFAULT, NOISE_VAR, ROWS
from gradscope.spec import ColumnType, MetricSpec

GROUP = "information"
MOST_SAMPLES = 1024
"""Rows of the sample that are used; of a larger one a random choice, the same throughout a run."""
_PAIRS = {"rows": ROWS}
_NOISE = {**_PAIRS, "noise_var": NOISE_VAR}


def _spec(
    name: str, label: str, unit: str, top: float | None, doc: str, formula: str, source: str, **settings: float | str
) -> MetricSpec:
    return MetricSpec(
        name,
        label,
        unit=unit,
        group=GROUP,
        bounds=(None if name.startswith("cka") or name == "input_reconstruction" else 0.0, top),
        dtype="float32",
        doc=doc,
        formula=formula,
        source=source,
        parameters={"samples": MOST_SAMPLES, "spatial": "pool", **settings},
    )


_KT = "Kolchinsky and Tracey 2017"
_BOUND = "-mean_i ln mean_j exp(-d_ij^2 / (2 noise_var)); lower: 8 noise_var"
SPECS: dict[str, MetricSpec] = {
    one.name: one
    for one in (
        _spec(
            "effective_rank",
            "Effective rank",
            "1",
            None,
            "Directions that a layer uses.",
            "exp H(s / sum s)",
            "Roy and Vetterli 2007",
        ),
        _spec(
            "participation_ratio",
            "Participation ratio",
            "1",
            None,
            "Directions that hold the variance.",
            "(sum lambda)^2 / sum lambda^2",
            "Gao et al. 2017",
        ),
        _spec(
            "cka_input",
            "CKA with the input",
            "1",
            1.0,
            "How alike layer and input tell samples apart.",
            "debiased linear CKA",
            "Kornblith et al. 2019",
            estimator="debiased",
            **_PAIRS,
        ),
        _spec(
            "cka_label",
            "CKA with the label",
            "1",
            1.0,
            "How alike layer and label tell samples apart.",
            "debiased linear CKA",
            "Kornblith et al. 2019",
            estimator="debiased",
            **_PAIRS,
        ),
        _spec(
            "input_information",
            "Information about the input",
            "nats",
            None,
            "Upper bound of I(X;T + noise).",
            _BOUND,
            _KT,
            estimator="kde_bounds",
            **_NOISE,
        ),
        _spec(
            "label_information",
            "Information about the label",
            "nats",
            None,
            "I(T + noise;Y), by the upper bounds.",
            _BOUND,
            _KT,
            estimator="kde_bounds",
            **_NOISE,
        ),
        _spec(
            "pca_saturation",
            "Saturation of components",
            "1",
            1.0,
            "Share of components for 99 % of the variance.",
            "#PCs / features",
            "Richter et al. 2021",
            share=0.99,
        ),
        _spec(
            "input_information_binned",
            "Binned information about the input",
            "nats",
            None,
            "Entropy of the binned layer.",
            "H(bin T)",
            "Shwartz-Ziv and Tishby 2017",
            estimator="binning",
            bins=30,
        ),
        _spec(
            "label_information_binned",
            "Binned information about the label",
            "nats",
            None,
            "I(bin T;Y).",
            "H(bin T) - H(bin T|Y)",
            "Shwartz-Ziv and Tishby 2017",
            estimator="binning",
            bins=30,
        ),
        _spec(
            "label_information_sliced",
            "Sliced information about the label",
            "nats",
            None,
            "Mean information of random projections.",
            "E I(theta.T; phi.Y)",
            "Goldfeld and Greenewald 2021",
            estimator="ksg",
            slices=50,
        ),
        _spec(
            "input_reconstruction",
            "Input rebuilt linearly",
            "1",
            1.0,
            "Cross-validated R^2 of the input from the layer.",
            "1 - sum |x - x'|^2 / sum |x - mean|^2",
            "Alain and Bengio 2016",
            folds=5,
        ),
        _spec(
            "label_accuracy",
            "Label read linearly",
            "1",
            1.0,
            "Cross-validated accuracy of a linear reader.",
            "mean [y' = y]",
            "Alain and Bengio 2016",
            folds=5,
        ),
    )
}
ENDS: dict[str, str] = {"low": "lower end", "high": "upper end"}


def choose(metrics: str | Iterable[str], sampled: bool) -> tuple[str | Iterable[str], tuple[MetricSpec, ...]]:
    """Set apart what is measured on a fixed sample.

    Args:
        metrics: The ``metrics=`` argument of ``watch``.
        sampled: Whether a sample was given.

    Returns:
        The other names (what is no list of names as it was given), and the specs of the metrics of information: those
        named; of a sample without a name the default ones; all of ``"information"`` and ``"all"``. Each is followed by
        the two ends of its interval.

    Raises:
        InvalidValueError: One is named and there is no sample.
    """
    if not metrics or not isinstance(metrics, Iterable):
        return metrics, ()
    given = [metrics] if isinstance(metrics, str) else list(metrics)
    named = [one for one in given if one in SPECS or one == GROUP]
    if named and not sampled:
        raise InvalidValueError(f"{named[0]} is measured on a fixed sample: give sample=(x, y)")
    rest = [one for one in given if one not in named]
    if not sampled:
        return rest, ()
    if GROUP in named or "all" in given:
        return rest, with_ends(tuple(SPECS))
    return rest, with_ends([one for one in SPECS if one in named] or DEFAULT)


def with_ends(names: Sequence[str]) -> tuple[MetricSpec, ...]:
    """Return the specs of these metrics, each with those of the ends of its interval."""
    return tuple(one for name in names for one in (SPECS[name], *(_end(SPECS[name], end) for end in ENDS)))


def of_sample(specs: Iterable[MetricSpec], count: int) -> tuple[MetricSpec, ...]:
    """Return the specs as they are for a sample of so many rows: with as many samples, and no more rows than that."""
    sizes = {"samples": count, "rows": min(count, ROWS)}
    return tuple(
        replace(one, parameters={key: sizes.get(key, value) for key, value in one.parameters.items()}) for one in specs
    )


def _end(spec: MetricSpec, end: str) -> MetricSpec:
    dtype: ColumnType = "float32"
    return MetricSpec(
        f"{spec.name}_{end}",
        f"{spec.label}, {ENDS[end]}",
        unit=spec.unit,
        group=GROUP,
        dtype=dtype,
        doc=f"{ENDS[end].capitalize()} of the interval of {spec.name}.",
        source=spec.source,
        parameters=spec.parameters,
    )
