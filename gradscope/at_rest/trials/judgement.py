"""What a trial is to recover, and which treated copy does it better."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradscope.at_rest.reading_copy import copy_model
from gradscope.at_rest.remedies.registry import Patient, Treatment
from gradscope.at_rest.trials.measure import Profile, measure
from gradscope.at_rest.trials.prediction import foretell
from gradscope.at_rest.trials.result import Goal, Tried
from gradscope.at_rest.trials.steps import loss_after

_GOALS: dict[str, Goal] = {
    "dead-units": "dead units",
    "saturation": "saturation",
    "sparse-gradients": "zero gradients",
    "underflow": "underflow",
    "update-ratio": "loss",
    "stalled": "loss",
}
_SHARES = {
    "dead units": "dead_fraction",
    "saturation": "saturation",
    "zero gradients": "output_grad_zero_fraction",
}
_TRAINING = {"lower_learning_rate", "raise_learning_rate", "clip_gradients"}


def goal_of(codes: tuple[str, ...], remedies: tuple[str, ...]) -> Goal:
    """Return what the findings of these codes are about, ``passage`` where that is not one and the same thing.

    >>> goal_of(("saturation",), ()), goal_of(("saturation", "vanishing"), ())
    ('saturation', 'passage')
    """
    if remedies and set(remedies) <= _TRAINING:
        return "loss"
    goals = {_GOALS.get(code, "passage") for code in codes}
    return goals.pop() if len(goals) == 1 else "passage"


@dataclass(frozen=True)
class Judge:
    """Measures treated copies, and says which is better."""

    patient: Patient
    goal: Goal
    steps: int
    loss_before: float

    def examine(self, code: str, given: Treatment) -> Tried:
        """Measure a treated copy.

        Raises:
            Exception: what the treated copy raises.
        """
        patient = self.patient.fed(given)
        predicted = foretell(given, patient)
        profile = measure(copy_model(given.model, "trial"), patient.x, patient.y, patient.loss_fn, given.loss_scale)
        later = loss_after(patient, given, self.steps)
        return Tried(code, given, profile, predicted, self._recovered(profile, later), later)

    def rank(self, one: Tried) -> tuple[bool, float, float]:
        """Return the key that puts the better first: what is left too much, then the loss after the steps.

        What makes the loss rise comes last, however well the gradient passes: it does not train.
        """
        left = self._lost(one.profile, one.loss_after)
        later = left if math.isnan(one.loss_after) else one.loss_after
        left = round(one.profile.excess, 1) if self.goal == "passage" else round(left, 2)
        return one.rises, left, later

    def _recovered(self, profile: Profile, later: float) -> float:
        before = self._lost(self.patient.before, self.loss_before)
        left = self._lost(profile, later)
        if before == left:
            return 0.0
        return 1.0 - left / before if before > 0.0 else -math.inf

    def _lost(self, profile: Profile, later: float) -> float:
        if self.goal == "passage":
            return profile.lost
        if self.goal == "loss":
            return math.inf if math.isnan(later) else later
        return profile.shares.get(_SHARES.get(self.goal, self.patient.underflow), 0.0)
