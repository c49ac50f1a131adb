from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gradscope.checks import Finding, diagnose
from gradscope.runs import Run

Record = Callable[..., Run]
FLAT = [1.0] * 6
STEPS = {0: FLAT, 10: FLAT, 20: FLAT}


def only(run: Run) -> Finding:
    (found,) = [one for one in diagnose(run) if one.code == "non-finite"]
    return found


def test_finite_runs_are_silent(record: Record) -> None:
    assert "non-finite" in diagnose(record(STEPS, loss={0: 1.0, 10: 0.5})).healthy


def test_a_forward_pass_names_the_lowest_layer(record: Record) -> None:
    values = {(10, depth, "output_rms"): math.inf for depth in (3, 4, 5, 6)}
    values |= {(10, depth, "output_grad_norm"): math.nan for depth in range(1, 7)}
    one = only(record(STEPS, values=values, loss={0: 1.0, 10: math.nan, 20: math.nan}))
    assert (one.title, one.severity) == ("NaN or infinity since step 10", "critical")
    assert (one.layers, one.steps) == ((3, 4, 5, 6), (10,))
    assert one.evidence == {"first_step": 10.0, "rows": 6.0, "values": 10.0, "first_step_of_loss": 10.0}
    assert one.cause == (
        "In the forward pass of step 10 it shows first in layer 3 (net.2); metrics: output_grad_norm, output_rms. "
        "The loss is not finite at step 10."
    )
    assert one.remedy == ("lower the learning rate or clip the gradient: an earlier update made the weights too large")


def test_a_forward_pass_that_begins_with_it(record: Record) -> None:
    one = only(record(STEPS, values={(0, 1, "output_rms"): math.nan}))
    assert one.remedy == "look at the input data and the initial weights: the first forward pass has it already"
    assert one.cause.endswith("No loss was logged.")


def test_a_backward_pass_names_the_highest_layer(record: Record) -> None:
    values = {(20, depth, "output_grad_norm"): math.inf for depth in (1, 2, 3)}
    one = only(record(STEPS, values=values, loss={20: 0.3}))
    assert one.layers == (1, 2, 3)
    assert one.cause == "In the backward pass of step 20 it shows first in layer 3 (net.2); metrics: output_grad_norm."
    assert one.remedy == "scale the loss down or train in bfloat16: the forward pass is finite, its gradient is not"


def test_a_loss_that_fails_before_the_network(record: Record) -> None:
    values = {(10, depth, "output_grad_norm"): math.nan for depth in range(1, 7)}
    one = only(record(STEPS, values=values, loss={5: math.inf}))
    assert (one.title, one.steps) == ("NaN or infinity since step 5", (5, 10))
    assert one.remedy == ("look at the loss function and its input: the gradient is lost before it enters the network")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_loss_alone(record: Record, bad: float) -> None:
    one = only(record(STEPS, loss={0: 1.0, 7: bad, 9: 1.0}))
    assert (one.layers, one.steps) == ((), (7,))
    assert one.cause == "The loss is not finite at step 7."
    assert one.remedy == "look at the loss function: every recorded metric of the layers is finite"


def test_a_loss_without_rows_is_examined(record: Record) -> None:
    assert only(record({}, loss={3: math.nan})).steps == (3,)


def test_skipped_steps_are_only_a_note(record: Record) -> None:
    values = {(step, depth, "output_grad_norm"): math.inf for step in (0, 10) for depth in (1, 2)}
    one = only(record(STEPS, values=values, skipped=[0, 10]))
    assert (one.severity, one.layers, one.steps) == ("note", (1, 2), (0, 10))
    assert one.evidence == {"skipped_steps": 2.0, "rows": 4.0}
    assert one.title == "NaN or infinity, only in steps that the optimizer skipped"


def test_a_taken_step_outweighs_the_skipped_ones(record: Record) -> None:
    values = {(step, 1, "output_grad_norm"): math.inf for step in (0, 20)}
    one = only(record(STEPS, values=values, skipped=[0]))
    assert (one.severity, one.steps) == ("critical", (20,))


def test_weights_are_neither_pass(record: Record) -> None:
    one = only(record(STEPS, values={(10, 2, "weight_rms"): math.nan}))
    assert one.layers == (2,)
    assert "weight_rms" in one.cause
