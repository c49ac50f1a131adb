"""Vanishing and exploding: fires, silent, not applicable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from gradscope import checks
from gradscope.checks import Findings, NotApplicable
from gradscope.errors import InvalidTypeError
from gradscope.runs import Run, load
from gradscope.spec import MetricSpec

Record = Callable[..., Run]
HEALTHY = ("non-finite", "vanishing", "exploding")


def diagnose(run: Run) -> Findings:
    """Make the checks of the passage alone: this file is about them."""
    return checks.diagnose(run, HEALTHY)


def geometric(rate: float, hidden: int, head: float = 1.0) -> list[float]:
    """Norms of hidden layers that change by `rate` towards the input, below a head of any norm."""
    return [*(rate ** np.arange(hidden - 1, -1.0, -1)), head]


def walk(seed: int, hidden: int, drift: float = 0.0, spread: float = 0.145) -> list[float]:
    """Norms of a relu net with kaiming weights: a random walk of the logarithm (spread as measured, width 64)."""
    increments = np.random.default_rng(seed).normal(drift, spread, hidden)
    return [*np.exp(np.cumsum(increments))[::-1], 1.0]


def test_a_shrinking_gradient_is_vanishing(record: Record) -> None:
    findings = diagnose(record({0: geometric(0.25, 9, head=7.0)}, activation="sigmoid"))
    assert findings.codes == ("vanishing",)
    assert findings.healthy == ("non-finite", "exploding")
    (one,) = findings
    assert (one.severity, one.layers, one.steps) == ("critical", tuple(range(1, 10)), (0,))
    assert one.evidence["rate"] == pytest.approx(0.25)
    assert one.evidence["decades"] == pytest.approx(8 * math.log10(0.25))
    assert one.evidence["activation_decades"] == pytest.approx(one.evidence["decades"])
    assert one.evidence["weight_decades"] == pytest.approx(0.0)


def test_a_growing_gradient_is_exploding(record: Record) -> None:
    findings = diagnose(record({0: geometric(2.0, 9)}, weight_gain=2.0))
    assert findings.codes == ("exploding",)
    (one,) = findings
    assert (one.severity, one.layers) == ("critical", tuple(range(1, 10)))
    assert one.evidence["decades"] == pytest.approx(8 * math.log10(2))
    assert one.evidence["weight_decades"] == pytest.approx(8 * math.log10(2))
    assert one.evidence["activation_decades"] == pytest.approx(0.0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_scale_of_the_loss_does_not_matter(record: Record, scale: float) -> None:
    down, up = (
        diagnose(record({0: [scale * one for one in geometric(rate, 8)]}, name=f"by-{rate}")) for rate in (0.5, 2.0)
    )
    assert (down.codes, up.codes) == (("vanishing",), ("exploding",))


@pytest.mark.parametrize(
    ("total", "severity"), [(0.05, "note"), (0.03, "warning"), (0.0011, "warning"), (0.0009, "critical")]
)
def test_severity_of_vanishing_follows_the_total(record: Record, total: float, severity: str) -> None:
    (one,) = diagnose(record({0: geometric(total ** (1 / 9), 10)}))
    assert (one.code, one.severity) == ("vanishing", severity)


@pytest.mark.parametrize(
    ("total", "severity"), [(11.0, "note"), (32.0, "warning"), (69.0, "warning"), (71.0, "critical")]
)
def test_severity_of_exploding_follows_the_total(record: Record, total: float, severity: str) -> None:
    (one,) = diagnose(record({0: geometric(total ** (1 / 9), 10)}))
    assert (one.code, one.severity) == ("exploding", severity)


@pytest.mark.parametrize("loss", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(("fallen", "found"), [(1e-5, []), (0.09, []), (0.11, ["exploding"]), (30.0, ["exploding"])])
def test_growth_matters_where_the_signal_has_not_fallen_by_more(
    record: Record, loss: float, fallen: float, found: list[str]
) -> None:
    """At the last step the gradient grows a hundredfold, out of a signal that has fallen since the first."""
    first = [loss * one for one in geometric(1.0, 9)]
    last = [loss * fallen * one for one in geometric(100.0 ** (1 / 8), 9)]
    assert list(diagnose(record({0: first, 10: last})).codes) == found


@pytest.mark.parametrize("total", [0.11, 1.0, 9.0])
def test_less_than_a_decade_is_silent_however_certain(record: Record, total: float) -> None:
    assert diagnose(record({0: geometric(total ** (1 / 9), 10)})).healthy == HEALTHY


def test_a_decade_that_chance_explains_is_silent(record: Record) -> None:
    logs = np.array([0.0, 3.0, -3.0, 3.0, -2.0, 2.6])
    findings = diagnose(record({0: [*np.exp(logs - 2.6), 1.0]}))
    assert (len(findings), findings.healthy) == (0, HEALTHY)


def test_healthy_random_walks_are_silent(record: Record) -> None:
    """Relu with kaiming: 100 nets of each depth. Both conditions must fail by chance for a false alarm."""
    for hidden in (4, 8, 32):
        alarms = sum(len(diagnose(record({0: walk(seed, hidden)}, name=f"{hidden}-{seed}"))) for seed in range(100))
        assert alarms <= 2


def test_the_head_takes_no_part(record: Record) -> None:
    assert len(diagnose(record({0: geometric(1.0, 8, head=1e9)}))) == 0


def test_an_exact_zero_at_the_bottom_is_vanishing_even_in_a_shallow_net(record: Record) -> None:
    findings = diagnose(record({0: [0.0, 0.5, 1.0]}))
    assert findings.codes == ("vanishing",)
    (one,) = findings
    assert one.severity == "critical"
    factors = {"activation_decades": -math.inf, "weight_decades": 0.0, "path_decades": 0.0}
    assert one.evidence == {"rate": 0.0, "decades": -math.inf, "layers": 2.0} | factors
    assert one.cause == (
        "At step 0 the output gradient of layer 1 is exactly zero in every entry, although the head receives a "
        "gradient. The error signal ends: the last norm above zero is 0.5, of layer 2. It is so at step 0, "
        "the only one recorded."
    )
    assert one.remedy == (
        "look at what lies below layer 2, the lowest that still receives a gradient: every unit is dead "
        "(relu: lower the learning rate, or use leaky_relu), weights are all zero, or the numbers underflow "
        "(scale the loss)"
    )


def test_weights_of_zero_are_named(record: Record) -> None:
    nothing = {(0, 3, "input_grad_norm"): 0.0, (0, 2, "next_input_grad_norm"): 0.0}
    zero = {(0, 3, "weight_rms"): 0.0}
    (one,) = diagnose(record({0: [0.0, 0.0, 1.0, 1.0]}, values=nothing | zero, name="zero"))
    assert one.remedy == "set the weights of layer 3, which are all zero: nothing passes back through them"
    (other,) = diagnose(record({0: [0.0, 0.0, 1.0, 1.0]}, values=nothing, name="not zero"))
    assert other.remedy == (
        "the weights of layer 3 are not all zero, but nothing passes back through them: where the numbers underflow, "
        "scale the loss or train in bfloat16 or float32"
    )


@pytest.mark.parametrize("recorded", [5, 3, 1], ids=["all", "no weights", "no ledger"])
def test_underflow_is_not_put_down_to_weights_of_zero(record: Record, recorded: int) -> None:
    profile = [*np.zeros(20), *(10.0 ** np.arange(-43.0, 1.0)), 1.0]
    nothing = {(0, 21, "input_grad_norm"): 0.0, (0, 20, "next_input_grad_norm"): 0.0}
    (one,) = diagnose(record({0: profile}, activation="tanh", values=nothing, recorded=recorded))
    assert one.code == "vanishing"
    assert one.cause == (
        "At step 0 the output gradient of layer 1 is exactly zero in every entry, although the head receives a "
        "gradient. The error signal underflows: the last norm above zero is 1e-43, of layer 21. It is so at step 0, "
        "the only one recorded."
    )
    assert one.remedy == (
        "initialize with the weight variance 1/fan_in (xavier) or slightly more and zero biases, or shorten the path: "
        "normalize before the activation function, or add skip connections; to scale the loss only helps the last "
        "decades"
    )


@pytest.mark.parametrize("count", [1, 2, 8])
def test_no_error_signal_anywhere_is_a_finding(record: Record, count: int) -> None:
    findings = diagnose(record({0: [0.0] * count}))
    (one,) = findings
    assert (one.code, one.severity, one.title) == ("vanishing", "critical", "no error signal reaches any layer")
    assert (one.layers, one.evidence) == (tuple(range(1, count + 1)), {"layers": count})
    assert one.cause == (
        "At step 0 the output gradient of every layer is exactly zero in every entry. It is so at step 0, the only "
        "one recorded."
    )
    assert one.remedy == (
        "look at the loss: it may not depend on what the network puts out, be multiplied by zero, be flat there, or "
        "have a gradient that underflows"
    )
    reason = NotApplicable("the output gradient is exactly zero in every layer at step 0")
    assert findings.not_applicable == {"exploding": reason}


def test_zeros_in_every_hidden_layer_below_a_living_head_are_vanishing(record: Record) -> None:
    assert diagnose(record({0: [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]})).codes == ("vanishing",)


def test_a_zero_beside_a_skip_is_no_verdict(record: Record) -> None:
    findings = diagnose(record({0: [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]}))
    reason = NotApplicable("the output gradient is exactly zero in some layers of the trunk at step 0")
    assert findings.not_applicable == {"vanishing": reason, "exploding": reason}


def test_shallow_nets_are_not_judged(record: Record) -> None:
    findings = diagnose(record({0: geometric(0.2, 3)}))
    reason = NotApplicable("too shallow: an interval needs at least 4 hidden layers in a chain, this network has 3")
    assert (len(findings), findings.healthy) == (0, ("non-finite",))
    assert findings.not_applicable == {"vanishing": reason, "exploding": reason}


@pytest.mark.parametrize(("rate", "code"), [(0.1, "vanishing"), (10.0, "exploding")])
def test_shallow_nets_are_judged_where_chance_could_not_do_it(record: Record, rate: float, code: str) -> None:
    (one,) = diagnose(record({0: geometric(rate, 3)}))
    assert (one.code, one.severity) == (code, "critical" if rate > 1 else "warning")
    assert f"is multiplied by {rate:.3g} per layer, in total by" in one.cause


def test_one_bad_batch_at_the_end_is_no_alarm(record: Record) -> None:
    well, ill = geometric(1.0, 8), geometric(0.2, 8)
    steps = dict.fromkeys(range(0, 50, 10), well)
    assert diagnose(record(steps | {50: ill}, name="once")).codes == ()
    (one,) = diagnose(record(steps | {30: ill, 40: ill, 50: ill}, name="mostly"))
    assert (one.code, one.severity, one.steps) == ("vanishing", "critical", (30, 50))


def test_the_numbers_of_the_layers_are_a_frame(record: Record) -> None:
    (one,) = diagnose(record({0: geometric(0.25, 5)}, weight_gain=0.5))
    frame = one.frame()
    assert frame.index.tolist() == [1, 2, 3, 4, 5]
    assert frame.columns.tolist()[:3] == ["output_grad_norm", "weight_gain", "activation_gain"]
    assert frame["output_grad_norm"].tolist() == [0.25**4, 0.25**3, 0.25**2, 0.25, 1.0]
    assert one.remedies == ("critical_init", "normalize", "add_skips", "shallower")
    assert one == diagnose(record({0: geometric(0.25, 5)}, weight_gain=0.5, name="again"))[0]
    assert asdict(one)["by_layer"] == one.by_layer


def test_without_the_metric_nothing_is_judged(record: Record) -> None:
    run = record({0: geometric(0.1, 6)}, metrics=[MetricSpec("a", "A")])
    reason = NotApplicable("the metric output_grad_norm was not recorded")
    assert diagnose(run).not_applicable == {"vanishing": reason, "exploding": reason}


def test_without_rows_nothing_is_judged(record: Record) -> None:
    findings = diagnose(record({}))
    nothing = NotApplicable("no output gradient has been recorded yet")
    assert findings.not_applicable == {
        "non-finite": NotApplicable("nothing has been recorded yet"),
        "vanishing": nothing,
        "exploding": nothing,
    }
    assert findings.healthy == ()


def test_nan_leaves_the_passage_unjudged(record: Record) -> None:
    profile = geometric(0.5, 6)
    profile[2] = math.nan
    findings = diagnose(record({0: profile}))
    assert findings.codes == ("non-finite",)
    reason = NotApplicable("a norm of the output gradient is NaN or infinite at step 0")
    assert findings.not_applicable == {"vanishing": reason, "exploding": reason}


def test_missing_layers_are_spanned(record: Record) -> None:
    profile: list[float | None] = [*geometric(0.25, 9)]
    profile[3] = None
    (one,) = diagnose(record({0: profile}))
    assert one.evidence["rate"] == pytest.approx(0.25)
    assert one.layers == (1, 2, 3, 5, 6, 7, 8, 9)


def test_it_tells_since_when(record: Record) -> None:
    healthy, sick = geometric(1.0, 8), geometric(0.3, 8)
    (always,) = diagnose(record({0: sick, 10: healthy, 20: sick}, name="always"))
    assert (always.severity, always.steps) == ("critical", (0, 20))
    assert always.cause.endswith("It was so at the first recorded step, 0, and is so at the last, 20.")
    (later,) = diagnose(record({0: healthy, 10: sick, 20: healthy, 30: sick, 40: sick}, name="later"))
    assert (later.severity, later.steps) == ("critical", (30, 40))
    assert later.cause.endswith("It was not so at the first recorded step; it is so since step 30, up to the last, 40.")
    (gone,) = diagnose(record({0: sick, 10: healthy}, name="gone"))
    assert (gone.severity, gone.steps) == ("note", (0,))
    assert gone.cause.endswith("It was so at the first recorded step, 0, and is no longer so at the last.")


def test_a_last_step_that_cannot_be_judged_does_not_silence_the_first(record: Record) -> None:
    findings = diagnose(record({0: geometric(0.3, 8), 10: [math.nan] * 9}))
    assert findings.codes == ("non-finite", "vanishing")


def test_the_worst_comes_first(record: Record) -> None:
    nan_loss = diagnose(record({0: geometric(0.4, 8), 10: geometric(0.4, 8)}, loss={10: math.nan}))
    assert [(one.code, one.severity) for one in nan_loss] == [("non-finite", "critical"), ("vanishing", "warning")]


@pytest.mark.parametrize(
    ("activation", "remedy"),
    [
        ("sigmoid", "replace sigmoid (slope at most 1/4) by tanh (xavier) or relu (kaiming)"),
        ("relu", "initialize with the weight variance 2/fan_in (kaiming) and zero biases"),
        ("tanh", "initialize with the weight variance 1/fan_in (xavier) or slightly more and zero biases"),
        ("?", "raise the variance of the weights at initialization"),
    ],
)
def test_the_remedy_of_vanishing_fits_the_activation(record: Record, activation: str, remedy: str) -> None:
    (one,) = diagnose(record({0: geometric(0.3, 8)}, activation=activation))
    assert one.remedy == (
        f"{remedy}, or shorten the path: normalize before the activation function, or add skip connections"
    )


def test_skips_that_make_it_explode_are_named(record: Record) -> None:
    (one,) = diagnose(record({0: geometric(1.5, 12)}, weight_gain=1.0, path_gain=1.6))
    assert one.evidence["path_decades"] == pytest.approx(11 * math.log10(1.6))
    assert "skips and branches make 1.8e+02." in one.cause
    assert one.remedy.startswith("scale what each block adds to its skip by 1/sqrt(number of blocks)")


def test_without_the_ledger_the_finding_stands(record: Record) -> None:
    run = record({0: geometric(0.3, 8)}, metrics=[MetricSpec("output_grad_norm", "n", group="backward")])
    (one,) = diagnose(run)
    assert list(one.evidence) == ["rate", "low", "high", "decades", "layers"]
    assert "Of this" not in one.cause


def test_what_is_not_watched_is_not_blamed(record: Record) -> None:
    (one,) = diagnose(record({0: geometric(0.25, 9)}, activation="sigmoid", unresolved=[3, 6]))
    assert list(one.evidence) == ["rate", "low", "high", "decades", "layers"]
    assert one.evidence["decades"] == pytest.approx(8 * math.log10(0.25))
    assert one.cause == (
        "On its way from layer 9 to layer 1 the output gradient is multiplied by 0.25 per layer (95 % interval 0.25 "
        "to 0.25), in total by 1.5e-05. What lies between layers 2 and 3, 5 and 6 is not watched: it is not said "
        "which factor is to blame. It is so at step 0, the only one recorded."
    )
    assert one.remedy == (
        "shorten the path: normalize, or add skip connections; look at what the gradient passes through between the "
        "layers that are watched"
    )


def test_neither_is_it_when_exploding(record: Record) -> None:
    (one,) = diagnose(record({0: geometric(2.0, 12)}, weight_gain=2.0, unresolved=range(2, 13)))
    assert list(one.evidence) == ["rate", "low", "high", "decades", "layers"]
    assert (
        "What lies between layers 1 and 2, 2 and 3, 3 and 4, 4 and 5, 5 and 6, 6 and 7 and so on, 11 places in "
        "all, is not watched: it is not said which factor is to blame."
    ) in one.cause
    assert one.remedy == (
        "look at what the gradient passes through between the layers that are watched, and normalize it; clipping the "
        "gradient keeps the step finite meanwhile, but leaves the ratio between layers as it is"
    )


def test_a_gap_outside_the_judged_layers_changes_nothing(record: Record) -> None:
    (plain,) = diagnose(record({0: geometric(0.25, 9)}, name="plain"))
    (outside,) = diagnose(record({0: geometric(0.25, 9)}, name="outside", unresolved=[1, 10]))
    assert outside == plain


def test_a_gap_beside_a_layer_without_a_value_counts(record: Record) -> None:
    profile: list[float | None] = [*geometric(0.25, 9)]
    profile[3] = None
    (one,) = diagnose(record({0: profile}, unresolved=[4]))
    assert "What lies between layers 3 and 4 is not watched" in one.cause


def test_diagnose_takes_one_run(record: Record, tmp_path: Path) -> None:
    record({0: geometric(0.3, 8)})
    with pytest.raises(InvalidTypeError) as error:
        diagnose(load(tmp_path))  # type: ignore[arg-type]
    assert str(error.value) == (
        "diagnose takes one run, not Runs; for several: {name: gradscope.diagnose(run) for name, run in runs.items()}"
    )


def test_findings_are_a_sequence_and_a_frame(record: Record) -> None:
    findings = diagnose(record({0: geometric(0.3, 8)}, loss={0: math.inf}))
    assert isinstance(findings, Findings)
    assert (len(findings), [one.code for one in findings]) == (2, ["non-finite", "vanishing"])
    assert findings[1].code == "vanishing"
    frame = findings.frame()
    assert frame.columns.tolist() == [
        *["code", "title", "severity", "layers", "steps", "evidence", "cause", "remedy", "source", "remedies"],
        "by_layer",
    ]
    assert frame["severity"].tolist() == ["critical", "critical"]
    assert diagnose(record({0: geometric(1.0, 8)}, name="well")).frame().empty
