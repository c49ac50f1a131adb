"""Remedies that leave the model as it is and change how it is trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.at_rest.remedies.registry import MakeOptimizer, Patient, Treatment
from gradscope.at_rest.trials.measure import measure
from gradscope.checks import NotApplicable

UNKNOWN = "the optimizer is not known: give optimizer=, the one that trains the model"
FLOAT16_MAX = 65504.0
LARGEST = 24
"""log2 of the largest loss scale that is tried; GradScaler starts at 16."""


def lower_learning_rate(patient: Patient) -> list[Treatment] | NotApplicable:
    """Divide the learning rate by 10, and by 100."""
    return _with_rates(patient, {"1/10": 0.1, "1/100": 0.01})


def raise_learning_rate(patient: Patient) -> list[Treatment] | NotApplicable:
    """Multiply the learning rate by 10."""
    return _with_rates(patient, {"x10": 10.0})


def clip_gradients(patient: Patient) -> list[Treatment] | NotApplicable:
    """Clip the norm of the gradient to what it would be if every layer had the median layer's.

    With g_l the norm of the weight gradient of layer l at the first step: sqrt(number of layers) median(g_l).
    """
    if patient.make_optimizer is None:
        return NotApplicable(UNKNOWN)
    norms = patient.before.weight_gradients
    if not len(norms) or not math.isfinite(norms.median()) or norms.median() <= 0.0:
        return NotApplicable("no weight gradient is above zero and finite: there is nothing to clip to")
    limit = float(norms.median()) * math.sqrt(len(norms))
    return [Treatment(f"the gradient's norm clipped to {limit:.3g}", patient.copy(), clip=limit)]


def scale_loss(patient: Patient) -> list[Treatment] | NotApplicable:
    """Multiply the loss by the largest power of 2, 2^24 at most, that keeps every gradient within float16.

    A model in float16 is tried in bfloat16 as well, whose range is that of float32.
    """
    before = patient.before
    if not before.shares.get(patient.underflow, 0.0) > 0.0 and before.decay.rate != 0.0:
        return NotApplicable("no gradient underflows here, and a scale changes nothing between layers")
    largest = float(before.values["output_grad_norm"].max())
    if not math.isfinite(largest):
        return NotApplicable("a gradient is not finite already: there is nothing to gain from a scale")
    wider = _in_bfloat16(patient)
    room = LARGEST if largest == 0.0 else math.floor(math.log2(FLOAT16_MAX / largest))
    exponent = next((one for one in range(min(room, LARGEST), 0, -1) if _is_finite(patient, 2.0**one)), None)
    if exponent is None:
        return wider or NotApplicable("a gradient overflows float16 at every scale above 1")
    what = f"loss multiplied by 2^{exponent}, gradients divided by it before the step"
    return [Treatment(what, patient.copy(), loss_scale=2.0**exponent), *wider]


def _in_bfloat16(patient: Patient) -> list[Treatment]:
    if all(one.dtype != torch.float16 for one in patient.original.parameters()):
        return []
    twin = patient.copy().to(torch.bfloat16)
    return [Treatment("bfloat16 in the place of float16", twin, dtype=torch.bfloat16, variant="bfloat16")]


def _is_finite(patient: Patient, scale: float) -> bool:
    profile = measure(patient.copy(), patient.x, patient.y, patient.loss_fn, scale)
    return bool(profile.values["output_grad_norm"].map(math.isfinite).all())


def _with_rates(patient: Patient, factors: dict[str, float]) -> list[Treatment] | NotApplicable:
    make = patient.make_optimizer
    if make is None:
        return NotApplicable(UNKNOWN)
    return [_with_rate(patient, make, factor, variant) for variant, factor in factors.items()]


def _with_rate(patient: Patient, make: MakeOptimizer, factor: float, variant: str) -> Treatment:
    def changed(parameters: Any) -> Optimizer:
        optimizer = make(parameters)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor
        return optimizer

    rates = [float(group["lr"]) for group in make([nn.Parameter(torch.zeros(1))]).param_groups]
    named = ", ".join(f"{rate:g} to {rate * factor:g}" for rate in dict.fromkeys(rates))
    return Treatment(f"learning rate from {named}", patient.copy(), make_optimizer=changed, variant=variant)
