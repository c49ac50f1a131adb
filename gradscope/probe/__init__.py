"""The recording half: find layers, attach, capture, reduce, transfer once a step, detach."""

from __future__ import annotations

from gradscope.probe.observer import Probe
from gradscope.probe.watching import watch

__all__ = ["Probe", "watch"]
