"""What theory says of a run in numbers, beside what was measured."""

from __future__ import annotations

import math

import pandas as pd

from gradscope.errors import GradscopeError, InvalidValueError
from gradscope.figures import layer_points_frame
from gradscope.figures.phases import has_skips, main_activation, main_norm
from gradscope.figures.wording import number
from gradscope.runs import Run
from gradscope.theory import ACTIVATIONS, critical, mean_field, phase, trainable_depth
from gradscope.theory.stages import NORMS

ABSENT = "—"
SKIPS = "of the plain chain; this run has skips or branches"


def numbers_frame(run: Run, step: int | None = None) -> pd.DataFrame:
    """Return the fixed point of the median hidden layer of a run, as text beside what was measured.

    Args:
        run: A run that recorded ``weight_rms``.
        step: A recorded step; the first where None.

    Returns:
        Columns quantity, theory, measured.

    Raises:
        GradscopeError: The weights were not recorded, or theory does not know the activation function.
    """
    points = layer_points_frame(run, step)
    name = main_activation(points)
    points = points[points["activation"] == name]
    norm = main_norm(points)
    if name not in ACTIVATIONS or norm not in NORMS:
        raise InvalidValueError(f"theory has no fixed point for layers with activation {name!r} and norm {norm!r}")
    points = points[points["norm"] == norm]
    weight_var, bias_var = float(points["weight_var"].median()), float(points["bias_var"].median())
    found = mean_field(name, weight_var, bias_var, norm=norm)
    factor = math.sqrt(found.chi) if found.chi >= 0 else math.nan
    rows = [
        ("activation" if norm == "none" else f"activation, after {norm} norm", name, ""),
        ("weight variance", "", number(weight_var)),
        ("weight variance of the edge of chaos", _edge(name, bias_var) if norm == "none" else ABSENT, ""),
        ("bias variance", "", number(bias_var) if points["known"].all() else "not recorded"),
        ("phase", phase(found.chi), ""),
        ("mean square q of a layer's output", _text(found.q), _length(run, step)),
        ("gradient's factor per layer, √χ", _text(factor), _rate(run, step)),
        ("depth scale ξ of the correlation, in layers", _text(found.xi_c), ""),
        ("hidden layers that can train, about 6 ξ", _text(trainable_depth(found)), ""),
        ("hidden layers", "", f"{len(run.trunk[:-1])}"),
    ]
    remarks = [found.status, SKIPS if has_skips(run) else ""]
    rows += [("remark", one, "") for one in remarks if one]
    return pd.DataFrame(rows, columns=["quantity", "theory", "measured"])


def _text(value: float) -> str:
    return ABSENT if math.isnan(value) else number(value)


def _edge(activation: str, bias_var: float) -> str:
    try:
        return number(critical(activation, bias_var))
    except GradscopeError:
        return ABSENT


def _length(run: Run, step: int | None) -> str:
    """Return the median over hidden layers of the mean square output."""
    if "output_rms" not in run.metrics:
        return ABSENT
    roots = run.profile("output_rms", step)
    return _text(float(roots[roots.index.isin(run.trunk[:-1])].median()) ** 2)


def _rate(run: Run, step: int | None) -> str:
    try:
        return _text(run.decay(step).rate)
    except GradscopeError:
        return ABSENT
