"""Measure what recording costs, and keep it within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from gradscope.probe.pacing import Pace


class Meter:
    """Adds up our own time, and what passes in all.

    Where `every` is raised as needed, the first recorded step is not measured: it is also the slowest.

    Args:
        every: Every how many steps one is recorded.
        budget: Share of the time that recording may take; None where `every` is fixed.
        clock: Seconds, of which only differences count.

    Attributes:
        pace: How often steps are recorded, and what that costs.
        clock: The same as given.
    """

    def __init__(self, every: int, budget: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self.pace = Pace(every, budget)
        self.clock = clock
        self._warm = budget is None
        self._spent, self._since = 0.0, clock()
        self._end: float | None = None

    def add(self, seconds: float) -> None:
        """Add time of ours."""
        self._spent += seconds

    def close_step(self) -> Pace | None:
        """End a recorded step; the pace so far where it was too fast and has been changed."""
        now, old = self.clock(), self.pace
        measured = old.after(self._spent, now - self._since)
        self._spent, self._since = 0.0, now
        if not self._warm:
            self.pace, self._warm = replace(old, before=measured.share), True
            return None
        self.pace = measured.within_budget()
        return None if self.pace is measured else measured

    def stop(self) -> None:
        """Measure no longer."""
        self._end = self._end if self._end is not None else self.clock()

    @property
    def cost(self) -> float:
        """Share of the time that our own work took, from 0 to 1, since the pace last changed."""
        if not self.pace.recorded:
            return self.pace.before
        now = self._end if self._end is not None else self.clock()
        return self.pace.after(self._spent, now - self._since).share
