"""Metrics: one file per family; importing a family registers it."""

from __future__ import annotations

from gradscope.metrics import activation, backward, forward, weights
from gradscope.metrics.numeric import Ratio
from gradscope.metrics.registry import Metric, metric, registered, select, unregister, wants_histograms

__all__ = [
    "Metric",
    "Ratio",
    "activation",
    "backward",
    "forward",
    "metric",
    "registered",
    "select",
    "unregister",
    "wants_histograms",
    "weights",
]
