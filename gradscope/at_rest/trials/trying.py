"""Try the remedies of a finding on copies of the model, and see which one helps."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradscope.at_rest.copies import Loss
from gradscope.at_rest.given import check_batch
from gradscope.at_rest.preflight_step import seed_all
from gradscope.at_rest.reading_copy import copy_model, undisturbed
from gradscope.at_rest.remedies.activation import change_activation
from gradscope.at_rest.remedies.branches import scale_branches
from gradscope.at_rest.remedies.depth import add_skips, shallower
from gradscope.at_rest.remedies.normalization import normalize
from gradscope.at_rest.remedies.registry import MakeOptimizer, Patient, Remedy, Treatment
from gradscope.at_rest.remedies.training import (
    clip_gradients,
    lower_learning_rate,
    raise_learning_rate,
    scale_loss,
)
from gradscope.at_rest.remedies.weights import centered_lsuv, critical_init
from gradscope.at_rest.trials.judgement import Judge, goal_of
from gradscope.at_rest.trials.measure import measure
from gradscope.at_rest.trials.result import Trial, Tried
from gradscope.at_rest.trials.steps import loss_after, maker
from gradscope.checks import Finding, Findings, NotApplicable
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError, unknown_name
from gradscope.runs.given import whole

# A new remedy: one function, one line here.
REMEDIES: dict[str, Remedy] = {
    "critical_init": critical_init,
    "centered_lsuv": centered_lsuv,
    "change_activation": change_activation,
    "normalize": normalize,
    "add_skips": add_skips,
    "shallower": shallower,
    "scale_branches": scale_branches,
    "scale_loss": scale_loss,
    "lower_learning_rate": lower_learning_rate,
    "raise_learning_rate": raise_learning_rate,
    "clip_gradients": clip_gradients,
}
"""Every remedy by its code, which findings name."""
PATH = ("critical_init", "centered_lsuv", "change_activation", "normalize", "add_skips", "shallower")
"""What is tried where a finding names no remedy: what changes the path that the gradient takes."""


def trial(
    finding: Finding | Findings,
    model: nn.Module,
    x: Any,
    y: Any,
    loss_fn: Loss | None = None,
    *,
    optimizer: Optimizer | MakeOptimizer | None = None,
    steps: int = 10,
) -> Trial:
    """Try every remedy that a finding names on a copy of the model, and measure on a batch what becomes of it.

    Of each treated copy, one forward and one backward pass are measured as ``preflight`` does: the output gradient and
    the spread between samples, over depth, with what theory predicts of them; then, on a further copy, a few steps on
    the batch show whether its loss falls. Remedies are ranked by what is left of the finding. Let D be the
    decades between the first and the last hidden layer::

        lost = |D(output gradient)| + |D(spread between samples)|        recovered = 1 - lost after / lost before

    For a finding about something else, that takes the place of what is lost: the share of dead or saturated units, of
    zeros in the gradient, of what float16 rounds to zero, in the layer that has most; or, where the learning rate is
    at issue, the loss after the steps. Of gradient and spread only the decades beyond one each, which checks complain
    of, count for the rank, to a tenth of a decade; among equals, as all are that leave no more than a decade of each,
    the loss after the steps decides. So what recovers a larger share can rank below what leaves less beyond a decade.
    Last come those whose loss is higher after the steps than before: with them the model does not train.

    The model is left as it was, bit for bit, and so are all random states. To take a remedy, train ``best.model``; a
    remedy that draws weights only can be taken by ``model.load_state_dict(best.model.state_dict())``.

    Args:
        finding: A finding of ``diagnose`` or ``preflight``, or all of them.
        model: The model that it is about.
        x: Inputs of one batch, as for ``preflight``.
        y: Its targets.
        loss_fn: ``loss_fn(model_output, y)``; None means cross-entropy for integer targets, else mean squared error.
        optimizer: The optimizer that trains the model, or a callable that makes one from parameters; remedies about the
            learning rate need it. Its class and settings are taken, not its state. None takes the best of plain SGD
            at learning rates 0.01, 0.1 and 1 for the steps.
        steps: Number of steps on the batch; 0 for none.

    Returns:
        The trial; ``print`` it, or take ``best``, ``frame()``, ``table()``.

    Raises:
        InvalidTypeError: for what is no finding, no module or no optimizer, or a numpy array.
        InvalidValueError: for a model that cannot be copied or has no layers, an empty batch, targets that do not go
            with the model's output, or steps below 0.
        Exception: what the model itself raises.

    >>> import torch
    >>> from gradscope import lab
    >>> from gradscope.at_rest import preflight
    >>> model = lab.mlp(depth=12, activation="sigmoid", init="xavier", seed=0)
    >>> x, y = torch.rand(64, 64), torch.arange(64) % 10
    >>> found = trial(preflight(model, x, y)[0], model, x, y, steps=0)
    >>> found.best.recovered > 0.9
    True
    """
    codes, remedies = _named(finding)
    if whole("steps", steps) < 0:
        raise InvalidValueError(f"steps is at least 0, not {steps}")
    made = maker(optimizer)
    check_batch(x, y)
    with undisturbed():
        before = measure(copy_model(model, "trial"), x, y, loss_fn)
        patient = Patient(copy_model(model, "trial"), x, y, loss_fn, before, made)
        loss_before = loss_after(patient, Treatment("", patient.original), steps)
        judge = Judge(patient, goal_of(codes, remedies), steps, loss_before)
        tried, refused = _try_all(remedies, judge)
        return Trial(
            findings=codes,
            model=type(patient.original).__name__,
            goal=judge.goal,
            before=before,
            loss_before=loss_before,
            steps=steps,
            ranked=tuple(sorted(tried, key=judge.rank)),
            not_applicable=refused,
        )


def _named(finding: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the codes of the findings, and those of their remedies, best guess first."""
    found = list(finding) if isinstance(finding, Findings) else [finding]
    codes, remedies = dict[str, None](), dict[str, None]()
    for one in found:
        if not isinstance(one, Finding):
            raise InvalidTypeError(f"trial takes a finding of diagnose or preflight, not {type(one).__name__}")
        codes[one.code] = None
        remedies.update(dict.fromkeys(one.remedies or PATH))
    return tuple(codes), tuple(remedies)


def _try_all(remedies: tuple[str, ...], judge: Judge) -> tuple[list[Tried], dict[str, NotApplicable]]:
    tried, refused = list[Tried](), dict[str, NotApplicable]()
    for code in remedies:
        seed_all()
        treatments = _treatments(code, judge.patient)
        if isinstance(treatments, NotApplicable):
            refused[code] = treatments
            continue
        for one in treatments:
            try:
                tried.append(judge.examine(code, one))
            except Exception as error:  # as in _treatments
                name = f"{code} ({one.variant})" if one.variant else code
                refused[name] = NotApplicable(f"the treated copy fails: {type(error).__name__}: {error}")
    return tried, refused


def _treatments(code: str, patient: Patient) -> list[Treatment] | NotApplicable:
    if code not in REMEDIES:
        return NotApplicable(str(unknown_name("remedy", code, REMEDIES)))
    try:
        return REMEDIES[code](patient)
    except GradscopeError as error:
        return NotApplicable(str(error))
    except Exception as error:  # whatever a model may raise that is changed from outside
        return NotApplicable(f"it cannot be applied: {type(error).__name__}: {error}")
