"""What can be said of a live model at rest, on copies of it."""

from __future__ import annotations

from gradscope.at_rest.comparison import Difference
from gradscope.at_rest.information import information_of
from gradscope.at_rest.jacobian_report import Jacobian, JacobianTheory
from gradscope.at_rest.jacobians import jacobian
from gradscope.at_rest.noise import gradient_noise
from gradscope.at_rest.prediction import predict
from gradscope.at_rest.preflight_check import preflight
from gradscope.at_rest.remedies import Patient, Treatment
from gradscope.at_rest.report import Report
from gradscope.at_rest.trial_result import Trial
from gradscope.at_rest.trialling import REMEDIES, trial
from gradscope.at_rest.verification import verify

__all__ = [
    "REMEDIES",
    "Difference",
    "Jacobian",
    "JacobianTheory",
    "Patient",
    "Report",
    "Treatment",
    "Trial",
    "gradient_noise",
    "information_of",
    "jacobian",
    "predict",
    "preflight",
    "trial",
    "verify",
]
