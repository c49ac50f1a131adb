"""What theory says of a treated copy before it is measured."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from torch import nn

from gradscope.at_rest.remedies import Patient


def foretell(model: nn.Module, patient: Patient) -> Mapping[str, pd.Series[float]]:
    """Return the predicted values by metric, as series over depth; empty where theory does not apply."""
    return {}
