"""Checks: what is wrong with a run, in words, with the numbers that show it."""

from gradscope.checks.custom import check, unregister
from gradscope.checks.diagnosis import CHECKS, diagnose
from gradscope.checks.finding import Finding, Findings, NotApplicable

__all__ = ["CHECKS", "Finding", "Findings", "NotApplicable", "check", "diagnose", "unregister"]
