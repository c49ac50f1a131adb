"""Every check on numbers made for it: fires, silent, not applicable; whole messages of a few."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gradscope.checks import Finding, NotApplicable, diagnose
from gradscope.runs import Run

Write = Callable[..., Run]
STEPS = range(0, 60, 10)


def rows(*values: float) -> dict[int, list[float | None]]:
    return {step: list(values) for step in STEPS}


def one(run: Run, code: str) -> Finding:
    (found,) = diagnose(run, code)
    return found


def test_forward_collapse(write: Write) -> None:
    """kappa = 1 / (3 * 0.005^2) = 13,333 > 1,000."""
    run = write({"sample_spread": rows(0.8, 0.1, 0.005, 0.01), "output_rms": rows(1.0, 1.0, 1.0, 1.0)})
    found = one(run, "forward-collapse")
    assert (found.severity, found.layers) == ("warning", (1, 2, 3))
    assert found.evidence["steps_needed"] == pytest.approx(1 / (3 * 0.005**2))
    assert found.by_layer == {"relative_spread": {1: 0.8, 2: 0.1, 3: 0.005}}
    assert found.cause == (
        "Between samples, the output of layer 1 varies by 0.8 of its size, that of layer 3, the last hidden one, by "
        "0.005: the head sees nearly a constant, and would need about 1.3e+04 steps to tell samples apart."
    )


@pytest.mark.parametrize(("spread", "severity"), [(0.0, "critical"), (0.001, "critical"), (0.01, "warning")])
def test_severity_of_forward_collapse(write: Write, spread: float, severity: str) -> None:
    run = write({"sample_spread": rows(0.8, 0.1, spread, 0.01), "output_rms": rows(1.0, 1.0, 1.0, 1.0)})
    assert one(run, "forward-collapse").severity == severity


def test_a_network_that_tells_samples_apart_has_not_collapsed(write: Write) -> None:
    run = write({"sample_spread": rows(0.8, 0.5, 0.05, 0.01), "output_rms": rows(1.0, 1.0, 1.0, 1.0)})
    assert diagnose(run, "forward-collapse").healthy == ("forward-collapse",)


def test_one_collapsed_batch_is_no_alarm(write: Write) -> None:
    spread = rows(0.8, 0.5, 0.4, 0.1) | {50: [0.8, 0.5, 1e-6, 0.1]}
    run = write({"sample_spread": spread, "output_rms": rows(1.0, 1.0, 1.0, 1.0)})
    assert diagnose(run, "forward-collapse").codes == ()


def test_dead_units(write: Write) -> None:
    found = one(write({"dead_fraction": rows(0.2, 1.0, 0.8)}, activation="relu"), "dead-units")
    assert (found.severity, found.layers, found.steps) == ("critical", (2, 3), (0, 50))
    assert found.title == "dead units: a layer lets no gradient through"
    assert found.cause == (
        "In layer 2 (net.1), all units have a slope of exactly zero on all of the last samples, at least 64; so it is "
        "in 2 of 3 layers, since step 0."
    )
    assert diagnose(write({"dead_fraction": rows(0.5, 0.7)}, name="half"), "dead-units").codes == ()


def test_it_says_since_when_units_are_dead(write: Write) -> None:
    later = {step: [0.1, 0.9 if step >= 60 else 0.3] for step in range(0, 160, 10)}
    found = one(write({"dead_fraction": later}, activation="relu"), "dead-units")
    assert (found.severity, found.evidence["since"]) == ("warning", 60.0)


def test_saturation(write: Write) -> None:
    found = one(write({"saturation": rows(0.1, 0.9, 0.6)}), "saturation")
    assert (found.severity, found.layers) == ("warning", (2,))
    assert found.cause == (
        "In layer 2 (net.1), 90% of the entries lie where the slope is below 1 % of its maximum; more than half do so "
        "in 1 of 2 layers."
    )
    relu = diagnose(write({"saturation": rows(0.9, 0.9, 0.9)}, activation="relu", name="relu"), "saturation")
    assert relu.not_applicable == {
        "saturation": NotApplicable(
            "no hidden layer has an activation function flat on both sides (sigmoid, tanh, softsign, hardtanh)"
        )
    }


def test_updates_too_small(write: Write) -> None:
    found = one(write({"update_ratio": rows(1e-9, 1e-8)}), "update-ratio")
    assert (found.severity, found.title) == ("critical", "the updates are too small to change anything")
    assert found.remedies == ("raise_learning_rate", "critical_init")
    assert found.cause == (
        "Even layer 2, whose weights move most, changes its output by its own size once in 1.2e+07 steps at most. "
        "Either the learning rate is too small, or hardly a gradient reaches the weights."
    )


def test_updates_too_large(write: Write) -> None:
    found = one(write({"update_ratio": rows(0.01, 0.5)}), "update-ratio")
    assert (found.severity, found.layers, found.title) == ("warning", (2,), "the updates are too large")
    assert found.evidence["largest_change"] == pytest.approx(0.5 * 8)
    once = rows(0.01, 0.01) | {50: [0.01, 0.9]}
    assert diagnose(write({"update_ratio": once}, name="once"), "update-ratio").codes == ()


def test_sparse_gradients(write: Write) -> None:
    """Half of the entries left per layer, seven layers: 1/64 arrives, a relu with half of its units everywhere."""
    zeros = rows(*(1 - 0.5**power for power in range(7, 0, -1)), 0.0)
    found = one(write({"output_grad_zero_fraction": zeros}, activation="relu"), "sparse-gradients")
    assert found.severity == "warning"
    assert found.evidence["rate"] == pytest.approx(0.5)
    assert found.evidence["decades"] == pytest.approx(-6 * 0.30103, rel=1e-4)
    even = write({"output_grad_zero_fraction": rows(*[0.75] * 7, 0.0)}, name="even")
    assert diagnose(even, "sparse-gradients").healthy == ("sparse-gradients",)


def test_rank_collapse(write: Write) -> None:
    found = one(write({"effective_rank": rows(20.0, 5.0, 1.1, 1.1)}), "rank-collapse")
    assert (found.severity, found.layers, found.evidence) == ("warning", (3,), {"effective_rank": 1.1, "highest": 20.0})
    flat = write({"effective_rank": rows(1.2, 1.1, 1.1, 1.1)}, name="data of one direction")
    assert diagnose(flat, "rank-collapse").codes == ()
    missing = diagnose(write({"weight_rms": rows(1.0, 1.0)}, name="missing"), "rank-collapse")
    assert missing.not_applicable == {"rank-collapse": NotApplicable("the metric effective_rank was not recorded")}


NORMS = {"fp16_underflow_fraction": rows(0.0, 0.0, 0.0), "output_grad_rms": rows(1e-7, 1e-6, 1e-3)}


def test_underflow_in_half_precision(write: Write) -> None:
    lost = NORMS | {"output_grad_zero_fraction": rows(0.9, 0.6, 0.0)}
    found = one(write(lost, environment={"dtype": "torch.float16"}), "underflow")
    assert (found.severity, found.layers, found.remedies) == ("critical", (1, 2), ("scale_loss",))
    for dtype in ("torch.float32", "torch.bfloat16"):
        other = diagnose(write(lost, environment={"dtype": dtype}, name=dtype), "underflow")
        assert other.not_applicable == {"underflow": NotApplicable("the network does not compute in float16")}


def test_zeros_of_a_relu_in_half_precision_are_its_own(write: Write) -> None:
    half = {"fp16_underflow_fraction": rows(0.0, 0.0), "output_grad_rms": rows(1e-2, 1e-2)}
    run = write(
        half | {"output_grad_zero_fraction": rows(0.6, 0.0)}, activation="relu", environment={"dtype": "torch.float16"}
    )
    assert diagnose(run, "underflow").healthy == ("underflow",)


def test_what_half_precision_would_lose_is_said(write: Write) -> None:
    run = write({"fp16_underflow_fraction": rows(0.9, 0.1)}, environment={"dtype": "torch.float32"})
    assert diagnose(run, "underflow").not_applicable["underflow"].reason == (
        "the network does not compute in float16, which would round to zero up to 90% of the entries of a layer's "
        "output gradient"
    )


def test_a_layer_that_is_cut_off(write: Write) -> None:
    run = write({"output_rms": rows(1.0, 1.0, 1.0)}, coverage={"net.0": "unused", "net.1": "frozen"})
    found = one(run, "no-gradient")
    assert (found.title, found.layers) == ("layers are cut off from the loss", (1,))
    frozen = write({"output_rms": rows(1.0, 1.0)}, coverage={"net.0": "frozen"}, name="frozen")
    assert diagnose(frozen, "no-gradient").codes == ()


def test_an_exact_zero(write: Write) -> None:
    run = write({"output_grad_norm": rows(1.0, 0.0, 1.0), "weight_grad_norm": rows(1.0, 0.0, 1.0)})
    found = one(run, "no-gradient")
    assert (found.severity, found.layers) == ("critical", (2,))
    assert found.cause == ("The output gradient of layer 2 (net.1) is exactly zero at most of the last recorded steps.")
    idle = write({"output_grad_norm": rows(1.0, 1.0), "weight_grad_norm": rows(1.0, 0.0)}, name="idle")
    assert one(idle, "no-gradient").cause.endswith("though an error signal arrives: its input is zero.")


def test_the_depth_scale(write: Write) -> None:
    """Sigmoid at weight variance 1: xi = 0.346, so about two layers."""
    weights = {"weight_rms": rows(*[0.125] * 6)}
    found = one(write(weights, activation="sigmoid"), "depth-scale")
    assert (found.severity, found.layers) == ("note", (1, 2, 3, 4, 5))
    assert found.evidence["depth_scale"] == pytest.approx(0.3463, abs=1e-4)
    assert found.cause == (
        "With sigmoid and weights of variance 1 / fan_in, theory gives a depth scale of 0.35 layers: about 2.1 can be "
        "trained; there are 5 hidden ones."
    )
    critical = write({"weight_rms": rows(*[(2 / 64) ** 0.5] * 6)}, activation="relu", name="critical")
    assert diagnose(critical, "depth-scale").healthy == ("depth-scale",)
    odd = write(weights, activation="?", name="odd")
    assert diagnose(odd, "depth-scale").not_applicable["depth-scale"].reason == (
        "theory does not know ? with normalization 'none'"
    )


def test_no_depth_scale_is_blamed_on_theory_where_the_outputs_are_not_finite(write: Write) -> None:
    """Of tanh below weight variance 1, theory's fixed point is 0 and the measured outputs decide."""
    values = {"weight_rms": rows(*[(0.328 / 64) ** 0.5] * 6), "output_rms": rows(*[math.nan] * 6)}
    assert diagnose(write(values), "depth-scale").not_applicable["depth-scale"].reason == (
        "theory has no fixed point here, and the metric output_rms has no value at any step that the optimizer took"
    )


def test_a_stalled_training_is_said_to_be_so(write: Write) -> None:
    found = one(write({"weight_rms": rows(1.0, 1.0)}, loss=dict.fromkeys(range(120), 2.3)), "stalled")
    assert (found.severity, found.title) == ("warning", "the training makes no progress")
    assert found.cause == ("In 120 steps the loss went from 2.3 to 2.3; knowing nothing of the input costs about 2.3.")
    early = diagnose(write({"weight_rms": rows(1.0, 1.0)}, loss={0: 2.3}, name="early"), "stalled")
    assert early.not_applicable["stalled"].reason == "too early to tell: 100 steps are needed, not 1"
    silent = diagnose(write({"weight_rms": rows(1.0, 1.0)}, name="silent"), "stalled")
    assert silent.not_applicable["stalled"].reason == 'no scalar "loss" was logged (probe.log(loss=loss))'
