"""What theory says of a treated copy before it is measured."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from gradscope.at_rest.predictions.predicting import predict
from gradscope.at_rest.remedies.registry import Patient, Treatment
from gradscope.at_rest.trials.measure import METRICS
from gradscope.errors import GradscopeError


def foretell(given: Treatment, patient: Patient) -> Mapping[str, pd.Series[float]]:
    """Return the predicted values by metric, as series over depth, without what theory cannot say."""
    if not given.foreseeable:
        return {}
    try:
        rows = predict(given.stand_in or given.model, patient.x, patient.y, patient.loss_fn)
    except GradscopeError:
        return {}
    known = rows[rows["value"].notna()]
    found = {name: known[known["metric"] == name].set_index("depth")["value"] for name in METRICS}
    return {name: series.astype("float64") for name, series in found.items() if len(series)}
