"""Trials: remedies on copies, what theory says of them and what is measured, and that they really train."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from patients import ALL, DIGITS, X, Y, convolutions, finding, relu, sigmoid, tried
from torch import nn
from untouched import untouched

import gradscope as gs
from gradscope.at_rest import Trial
from gradscope.errors import InvalidValueError


@pytest.fixture(scope="module")
def of_sigmoid() -> Trial:
    return tried(sigmoid(), *ALL[:6], steps=10)


def test_the_remedies_of_a_deep_sigmoid_are_ranked_by_effect(of_sigmoid: Trial) -> None:
    names = [one.remedy for one in of_sigmoid]
    assert sorted(names) == [
        "add_skips",
        "centered_lsuv",
        "change_activation (relu)",
        "change_activation (tanh)",
        "critical_init",
        "normalize (batch)",
        "normalize (layer)",
        "shallower",
    ]
    # Layer normalization leaves a sigmoid's slope and offset as they are: chi = 0.15, whatever the weights.
    assert names[-1] == "normalize (layer)"
    assert {"normalize (batch)", "centered_lsuv"} & set(names[:2])
    recovered = {one.remedy: one.recovered for one in of_sigmoid}
    assert min(recovered[name] for name in ("centered_lsuv", "normalize (batch)", "critical_init")) > 0.85
    assert recovered["normalize (layer)"] < 0.6
    assert of_sigmoid.goal == "passage"
    assert of_sigmoid.before.decay.decades < -3.5


def test_theory_foretells_what_is_then_measured(of_sigmoid: Trial) -> None:
    for one in of_sigmoid:
        # Seven increments of log |dL/dz|, each of standard deviation sqrt(kappa / 4N) with kappa at most 5 and N = 64.
        band = 3 * math.sqrt(7 * 5 / (4 * 64)) / math.log(10)
        assert one.profile.decay.decades == pytest.approx(one.predicted_decades, abs=band + 0.1), one.remedy


def test_the_frame_has_a_row_for_every_layer_remedy_and_metric(of_sigmoid: Trial) -> None:
    frame = of_sigmoid.frame()
    assert list(frame.columns) == ["remedy", "depth", "metric", "before", "predicted", "measured"]
    assert list(frame["remedy"].unique()) == [one.remedy for one in of_sigmoid]
    assert set(frame["metric"]) == {"output_grad_norm", "sample_spread"}
    assert len(frame) == 8 * 2 * 9
    one = frame[(frame["remedy"] == "centered_lsuv") & (frame["metric"] == "sample_spread") & (frame["depth"] <= 8)]
    assert one["measured"].to_numpy() == pytest.approx(1.0, rel=1e-3)
    assert one["before"].iloc[-1] < 1e-4
    few = frame[(frame["remedy"] == "shallower") & (frame["metric"] == "output_grad_norm")]
    assert few["measured"].notna().sum() == 3
    assert few["before"].notna().all()
    lowest = of_sigmoid.table()
    assert list(lowest["remedy"]) == [one.remedy for one in of_sigmoid]
    assert list(lowest["recovered"]) == [one.recovered for one in of_sigmoid]


def test_the_report_reads(of_sigmoid: Trial) -> None:
    text = str(of_sigmoid)
    seen = of_sigmoid.before
    assert text.startswith(
        "Trial of remedies for vanishing, on copies of MLP\n\n"
        f"As it is: gradient {seen.decay.decades:+.2f} decades ({seen.decay.rate:.3g} per layer), "
        f"spread {seen.spread_decades:+.2f}; loss {seen.loss:.3g}, {of_sigmoid.loss_before:.3g} after 10 steps on this "
        "batch\n\nBest first: fewest decades beyond one each of gradient and spread, then lowest loss after the steps."
        "\n\n1. "
    )
    best = of_sigmoid.best
    assert (
        f"1. {best.remedy}: {best.treatment.what}\n   gradient {best.profile.decay.decades:+.2f} decades "
        f"(theory {best.predicted_decades:+.2f}), spread {best.profile.spread_decades:+.2f}; recovered "
        f"{best.recovered:.0%}; loss {best.profile.loss:.3g}, then {best.loss_after:.3g}"
    ) in text
    assert "Not tried" not in text
    assert repr(of_sigmoid) == f"<Trial on copies of MLP: 8 tried, best {best.remedy}>"
    assert repr(best) == f"<{best.remedy}: recovered {best.recovered:.0%}>"
    assert of_sigmoid._repr_html_() == f"<pre>{text}</pre>"


def test_decades_beyond_one_each_rank_before_the_loss(of_sigmoid: Trial) -> None:
    keys = [(round(one.profile.excess, 1), one.loss_after) for one in of_sigmoid]
    assert keys == sorted(keys)
    assert min(keys)[0] == 0.0 < max(keys)[0]


def test_the_loss_falls_where_the_remedy_helps(of_sigmoid: Trial) -> None:
    assert of_sigmoid.best.loss_after < 0.8 * of_sigmoid.loss_before


def test_a_deep_relu_needs_its_own_weight_variance() -> None:
    found = tried(relu(), "critical_init", "change_activation", "normalize", "add_skips", "shallower")
    by_name = {one.remedy: one for one in found}
    assert by_name["critical_init"].treatment.what == (
        "weights of the critical variance (2/fan_in for relu), biases zero"
    )
    assert abs(by_name["critical_init"].profile.decay.decades) < 1.0 < abs(found.before.decay.decades)
    # Batch normalization makes a deep relu net explode, by the root of pi / (pi - 1) per layer.
    exploding = by_name["normalize (batch)"].profile.decay.rate
    assert exploding == pytest.approx(math.sqrt(math.pi / (math.pi - 1)), rel=0.05)
    assert "change_activation (leaky_relu)" in by_name
    assert by_name["shallower"].treatment.what == "13 blocks left out, 7 hidden layers remain"


def test_convolutions() -> None:
    found = tried(convolutions(), *ALL[:6])
    recovered = {one.remedy: one.recovered for one in found}
    assert recovered["change_activation (relu)"] > 0.8
    assert recovered["centered_lsuv"] > 0.8
    assert recovered["normalize (batch)"] > 0.6
    assert found.before.decay.decades < -2


def accuracy(model: nn.Module) -> float:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in gs.lab.data.batches(DIGITS, 64, 200):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float((model(DIGITS.x_test).argmax(1) == DIGITS.y_test).double().mean())


@pytest.mark.parametrize("build", [sigmoid, convolutions])
def test_the_best_copy_trains_where_the_model_does_not(build: Callable[[], nn.Module]) -> None:
    model = build()
    best = tried(model, "centered_lsuv", "normalize", "change_activation", steps=10).best
    assert accuracy(best.model) > 0.85
    assert accuracy(model) < 0.2


def test_weights_alone_can_be_taken_over() -> None:
    model = sigmoid()
    found = tried(model, "centered_lsuv")
    model.load_state_dict(found.best.model.state_dict())
    assert gs.preflight(model, X, Y).codes == ()


@pytest.mark.parametrize("build", [sigmoid, convolutions])
def test_the_model_is_left_as_it_was(build: Callable[[], nn.Module]) -> None:
    model = build()
    F.cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
    optimizer = torch.optim.Adam(model.parameters())
    with untouched(model, X, Y):
        found = gs.trial(finding(*ALL), model, X, Y, optimizer=optimizer, steps=2)
    assert not optimizer.state
    theirs = {id(parameter) for one in found for parameter in one.model.parameters()}
    assert not theirs & {id(parameter) for parameter in model.parameters()}
    assert all(parameter.grad is None for one in found for parameter in one.model.parameters())


def test_a_trial_repeats_itself() -> None:
    model = nn.Sequential(sigmoid(), nn.Dropout(0.5), nn.Linear(10, 10))
    assert str(tried(model, *ALL[:3], steps=2)) == str(tried(model, *ALL[:3], steps=2))


def test_findings_are_tried_together() -> None:
    model = sigmoid()
    findings = gs.preflight(model, X, Y)
    found = gs.trial(findings, model, X, Y, steps=0)
    assert found.findings == findings.codes
    asked = {code for one in findings for code in one.remedies}
    assert {one.code for one in found} | set(found.not_applicable) == asked


def test_nothing_found_is_nothing_to_try() -> None:
    healthy = gs.lab.mlp(4, 64, "relu", "kaiming", seed=0)
    found = gs.trial(gs.Findings("a", ()), healthy, X, Y, steps=0)
    assert len(found) == 0
    assert found.frame().empty
    assert str(found).startswith("Trial of remedies for no finding, on copies of MLP")
    with pytest.raises(InvalidValueError) as caught:
        _ = found.best
    assert str(caught.value) == "no remedy could be tried on this model; print the trial to see why"


def test_a_finding_without_remedies_gets_those_of_the_path() -> None:
    found = tried(sigmoid())
    assert {one.code for one in found} == set(ALL[:6])


def test_what_does_not_help_is_said() -> None:
    found = gs.trial(finding("normalize", code="saturation"), gs.lab.mlp(3, 16, "relu", seed=0), X, Y, steps=0)
    assert found.goal == "saturation"
    assert found.best.recovered <= 0.0
    assert "None of them helps." in str(found)


def test_what_makes_the_loss_rise_comes_last() -> None:
    torch.manual_seed(0)
    blocks = [one for _ in range(6) for one in (nn.Linear(64, 64), nn.Sigmoid())]
    x, y = 1000.0 * torch.rand(64, 64), torch.arange(64) % 10
    found = gs.trial(
        finding("change_activation", "centered_lsuv", "normalize"), nn.Sequential(*blocks, nn.Linear(64, 10)), x, y
    )
    rises = [one.rises for one in found]
    assert rises == sorted(rises)
    assert 0 < sum(rises) < len(rises)
    by_name = {one.remedy: one for one in found}
    wild = by_name["change_activation (relu)"]
    # The gradient passes, yet inputs of a thousand make every rate too large.
    assert wild.profile.excess == 0.0
    assert wild.rises
    assert "then lowest loss after the steps; last, what makes the loss rise." in str(found)


def test_a_single_hidden_layer_loses_nothing() -> None:
    torch.manual_seed(0)
    blocks = [one for _ in range(6) for one in (nn.Linear(64, 64), nn.Sigmoid())]
    x, y = 1000.0 * torch.rand(64, 64), torch.arange(64) % 10
    found = gs.trial(finding("shallower"), nn.Sequential(*blocks, nn.Linear(64, 10)), x, y)
    assert "1 hidden layer remains" in found.best.treatment.what
    assert (found.best.profile.lost, found.best.recovered) == (0.0, 1.0)
    assert "nan" not in str(found)


def test_a_gradient_of_zero_has_no_decades() -> None:
    model = gs.lab.mlp(3, 32, "tanh", "normal", std=0.0, seed=0)
    text = str(gs.trial(finding("critical_init"), model, torch.rand(64, 64), torch.arange(64) % 10))
    assert "As it is: gradient zero or not finite, spread zero or not finite; loss 2.3" in text


def test_without_a_hidden_layer_nothing_is_compared() -> None:
    text = str(gs.trial(finding("critical_init"), nn.Linear(64, 10), X.flatten(1), Y, steps=1))
    assert "As it is: no hidden layer, spread of none; loss" in text
