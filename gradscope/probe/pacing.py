"""Choose how often to record, so that recording stays within a share of the time. Pure functions of measured times."""

from __future__ import annotations

from dataclasses import dataclass, replace

LEAST = 5
"""Recorded steps that a share is measured over before it is acted upon."""
MOST = 2**20


@dataclass(frozen=True)
class Pace:
    """How often steps are recorded, and what that has cost since it was last changed.

    Attributes:
        every: Steps k with k % every == 0 are recorded.
        budget: Share of the time that recording may take; None where `every` is fixed.
        recorded: Steps recorded since `every` was last changed.
        spent: Seconds of our own work in that time.
        elapsed: Seconds of that time, our own work included.
        before: Share to be expected until something is measured.
    """

    every: int
    budget: float | None = None
    recorded: int = 0
    spent: float = 0.0
    elapsed: float = 0.0
    before: float = 0.0

    @property
    def share(self) -> float:
        """Share of the time that our own work takes, from 0 to 1.

        >>> Pace(1, recorded=1, spent=0.1, elapsed=2.0).share, Pace(8, before=0.01).share
        (0.05, 0.01)
        """
        return min(self.spent / self.elapsed, 1.0) if self.recorded and self.elapsed > 0.0 else self.before

    def after(self, spent: float, elapsed: float) -> Pace:
        """Return the pace after another recorded step.

        Args:
            spent: Seconds of our own work since the last recorded step.
            elapsed: Seconds since then, our own work included.

        >>> Pace(1).after(0.5, 2.0).after(0.5, 2.0)
        Pace(every=1, budget=None, recorded=2, spent=1.0, elapsed=4.0, before=0.0)
        """
        return replace(
            self, recorded=self.recorded + 1, spent=self.spent + spent, elapsed=self.elapsed + max(elapsed, spent)
        )

    def within_budget(self) -> Pace:
        """Return the pace that keeps to the budget: `every` doubled as often as it takes, and measured anew.

        It stays as it is where `every` is fixed, where fewer than 5 steps have been recorded at this pace, and where
        the share is within the budget: `every` is only ever raised. At every * f the same work is spread over f times
        as many steps, hence the share spent / (spent + f (elapsed - spent)).

        >>> Pace(1, budget=0.02, recorded=5, spent=1.0, elapsed=10.0).within_budget()
        Pace(every=8, budget=0.02, recorded=0, spent=0.0, elapsed=0.0, before=0.0136...)
        """
        if self.budget is None or self.recorded < LEAST or self.every >= MOST or self.share <= self.budget:
            return self
        bare, factor = self.elapsed - self.spent, 2
        while self.spent > self.budget * (self.spent + factor * bare) and self.every * factor < MOST:
            factor *= 2
        return Pace(self.every * factor, self.budget, before=self.spent / (self.spent + factor * bare))


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
