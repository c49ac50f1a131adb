"""The recording half: find layers, attach, capture, reduce, transfer once a step, detach."""

from __future__ import annotations

from gradscope.probe.probe import Probe
from gradscope.probe.watch import watch

__all__ = ["Probe", "watch"]
