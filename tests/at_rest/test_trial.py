"""Trials: remedies on copies, what theory says of them and what is measured, and that they really train."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from trainings import MODELS
from untouched import untouched

import gradscope as gs
from gradscope.at_rest import REMEDIES, Patient, Treatment, Trial
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError

DIGITS = gs.lab.data.load("digits")
X, Y = DIGITS.x_train[:128], DIGITS.y_train[:128]
ALL = (
    "critical_init",
    "centered_lsuv",
    "change_activation",
    "normalize",
    "add_skips",
    "shallower",
    "scale_loss",
    "lower_learning_rate",
    "raise_learning_rate",
    "clip_gradients",
)


def finding(*remedies: str, code: str = "vanishing") -> gs.Finding:
    return gs.Finding(code, "", "critical", (), (), {}, "", "", "", remedies)


def sigmoid() -> nn.Module:
    return gs.lab.mlp(8, 64, "sigmoid", "xavier", seed=0)


def relu() -> nn.Module:
    return gs.lab.mlp(20, 64, "relu", "xavier", seed=0)


def convolutions() -> nn.Module:
    return gs.lab.cnn(6, 16, "sigmoid", "xavier", seed=0)


def tried(model: nn.Module, *remedies: str, steps: int = 0, **settings: Any) -> Trial:
    return gs.trial(finding(*remedies), model, X, Y, steps=steps, **settings)


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
        "batch\n\n1. "
    )
    best = of_sigmoid.best
    assert (
        f"1. {best.remedy}: {best.treatment.what}\n   gradient {best.profile.decay.decades:+.2f} decades "
        f"(theory {best.predicted_decades:+.2f}), spread {best.profile.spread_decades:+.2f}; recovered "
        f"{best.recovered:.0%}; loss {best.profile.loss:.3g}, then {best.loss_after:.3g}"
    ) in text
    assert "Not tried" not in text


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


REFUSED: dict[str, tuple[dict[str, Any], type[GradscopeError], str]] = {
    "no finding": (
        {"finding": "vanishing"},
        InvalidTypeError,
        "trial takes a finding of diagnose or preflight, not str",
    ),
    "no model": ({"model": 3}, InvalidTypeError, "model is a torch.nn.Module, not int"),
    "fewer steps": ({"steps": -1}, InvalidValueError, "steps is at least 0, not -1"),
    "half a step": ({"steps": 0.5}, InvalidTypeError, "steps is a whole number, not 0.5"),
    "no optimizer": (
        {"optimizer": "adam"},
        InvalidTypeError,
        "optimizer is a torch.optim.Optimizer or makes one from parameters, not str",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    changes, kind, message = REFUSED[name]
    given = {"finding": finding("normalize"), "model": sigmoid(), "x": X, "y": Y, **changes}
    with pytest.raises(kind) as caught:
        gs.trial(**given)
    assert str(caught.value) == message


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 64) for _ in range(6)])
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        output: Tensor = self.head(x)
        return output


def test_what_a_model_cannot_take_says_why() -> None:
    found = tried(Functional(), *ALL, "homoeopathy")
    reasons = {code: one.reason for code, one in found.not_applicable.items()}
    assert reasons == {
        "change_activation": "6 of 6 activation functions are called without a module of their own between the layers: "
        "there is nothing to swap",
        "add_skips": "no two neighbouring blocks of a Sequential keep the shape of what goes through them",
        "shallower": "no two neighbouring blocks of a Sequential keep the shape of what goes through them",
        "lower_learning_rate": "the optimizer is not known: give optimizer=, the one that trains the model",
        "raise_learning_rate": "the optimizer is not known: give optimizer=, the one that trains the model",
        "clip_gradients": "the optimizer is not known: give optimizer=, the one that trains the model",
        "homoeopathy": f"no remedy 'homoeopathy'; there are: {', '.join(ALL)}",
        **{code: reasons[code] for code in ("scale_loss",) if code in reasons},
    }
    assert {one.code for one in found} >= {"critical_init", "centered_lsuv", "normalize"}
    assert "Not tried:\n   change_activation: 6 of 6" in str(found)


def test_a_copy_that_fails_is_reported() -> None:
    class Peeks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten, self.first, self.phi = nn.Flatten(), nn.Linear(64, 64), nn.Sigmoid()
            self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.phi(self.first(self.flatten(x)))
            output: Tensor = self.head(self.phi(self.second(x))) * self.first.in_features
            return output

    found = tried(Peeks(), "normalize", "critical_init")
    assert [one.code for one in found] == ["critical_init"]
    reason = "the treated copy fails: AttributeError: 'Sequential' object has no attribute 'in_features'"
    assert {code: one.reason for code, one in found.not_applicable.items()} == {
        "normalize (batch)": reason,
        "normalize (layer)": reason,
    }


def test_the_output_is_no_activation_to_swap() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 1), nn.Sigmoid())
    found = gs.trial(finding("change_activation"), model, X, (Y[:, None] > 4).float(), F.binary_cross_entropy, steps=0)
    for one in found:
        assert isinstance(one.model, nn.Sequential)
        assert type(one.model[4]) is nn.Sigmoid
        assert type(one.model[2]) is {"relu": nn.ReLU, "tanh": nn.Tanh}[one.treatment.variant]


def test_learning_rates_are_judged_by_the_loss() -> None:
    model = gs.lab.mlp(3, 64, "relu", "kaiming", seed=0)
    hot = torch.optim.SGD(model.parameters(), lr=10.0)
    found = gs.trial(finding(*ALL[7:], code="stalled"), model, X, Y, optimizer=hot, steps=10)
    assert found.goal == "loss"
    by_name = {one.remedy: one for one in found}
    assert {name: one.treatment.what for name, one in by_name.items() if name != "clip_gradients"} == {
        "lower_learning_rate (1/10)": "learning rate from 10 to 1",
        "lower_learning_rate (1/100)": "learning rate from 10 to 0.1",
        "raise_learning_rate (x10)": "learning rate from 10 to 100",
    }
    assert by_name["lower_learning_rate (1/100)"].loss_after < min(
        found.loss_before, by_name["raise_learning_rate (x10)"].loss_after
    )
    assert found.best.code in ("lower_learning_rate", "clip_gradients")
    assert found.best.loss_after < 2.0
    assert hot.param_groups[0]["lr"] == 10.0


def test_the_gradient_is_clipped_to_the_median_layer() -> None:
    model = gs.lab.mlp(6, 64, "relu", weight_var=8.0, seed=0)
    found = tried(model, "clip_gradients", optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    F.cross_entropy(model(X), Y).backward()  # type: ignore[no-untyped-call]
    layers = [one for one in model.modules() if isinstance(one, nn.Linear)]
    norms = torch.stack([one.weight.grad.norm() for one in layers if one.weight.grad is not None])
    assert found.best.treatment.clip == pytest.approx(float(norms.quantile(0.5)) * math.sqrt(7), rel=1e-5)


def test_a_scaled_loss_saves_a_gradient_from_underflow() -> None:
    model = gs.lab.mlp(6, 64, "sigmoid", "xavier", seed=0)
    found = gs.trial(
        finding("scale_loss", code="underflow"), model, X, Y, lambda out, y: F.cross_entropy(out, y) * 1e-4, steps=0
    )
    assert found.goal == "underflow"
    assert found.before.shares["fp16_underflow_fraction"] > 0.9
    assert found.best.profile.shares["fp16_underflow_fraction"] < 0.5
    assert found.best.treatment.loss_scale >= 2.0**16
    # It is the same gradient, larger by the scale.
    measured = found.best.profile.values["output_grad_norm"]
    assert measured.to_numpy() == pytest.approx(found.before.values["output_grad_norm"].to_numpy(), rel=1e-4)


def test_nothing_to_scale() -> None:
    found = tried(gs.lab.mlp(2, 8, "tanh", "xavier", seed=0), "scale_loss", loss_fn=lambda out, y: out.square().sum())
    assert {code: one.reason for code, one in found.not_applicable.items()} == {
        "scale_loss": "no gradient underflows here, and a scale changes nothing between layers"
    }


def test_the_findings_of_a_live_run_are_tried_too() -> None:
    one = gs.preflight(sigmoid(), X, Y)[0]
    assert gs.trial(replace(one, remedies=("centered_lsuv",)), sigmoid(), X, Y, steps=0).best.recovered > 0.9


@pytest.mark.parametrize(
    "name",
    [
        "accumulation",
        "batch norm",
        "bfloat16",
        "CalledTwice",
        "checkpoint",
        "complex",
        "frozen parts",
        "infinite",
        "InPlaceSkip",
        "NormInPlace",
        "OddOutputs",
        "tied weights",
    ],
)
def test_odd_models_are_tried_or_say_why_not(name: str) -> None:
    one = MODELS[name]()
    x, y = one.batch
    with untouched(one.model, x, y), warnings.catch_warnings():
        # A complex output cast to real, a loss that has run backward already: torch and the probe say so.
        warnings.simplefilter("ignore")
        found = gs.trial(finding(*ALL), one.model, x, y, one.loss_fn, optimizer=one.optimizer, steps=1)
    reported = {tried.code for tried in found} | {key.partition(" ")[0] for key in found.not_applicable}
    assert reported == set(ALL)
    assert len(found) > 0
    assert found.frame()["depth"].dtype == "int64"
    assert str(found)


def test_frozen_layers_are_not_drawn_anew() -> None:
    model = sigmoid()
    for parameter in list(model.parameters())[:4]:
        parameter.requires_grad_(False)
    found = tried(model, "critical_init", "centered_lsuv")
    assert {one.reason for one in found.not_applicable.values()} == {"2 of 9 layers are frozen, not to be drawn anew"}


def test_a_remedy_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def wider_slope(patient: Patient) -> list[Treatment]:
        twin = patient.copy()
        with torch.no_grad():
            for layer in twin.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.mul_(4)
        return [Treatment("weights four times as large", twin)]

    monkeypatch.setitem(REMEDIES, "wider_slope", wider_slope)
    found = tried(sigmoid(), "wider_slope")
    assert found.best.code == "wider_slope"
    assert found.best.recovered > 0.5
