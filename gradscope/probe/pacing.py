"""Choose how often to record, so that recording stays within a share of the time. Pure functions of measured times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

LEAST = 5
"""Recorded steps that a share is measured over before it is acted upon."""
MOST = 2**20
IDLE = 5e-6
"""Seconds that an unrecorded step costs: hooks that count it and tell of its backward pass (4 to 6 measured)."""
UNSEEN = 0.2
"""Unseen time over own time where nothing can be compared (0.1 to 0.3 measured on small and middling networks)."""


@dataclass(frozen=True)
class Pace:
    """How often steps are recorded, and what that has cost since it was last changed.

    Attributes:
        every: Steps k with k % every == 0 are recorded.
        budget: Share of the time that recording may take; None where `every` is fixed.
        recorded: Steps recorded since `every` was last changed.
        spent: Seconds of our own work in that time, by our clock.
        elapsed: Seconds of that time, our own work included.
        before: Share to be expected until something is measured.
        unseen: Seconds that a recorded step costs beside that, as `unseen_time` finds them.
    """

    every: int
    budget: float | None = None
    recorded: int = 0
    spent: float = 0.0
    elapsed: float = 0.0
    before: float = 0.0
    unseen: float = 0.0

    @property
    def work(self) -> float:
        """Seconds that the recorded steps took longer than others.

        >>> Pace(1, recorded=2, spent=1.0, unseen=0.25).work
        1.5
        """
        return self.spent + self.recorded * self.unseen

    @property
    def share(self) -> float:
        """Share of the time that watching takes, from 0 to 1: (work + 5 us for every other step) / elapsed.

        >>> Pace(1, recorded=1, spent=0.1, elapsed=2.0).share, Pace(8, before=0.01).share
        (0.05, 0.01)
        """
        if not self.recorded or self.elapsed <= 0.0:
            return self.before
        return min((self.work + self._idle(1)) / self.elapsed, 1.0)

    def after(self, spent: float, elapsed: float, recorded: int = 1) -> Pace:
        """Return the pace after another recorded step.

        Args:
            spent: Seconds of our own work since the last recorded step.
            elapsed: Seconds since then, our own work included.
            recorded: 0 where the step is still to come.

        >>> Pace(1).after(0.5, 2.0).after(0.5, 2.0)
        Pace(every=1, budget=None, recorded=2, spent=1.0, elapsed=4.0, before=0.0, unseen=0.0)
        """
        return replace(
            self,
            recorded=self.recorded + recorded,
            spent=self.spent + spent,
            elapsed=self.elapsed + max(elapsed, spent),
        )

    def within_budget(self) -> Pace:
        """Return the pace that keeps to the budget: `every` doubled as often as it takes, and measured anew.

        It stays as it is where `every` is fixed, where fewer than 5 steps have been recorded at this pace, and where
        the share is within the budget: `every` is only ever raised. At every * f the same work is spread over f times
        as many steps, hence the share (work + idle(f)) / (work + idle(f) + f * bare). Where unrecorded steps alone
        cost more than half the budget, as next to a step of 0.1 ms, recorded ones keep to the other half.

        >>> Pace(1, budget=0.02, recorded=5, spent=1.0, elapsed=10.0).within_budget()
        Pace(every=8, budget=0.02, recorded=0, spent=0.0, elapsed=0.0, before=0.0137..., unseen=0.0)
        """
        if self.budget is None or self.recorded < LEAST or self.every >= MOST or self._keeps(1, self.budget):
            return self
        factor = 2
        while not self._keeps(factor, self.budget) and self.every * factor < MOST:
            factor *= 2
        expected = (self.work + self._idle(factor)) / self._total(factor)
        return Pace(self.every * factor, self.budget, before=min(expected, 1.0), unseen=self.unseen)

    def _keeps(self, factor: int, budget: float) -> bool:
        total = self._total(factor)
        return self.work + min(self._idle(factor), budget * total / 2) <= budget * total

    def _idle(self, factor: int) -> float:
        return IDLE * self.recorded * (self.every * factor - 1)

    def _total(self, factor: int) -> float:
        bare = max(self.elapsed - self.work - self._idle(1), 0.0)
        return self.work + self._idle(factor) + factor * bare


def extra(rests: Sequence[float]) -> float:
    """Return by how much the steps of a period are longer than its last one, our own work taken off.

    Args:
        rests: Seconds of the recorded step and of those that follow it, less what our clock saw of our own work.

    >>> extra([3.0, 1.5, 1.0])
    2.5
    """
    return sum(rests) - len(rests) * rests[-1]


def unseen_time(own: float, rest: float, extras: Sequence[float]) -> float:
    """Return the seconds that a recorded step costs beside the own work that our clock sees.

    Torch registers and calls our hooks, memory is allocated while ours is in use, caches are cold afterwards: none of
    it happens inside a function of ours, and all of it makes a recorded step, and the next ones, longer than steps
    without hooks. The median over periods of that difference is what is unseen; a pause of the training, which falls
    into one step and not into another, does not move it. It is taken to be no more than the own work: what exceeds
    that is the training's, which does something of its own at the steps that are recorded, such as an evaluation
    every 100 steps. Before there are 5 periods to compare, and where every step or every second is recorded, it is
    20 % of the own work, and at most half of what is not own work.

    Args:
        own: Seconds of own work per recorded step.
        rest: All other seconds per recorded step.
        extras: For each of the last periods, see `extra`.

    >>> unseen_time(1.0, 9.0, []), unseen_time(1.0, 9.0, [0.25, 0.25, 0.5, 0.1, 90.0])
    (0.2, 0.25)
    """
    if len(extras) < LEAST:
        return min(UNSEEN * own, rest / 2)
    return min(max(sorted(extras)[len(extras) // 2], 0.0), own)


def raised(old: Pace, new: Pace, step: int) -> str:
    """Say what was chosen, and why.

    >>> old = Pace(1, budget=0.02, recorded=5, spent=1.0, elapsed=10.0)
    >>> raised(old, old.within_budget(), 6)
    "every='auto': every 8th step is recorded from step 6 on; at every=1 recording took 10 % of the time, budget 2 %"
    """
    share, budget = (f"{100 * one:.2g} %" for one in (old.share, old.budget or 0.0))
    return (
        f"every='auto': every {new.every}th step is recorded from step {step} on; "
        f"at every={old.every} recording took {share} of the time, budget {budget}"
    )
