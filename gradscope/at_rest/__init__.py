"""What can be said of a live model at rest, on copies of it."""

from __future__ import annotations

from gradscope.at_rest.comparison import Difference
from gradscope.at_rest.preflight_check import preflight
from gradscope.at_rest.report import Report
from gradscope.at_rest.verification import verify

__all__ = ["Difference", "Report", "preflight", "verify"]
