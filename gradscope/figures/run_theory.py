"""What theory expects of the layers of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from gradscope.figures.phases import bias_variances
from gradscope.figures.values import is_empty, metric_of, nearest_step
from gradscope.theory import of_layers

if TYPE_CHECKING:
    from gradscope.runs import Run

WEIGHTS, OUTPUTS, SPREAD = "weight_rms", "output_rms", "sample_spread"


def of_run(run: Run, step: int) -> pd.DataFrame:
    """Return what theory expects of the layers of a run, from the size of their weights at the recorded step nearest.

    See `gradscope.theory.of_layers`. Variances of biases that were not recorded are those its configuration states.

    Raises:
        UnknownNameError: The run did not record ``weight_rms`` or ``output_rms``.
        InvalidValueError: It has no recorded step of them.
    """
    for name in (WEIGHTS, OUTPUTS):
        metric_of(run, name)
    roots = run.profile(WEIGHTS, nearest_step(run, step, WEIGHTS))
    outputs = run.profile(OUTPUTS, nearest_step(run, step, OUTPUTS))
    spreads = run.profile(SPREAD, nearest_step(run, step, SPREAD)) if _recorded(run, SPREAD) else outputs * np.nan
    first = run.specs[0].depth
    biases = bias_variances(run, nearest_step(run, step, WEIGHTS))
    return of_layers(
        run.specs,
        dict(zip(roots.index.tolist(), roots.tolist(), strict=True)),
        float(outputs.get(first, np.nan)),
        bias_rms={depth: float(np.sqrt(variance)) for depth, variance in biases.items()},
        sample_spread=float(spreads.get(first, np.nan)),
        step=step,
    )


def _recorded(run: Run, metric: str) -> bool:
    return metric in run.metrics and not is_empty(run, metric)


def lacks_biases(run: Run) -> bool:
    """Tell whether nothing says how large some biases of a run are."""
    return len(bias_variances(run, None)) < len(run.specs)
