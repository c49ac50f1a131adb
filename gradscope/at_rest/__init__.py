"""What can be said of a live model at rest, on copies of it."""

from __future__ import annotations

from gradscope.at_rest.information import information_of
from gradscope.at_rest.jacobians.measure import jacobian
from gradscope.at_rest.jacobians.report import Jacobian, JacobianTheory
from gradscope.at_rest.noise import gradient_noise
from gradscope.at_rest.predictions.predicting import predict
from gradscope.at_rest.preflight_check import preflight
from gradscope.at_rest.remedies.registry import Patient, Treatment
from gradscope.at_rest.similarity import similarity_of
from gradscope.at_rest.trials.result import Trial
from gradscope.at_rest.trials.trying import REMEDIES, trial
from gradscope.at_rest.verification.comparison import Difference
from gradscope.at_rest.verification.report import Report
from gradscope.at_rest.verification.verifying import verify

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
    "similarity_of",
    "trial",
    "verify",
]
