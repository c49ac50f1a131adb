"""What can be said of a live model at rest, on copies of it: so far, that watching changes nothing."""

from __future__ import annotations

from gradscope.preflight.comparison import Difference
from gradscope.preflight.report import Report
from gradscope.preflight.verification import verify

__all__ = ["Difference", "Report", "verify"]
