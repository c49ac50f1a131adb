"""gradscope: see where and why gradients vanish or explode in a PyTorch network, while it trains.

Names are loaded when first used, so that importing gradscope loads neither torch nor plotly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradscope.loading import load as _load

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gradscope import checks, figures, information, lab, metrics, runs, testing, theory
    from gradscope.at_rest import (
        gradient_noise,
        information_of,
        jacobian,
        predict,
        preflight,
        similarity_of,
        trial,
        verify,
    )
    from gradscope.checks import Finding, Findings, NotApplicable, check, diagnose
    from gradscope.errors import GradscopeError
    from gradscope.lab.sweep import sweep
    from gradscope.metrics import metric
    from gradscope.probe import Probe, watch
    from gradscope.runs import Decay, Run, Runs, load
    from gradscope.spec import Band, LayerSpec, MetricSpec

_HOME = {
    "Band": "gradscope.spec",
    "Decay": "gradscope.runs",
    "Finding": "gradscope.checks",
    "Findings": "gradscope.checks",
    "GradscopeError": "gradscope.errors",
    "LayerSpec": "gradscope.spec",
    "MetricSpec": "gradscope.spec",
    "NotApplicable": "gradscope.checks",
    "Probe": "gradscope.probe",
    "Run": "gradscope.runs",
    "Runs": "gradscope.runs",
    "check": "gradscope.checks",
    "diagnose": "gradscope.checks",
    "gradient_noise": "gradscope.at_rest",
    "information_of": "gradscope.at_rest",
    "jacobian": "gradscope.at_rest",
    "load": "gradscope.runs",
    "metric": "gradscope.metrics",
    "predict": "gradscope.at_rest",
    "preflight": "gradscope.at_rest",
    "similarity_of": "gradscope.at_rest",
    "sweep": "gradscope.lab.sweep",
    "trial": "gradscope.at_rest",
    "verify": "gradscope.at_rest",
    "watch": "gradscope.probe",
}
_SUBPACKAGES = ("checks", "figures", "information", "lab", "metrics", "runs", "testing", "theory")

__all__ = [
    "Band",
    "Decay",
    "Finding",
    "Findings",
    "GradscopeError",
    "LayerSpec",
    "MetricSpec",
    "NotApplicable",
    "Probe",
    "Run",
    "Runs",
    "check",
    "checks",
    "diagnose",
    "figures",
    "gradient_noise",
    "information",
    "information_of",
    "jacobian",
    "lab",
    "load",
    "metric",
    "metrics",
    "predict",
    "preflight",
    "runs",
    "similarity_of",
    "sweep",
    "testing",
    "theory",
    "trial",
    "verify",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return _load(f"gradscope.{name}")
    if name in _HOME:
        return getattr(_load(_HOME[name]), name)
    raise AttributeError(f"module 'gradscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
