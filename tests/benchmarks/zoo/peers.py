"""The rules of two other tools, with their default thresholds, on what `zoo.observing` has seen.

SageMaker Debugger: Amazon SageMaker Developer Guide, ``debugger-built-in-rules.md``. The rules are closed; what the
guide says of them is taken by the letter, and where it leaves a choice, the one with fewer false alarms:

- They look at weights, their gradients and inputs of activation functions, at every look, after its step.
- A gradient that never came back is no tensor: no rule fires for it.
- WeightUpdateRatio compares mean magnitudes. UnchangedTensor and AllZero, which have no default tensors, are given
  weights and their gradients; unchanged means: from one look to the next, which are at least 5 steps apart.
- PoorWeightInitialization looks at the first 10 steps and asks for both: variances or gradients out of range, *and* a
  loss that has not fallen below its best for 5 steps.

AUTOTRAINER (Zhang et al., ICSE 2021): repository ``shiningrain/AUTOTRAINER``, ``utils/monitor.py`` and the parameters
in ``reproduce.py``. An epoch is a twentieth of the training. It judges every third epoch and the last; accuracy counts
from 30 % of the training on. A gradient that never came back counts as zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from zoo.observing import Seen
from zoo.training import Record

MEAN_GRADIENT = 1e-7  # VanishingGradient
LAYER = 0.5  # DeadRelu, SaturatedActivation: threshold_layer
SMALL_UPDATE, LARGE_UPDATE = 1e-8, 10.0  # WeightUpdateRatio
VARIANCES, RANGE, PATIENCE, FIRST = 10.0, 1e-3, 5, 10  # PoorWeightInitialization
STEPS = 10  # LossNotDecreasing: num_steps; any decrease will do

BETA_1, BETA_2, BETA_3, GAMMA = 1e-3, 1e-4, 70.0, 0.7  # AUTOTRAINER: vanish, vanish, explode, dying ReLU
ZETA, ETA, DELTA, THETA = 0.03, 0.2, 0.01, 0.6  # oscillation, its share, slow convergence, good accuracy
NAN_LOSS, CHECK, BEGIN = 1e3, 3, 0.3


def tensor_rules(record: Record) -> tuple[str, ...]:
    """Names of SageMaker's rules on single tensors that fire at some look."""
    found = {
        "VanishingGradient": any(
            mean is not None and mean < MEAN_GRADIENT for one in record.seen for mean in one.grad_mean
        ),
        "ExplodingTensor": not all(one.finite for one in record.seen),
        "DeadRelu": any(share > LAYER for one in record.seen for share in one.inactive),
        "SaturatedActivation": any(share > LAYER for one in record.seen for share in one.saturated),
        "WeightUpdateRatio": any(
            ratio < SMALL_UPDATE or ratio > LARGE_UPDATE for one in record.seen for ratio in one.update
        ),
    }
    return tuple(name for name, fires in found.items() if fires)


def all_rules(record: Record) -> tuple[str, ...]:
    """`tensor_rules` and SageMaker's rules on the training as a whole."""
    found = {
        "PoorWeightInitialization": _poor(record),
        "AllZero": any(one.empty for one in record.seen),
        "UnchangedTensor": any(one.unchanged for one in record.seen),
        "LossNotDecreasing": any(
            not now < before for before, now in zip(record.losses[::STEPS], record.losses[STEPS::STEPS], strict=False)
        ),
    }
    return (*tensor_rules(record), *(name for name, fires in found.items() if fires))


def _poor(record: Record) -> bool:
    early = [one for one in record.seen if one.step < FIRST]
    uneven = any(len(one.input_var) > 1 and max(one.input_var) > VARIANCES * min(one.input_var) for one in early)
    narrow = any(one.grad_range and min(one.grad_range) < RANGE for one in early)
    losses = record.losses[:FIRST]
    best = min(range(len(losses)), key=lambda step: losses[step] if math.isfinite(losses[step]) else math.inf)
    return (uneven or narrow) and len(losses) - 1 - best >= PATIENCE


def autotrainer(record: Record) -> tuple[str, ...]:
    """Names of the symptoms that AUTOTRAINER reports: those of the first check that reports any."""
    for epochs in sorted({*range(CHECK, len(record.seen) + 1, CHECK), len(record.seen)}):
        found = _check(record.seen[:epochs], len(record.seen))
        if found:
            return found
    return ()


def _check(seen: Sequence[Seen], total: int) -> tuple[str, ...]:
    checked = [one for epoch, one in enumerate(seen, 1) if epoch % CHECK == 0 or epoch == len(seen)]
    if any(not one.finite or not abs(one.test_loss) < NAN_LOSS for one in seen):
        return ("explode",)
    if len(seen) < BEGIN * total:
        return ()
    # What it has noted at a check it keeps; both of these can only get better, so that the first check decides.
    first = next(epochs for epochs in range(CHECK, total + CHECK, CHECK) if epochs >= BEGIN * total)
    train, test = [one.train_accuracy for one in seen[:first]], [one.test_accuracy for one in seen[:first]]
    low = max(train) < THETA or max(test) < THETA
    slow = max(_gains(train)) < DELTA and max(_gains(test)) < DELTA
    if low or slow:
        return _symptom(checked, slow)
    return ("unstable",) if _oscillates([one.train_accuracy for one in seen]) else ()


def _symptom(checked: Sequence[Seen], slow: bool) -> tuple[str, ...]:
    if any(one.zeros >= GAMMA for one in checked):
        return ("relu",)
    if any(one.grad_norm[0] > BETA_3 * one.grad_norm[-1] for one in checked):
        return ("explode",)
    if any(one.grad_norm[0] < min(BETA_1 * one.grad_norm[-1], BETA_2) for one in checked):
        return ("vanish",)
    return ("not_converge",) if slow else ()


def _gains(accuracy: Sequence[float]) -> list[float]:
    return [0.0, *(now - before for before, now in pairwise(accuracy))]


def _oscillates(accuracy: Sequence[float]) -> bool:
    """Count peaks and troughs in turn, as ``ol_judge`` does."""
    inner = range(1, len(accuracy) - 1)
    peaks = [accuracy[i] for i in inner if accuracy[i - 1] <= accuracy[i] >= accuracy[i + 1]]
    troughs = [accuracy[i] for i in inner if accuracy[i - 1] >= accuracy[i] <= accuracy[i + 1]]
    wide = sum(peak - trough >= ZETA for peak, trough in zip(peaks, troughs, strict=False))
    return wide >= ETA * len(accuracy)
