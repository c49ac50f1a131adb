"""Measure what recording costs, and keep it within a budget."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from gradscope.probe.pacing import Pace, extra, unseen_time

COMPARED = 3
"""Steps after a recorded one that are timed: the first are slower, the last is what others are compared with."""
PERIODS = 31


class Meter:
    """Adds up our own time, what passes in all, and what recorded steps cost that no clock of ours sees.

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
        self._since = self._at = clock()
        self._spent = self._own = 0.0
        self._left = 0
        self._rests: list[float] = []
        self._extras: deque[float] = deque(maxlen=PERIODS)
        self._aside = 0.0
        self._end: float | None = None

    def add(self, seconds: float) -> None:
        """Add time of ours."""
        self._spent += seconds
        self._own += seconds

    def set_aside(self, seconds: float) -> None:
        """Set time of ours apart that does not depend on how many steps are recorded, as that of a fixed sample."""
        self._aside += seconds
        self._since += seconds
        self._at += seconds

    def begin_step(self) -> None:
        """A step begins for which hooks have just been attached, or removed."""
        self._at, self._own = self.clock(), 0.0

    def pass_step(self) -> None:
        """End an unrecorded step; only the first few after a recorded one read the clock."""
        if self._left:
            self._left -= 1
            now = self.clock()
            self._rests.append(now - self._at - self._own)
            self._at, self._own = now, 0.0
            if not self._left:
                self._extras.append(extra(self._rests))

    def close_step(self) -> Pace | None:
        """End a recorded step; the pace so far where it was too fast and has been changed."""
        now, old = self.clock(), self.pace
        self._rests = [now - self._at - self._own]
        # Where every second step is recorded, the one in between is no less disturbed than others.
        self._left = min(COMPARED, old.every - 1) if old.every > 2 else 0
        measured = self._judged(old.after(self._spent, now - self._since))
        self._spent, self._since = 0.0, now
        if not self._warm:
            self.pace, self._warm, self._left = replace(old, before=measured.share), True, 0
            return None
        self.pace = measured.within_budget()
        if self.pace is measured:
            return None
        self._aside = 0.0
        return measured

    def stop(self) -> None:
        """Measure no longer."""
        self._end = self._end if self._end is not None else self.clock()

    @property
    def cost(self) -> float:
        """Share of the time that watching took, from 0 to 1, since the pace last changed."""
        if not self.pace.recorded:
            return self.pace.before
        now = self._end if self._end is not None else self.clock()
        judged = self._judged(self.pace.after(self._spent, now - self._since, recorded=0))
        passed = judged.elapsed
        return (judged.share * passed + self._aside) / (passed + self._aside) if passed else judged.share

    def _judged(self, pace: Pace) -> Pace:
        own, passed = pace.spent / pace.recorded, pace.elapsed / pace.recorded
        return replace(pace, unseen=unseen_time(own, passed - own, self._extras))
