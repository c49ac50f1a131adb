"""The whole text of a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Callable

from gradscope import checks
from gradscope.checks import Findings
from gradscope.runs import Run

PASSAGE = ("non-finite", "vanishing", "exploding")


def diagnose(run: Run) -> Findings:
    """Make few checks, for a short letter."""
    return checks.diagnose(run, PASSAGE)


def test_the_letter(record: Callable[..., Run]) -> None:
    sick = [0.25**4, 0.25**3, 0.25**2, 0.25, 1.0, 8.0]
    run = record({0: sick, 10: sick}, activation="sigmoid", weight_gain=0.5, loss={0: 2.0, 10: math.nan})
    assert str(diagnose(run)) == LETTER


LETTER = """\
Diagnosis of run 'patient': 2 findings

1. CRITICAL: NaN or infinity since step 10 [non-finite]
   Where:   no layer; step 10
   Numbers: first_step = 10, rows = 0, values = 0, first_step_of_loss = 10
   Cause:   The loss is not finite at step 10.
   Remedy:  look at the loss function: every recorded metric of the layers is finite
   Source:  Wardat, Le and Rajan 2021 (DeepLocalize): NaN or infinity in outputs, loss, weights or
            gradients

2. WARNING: the gradient vanishes towards the input [vanishing]
   Where:   layers 1 to 5; steps 0 and 10
   Numbers: rate = 0.25, low = 0.25, high = 0.25, decades = -2.408, activation_decades = -1.204,
            weight_decades = -1.204, path_decades = 0, layers = 5
   Cause:   On its way from layer 5 to layer 1 the output gradient is multiplied by 0.25 per layer
            (95 % interval 0.25 to 0.25), in total by 0.0039. Of this, the activation function
            (sigmoid) makes 0.062, the weights make 0.062. It was so at the first recorded step, 0,
            and is so at the last, 10. The training diverges.
   Remedy:  replace sigmoid (slope at most 1/4) by tanh (xavier) or relu (kaiming), or shorten the
            path: normalize before the activation function, or add skip connections
   Source:  Hochreiter 1991; Bengio, Simard and Frasconi 1994; Glorot and Bengio 2010; He et al.
            2015; critical below 1e-3 in total: Zhang et al. 2021 (AUTOTRAINER)

Examined, and nothing found: exploding."""


def test_a_clean_bill_of_health(record: Callable[..., Run]) -> None:
    assert str(diagnose(record({0: [1.0] * 6}))) == (
        "Diagnosis of run 'patient': nothing found\n\nExamined, and nothing found: non-finite, vanishing, exploding."
    )


def test_what_could_not_be_told(record: Callable[..., Run]) -> None:
    assert str(diagnose(record({0: [1.0, 1.0]}))) == (
        "Diagnosis of run 'patient': 1 of 3 checks made, nothing found\n\n"
        "Examined, and nothing found: non-finite.\n\n"
        "Could not be examined:\n"
        "  vanishing: too shallow: an interval needs at least 4 hidden layers in a chain, this network has 1\n"
        "  exploding: too shallow: an interval needs at least 4 hidden layers in a chain, this network has 1"
    )


def test_where_no_check_could_be_made(record: Callable[..., Run]) -> None:
    assert str(diagnose(record({}))) == (
        "Diagnosis of run 'patient': no layer was recorded, so none could be checked: the run is finished, "
        "and its events give no reason\n\n"
        "Could not be examined:\n"
        "  non-finite: nothing has been recorded yet\n"
        "  vanishing: no output gradient has been recorded yet\n"
        "  exploding: no output gradient has been recorded yet"
    )


def test_every_check_is_accounted_for(record: Callable[..., Run]) -> None:
    letter = str(checks.diagnose(record({0: [1.0] * 6})))
    assert letter == WHOLE


WHOLE = """\
Diagnosis of run 'patient': 4 of 15 checks made, nothing found

Examined, and nothing found: non-finite, no-gradient, vanishing, exploding.

Could not be examined:
  underflow: the metric fp16_underflow_fraction was not recorded
  update-ratio: the metric update_ratio was not recorded
  dead-units: the metric dead_fraction was not recorded
  saturation: the metric saturation was not recorded
  norm-explosion: no batch normalization between the layers
  forward-collapse: the metric sample_spread was not recorded
  information-collapse: the metric input_information was not recorded: watch with sample=(x, y)
  rank-collapse: the metric effective_rank was not recorded
  depth-scale: the size of the weights is not known, or zero
  sparse-gradients: the metric output_grad_zero_fraction was not recorded
  stalled: no scalar "loss" was logged (probe.log(loss=loss))"""
