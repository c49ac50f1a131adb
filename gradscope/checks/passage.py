"""How the gradient passes through the trunk at a step: what the checks of vanishing and exploding look at."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

from gradscope.checks.finding import NotApplicable
from gradscope.checks.recent import by_depth
from gradscope.checks.rule import FAR, RECENT
from gradscope.errors import UnknownNameError
from gradscope.runs import Decay, Run
from gradscope.runs.decay import LEAST

METRIC = "output_grad_norm"
EXAMINED = 200
"""Most recorded steps looked at to tell since when something holds."""
GAINS = ("weight_gain", "activation_gain", "phi_gain", "norm_gain", "pool_gain", "path_gain")
TINY = 1e-30
"""Norm below which an exact zero further down is put down to underflow."""


@dataclass(frozen=True)
class Last:
    """The lowest layer of the trunk that still receives a gradient, above layers that receive an exact zero.

    Attributes:
        depth: Its depth.
        norm: Norm of its output gradient.
        weight_rms: Root mean square of its weights; NaN where not recorded.
    """

    depth: int
    norm: float
    weight_rms: float

    @property
    def underflowed(self) -> bool:
        """Tell whether so little arrives here that the zeros below are underflow (float32 ends at 1e-45)."""
        return self.norm < TINY and self.weight_rms != 0.0


@dataclass(frozen=True)
class Passage:
    """The gradient's way through the hidden layers of the trunk at one step.

    Attributes:
        step: The step.
        decay: Factor per layer, with interval and total.
        path: Depths of the hidden layers used, ascending; with the head where nothing reaches any layer.
        blocked: The lowest of them receives an exact zero.
        last: Where blocked, the lowest layer that still receives a gradient; None where no layer does.
        entry: Norm of the output gradient of the highest of them; NaN where blocked.
    """

    step: int
    decay: Decay
    path: tuple[int, ...]
    blocked: bool
    last: Last | None = None
    entry: float = math.nan

    @property
    def falls(self) -> bool:
        """Tell whether it certainly shrinks: by the interval, or in a shallow net by more than chance could do."""
        return self.decay.high < 1.0 or (math.isnan(self.decay.high) and self.decay.decades < -FAR)

    @property
    def grows(self) -> bool:
        """Tell whether it certainly grows; see `falls`."""
        return self.decay.low > 1.0 or (math.isnan(self.decay.low) and self.decay.decades > FAR)

    @property
    def silent(self) -> bool:
        """Tell whether every layer receives an exact zero."""
        return self.blocked and self.last is None

    @property
    def decades(self) -> float:
        """Return log10 of the total factor; -inf where nothing arrives, NaN where nothing sets out."""
        return -math.inf if self.last else self.decay.decades


def passage(run: Run, step: int) -> Passage | NotApplicable:
    """Describe the passage at one recorded step, or say why nothing can be said of it."""
    profile = run.profile(METRIC, step)
    whole = run.trunk
    trunk = [depth for depth in whole if depth in profile.index]
    hidden = tuple(depth for depth in trunk if depth != whole[-1])
    values = profile.loc[trunk].to_numpy(np.float64)
    if not np.isfinite(values).all():
        return NotApplicable(f"a norm of the output gradient is NaN or infinite at step {step}")
    decay = run.decay(step)
    if len(trunk) and not profile.to_numpy(np.float64).any():
        return Passage(step, decay, tuple(trunk), blocked=True)
    if values.any() and len(hidden) and profile[hidden[0]] == 0.0:
        lowest = trunk[int(np.flatnonzero(values)[0])]
        last = Last(lowest, float(profile[lowest]), _weight_rms(run, step, lowest))
        return Passage(step, decay, hidden, blocked=True, last=last)
    if len(hidden) <= LEAST and not abs(decay.decades) > FAR:
        return NotApplicable(
            f"too shallow: an interval needs at least {LEAST + 1} hidden layers in a chain, "
            f"this network has {len(hidden)}"
        )
    if (profile[list(hidden)] == 0.0).any():
        which = "some layers" if values.any() else "every layer"
        return NotApplicable(f"the output gradient is exactly zero in {which} of the trunk at step {step}")
    return Passage(step, decay, hidden, blocked=False, entry=float(profile[hidden[-1]]))


def first_and_last(run: Run) -> tuple[Passage | NotApplicable, Passage | NotApplicable] | NotApplicable:
    """Describe the passage at the first and the last recorded step that the optimizer took.

    A gradient scaler skips the steps whose gradients overflow: their magnitude says something of the loss scale only.
    """
    if METRIC not in run.metrics:
        return NotApplicable(f"the metric {METRIC} was not recorded")
    recorded, steps = run.steps(METRIC), taken(run)
    if not recorded or not run.specs:
        return NotApplicable("no output gradient has been recorded yet")
    if not steps:
        return NotApplicable(f"the optimizer took none of the {len(recorded)} recorded steps")
    return passage(run, steps[0]), passage(run, steps[-1])


def taken(run: Run) -> list[int]:
    """Return the recorded steps with an output gradient that the optimizer took."""
    skipped = set(run.skipped())
    return [step for step in run.steps(METRIC) if step not in skipped]


def holds_since(run: Run, holds: Callable[[Passage], bool]) -> int:
    """Return the first of the steps from which on, up to the last one taken, `holds` is true.

    At most 200 recorded steps are examined, evenly spaced.
    """
    steps = taken(run)
    places = np.unique(np.linspace(0, len(steps) - 1, EXAMINED).astype(int))
    chosen = [steps[int(place)] for place in places]
    since = chosen[-1]
    for step in reversed(chosen[:-1]):
        seen = passage(run, step)
        if isinstance(seen, NotApplicable) or not holds(seen):
            break
        since = step
    return since


def holds_mostly(run: Run, holds: Callable[[Passage], bool]) -> bool:
    """Tell whether `holds` is true of at least half of the last steps taken; those that cannot be judged count not."""
    found = [passage(run, step) for step in taken(run)[-RECENT:]]
    judged = [holds(one) for one in found if isinstance(one, Passage)]
    return 2 * sum(judged) >= max(len(judged), 1)


@dataclass(frozen=True)
class Split:
    """log10 of what each kind of factor contributes to the passage; NaN where the ledger has a gap.

    Attributes:
        weights: The weights.
        activations: What lies between layer output and next input: activation function, normalization, pooling.
        paths: Skips and branches, those that leave between layer output and next input among them.
        norms: Of `activations`, what normalization makes; NaN where the ledger does not tell them apart.
        pools: Of `activations`, what pooling makes.
        norm: The normalization that most layers have, which takes away the size of the weights before it.
    """

    weights: float
    activations: float
    paths: float
    norms: float = math.nan
    pools: float = math.nan
    norm: str = "none"

    @property
    def functions(self) -> float:
        """Of `activations`, what the activation functions alone make."""
        return self.activations - sum(one for one in (self.norms, self.pools) if math.isfinite(one))


UNSAID = Split(math.nan, math.nan, math.nan)


def split(run: Run, seen: Passage) -> Split:
    """Sum the ledger over the passage, apart for weights, activation functions, and skips or branches."""
    try:
        book = run.ledger(seen.step)
    except UnknownNameError:  # a metric of the ledger was not selected
        return UNSAID
    upper, lower = list(seen.path[1:]), list(seen.path[:-1])
    joins = _joins(book.loc[lower, "log10_join_gain"])
    return Split(
        weights=_total(book.loc[upper, "log10_weight_gain"].to_list()),
        activations=_total(book.loc[lower, "log10_activation_gain"].to_list()) - joins,
        paths=_total(book.loc[upper, "log10_path_gain"].to_list()) + joins,
        norms=_total(book.loc[lower, "log10_norm_gain"].to_list()),
        pools=_total(book.loc[lower, "log10_pool_gain"].to_list()) - joins,
        norm=norm_of(run, seen.path),
    )


def layer_numbers(run: Run, seen: Passage) -> dict[str, dict[int, float]]:
    """Return the norms along the passage, and the gains of the ledger where there is one."""
    found = {METRIC: run.profile(METRIC, seen.step).reindex(list(seen.path))}
    try:
        book = run.ledger(seen.step).reindex(list(seen.path))
    except UnknownNameError:  # a metric of the ledger was not selected
        book = pd.DataFrame()
    found |= {name: book[name] for name in GAINS if name in book}
    return {name: by_depth(values) for name, values in found.items()}


def unwatched(run: Run, seen: Passage) -> tuple[tuple[int, int], ...]:
    """Return the neighbours on the trunk, within the passage, between which something is not watched."""
    resolved = {one.depth: one.resolved for one in run.specs}
    stretch = [depth for depth in run.trunk if seen.path[0] <= depth <= seen.path[-1]]
    return tuple((lower, upper) for lower, upper in pairwise(stretch) if not resolved[upper])


def activation_of(run: Run, path: Sequence[int]) -> str:
    """Return the activation function that most layers of the path have."""
    depths = set(path)
    found = Counter(one.activation for one in run.specs if one.depth in depths)
    return found.most_common(1)[0][0] if found else "?"


def norm_of(run: Run, path: Sequence[int]) -> str:
    """Return the normalization that most layers of the path have; ``none`` for none."""
    depths = set(path)
    found = Counter(one.norm for one in run.specs if one.depth in depths)
    return found.most_common(1)[0][0] if found else "none"


def _weight_rms(run: Run, step: int, depth: int) -> float:
    if "weight_rms" not in run.metrics or step not in run.steps("weight_rms"):
        return math.nan
    return float(run.profile("weight_rms", step).get(depth, math.nan))


def _joins(logs: pd.Series[float]) -> float:
    """Sum what paths make that leave on the way, as in a pre-activation block: part of the ledger's pool gains."""
    return float(logs[np.isfinite(logs)].sum())


def _total(logs: Sequence[float]) -> float:
    # A factor of zero settles it; below it every factor is 0/0, hence NaN.
    return -math.inf if -math.inf in logs else float(np.sum(np.asarray(logs, dtype=np.float64)))
