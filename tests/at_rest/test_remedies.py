"""Remedies one by one: what they do, what a model cannot take and why, and remedies of one's own."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from patients import ALL, X, Y, convolutions, finding, sigmoid, tried
from torch import Tensor, nn
from trainings import MODELS
from untouched import untouched

import gradscope as gs
from gradscope.at_rest import REMEDIES, Patient, Treatment
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError

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
        "scale_branches": "no paths meet in this model: there is no skip",
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
    found = gs.trial(finding(*ALL[8:], code="stalled"), model, X, Y, optimizer=hot, steps=10)
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


def test_a_model_in_half_precision_is_scaled_or_given_a_wider_range() -> None:
    model = gs.lab.mlp(8, 64, "sigmoid", "xavier", seed=0).half()
    found = gs.trial(finding("scale_loss", code="underflow"), model, X.half(), Y, steps=0)
    assert found.before.shares["output_grad_zero_fraction"] > 0.9
    by_name = {one.remedy: one for one in found}
    assert set(by_name) == {"scale_loss", "scale_loss (bfloat16)"}
    assert by_name["scale_loss"].profile.shares["output_grad_zero_fraction"] < 0.1
    assert by_name["scale_loss (bfloat16)"].profile.shares["output_grad_zero_fraction"] == 0.0
    assert min(one.recovered for one in found) > 0.9
    assert next(model.parameters()).dtype == torch.float16


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


def test_branches_are_scaled_so_that_a_residual_net_stops_exploding() -> None:
    model = gs.lab.mlp(24, 64, "relu", "kaiming", residual=True, seed=0)
    found = tried(model, "scale_branches")
    assert found.best.treatment.what == "what 23 blocks add to their skips multiplied by 0.209"
    # From the root of 2 a block to that of 1 + 1/n: 1.65 in all, 0.22 decades; a single net scatters around it.
    assert found.before.decay.decades > 3.0
    assert found.best.profile.decay.decades == pytest.approx(0.22, abs=0.4)
    assert found.best.predicted_decades == pytest.approx(0.22, abs=0.05)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_where_a_branch_ends_in_a_normalization_its_weights_are_scaled(norm: str) -> None:
    model = gs.lab.mlp(4, 64, "relu", "kaiming", residual=True, norm=norm, seed=0)
    treated = tried(model, "scale_branches").best.model
    scales = [float(treated.get_parameter(f"hidden.{place}.norm.weight").detach().mean()) for place in range(4)]
    assert scales == pytest.approx([1.0, *[3**-0.5] * 3])
    weights = "hidden.2.linear.weight"
    assert torch.equal(treated.get_parameter(weights), model.get_parameter(weights))


def test_a_normalization_without_weights_cannot_be_scaled() -> None:
    model = gs.lab.mlp(4, 64, "relu", "kaiming", residual=True, norm="batch", seed=0)
    for place in range(4):
        model.set_submodule(f"hidden.{place}.norm", nn.BatchNorm1d(64, affine=False))
    assert {one.reason for one in tried(model, "scale_branches").not_applicable.values()} == {
        "what follows layer 'hidden.1.linear' normalizes, and has no weights to scale it by"
    }


def test_skips_and_fewer_layers_in_a_flat_chain() -> None:
    layers = [part for _ in range(10) for part in (nn.Linear(64, 64), nn.Sigmoid(), nn.Dropout(0.0))]
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))
    found = {one.code: one for one in tried(model, "add_skips", "shallower")}
    assert found["add_skips"].treatment.what == "skips around 10 blocks, each scaled by 0.316"
    assert [type(one).__name__ for one in found["add_skips"].model.children()] == ["Flatten", *["Skip"] * 10, "Linear"]
    assert found["add_skips"].recovered > 0.9
    assert found["shallower"].treatment.what == "8 blocks left out, 2 hidden layers remain"
    assert len(list(found["shallower"].model.children())) == 1 + 2 * 3 + 1


def test_a_block_of_several_layers_is_left_whole() -> None:
    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up, self.phi = nn.Linear(64, 8), nn.Linear(8, 64), nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.phi(self.up(self.phi(self.down(x))))
            return output

    model = nn.Sequential(nn.Flatten(), *[Bottleneck() for _ in range(4)], nn.Linear(64, 10))
    found = tried(model, "add_skips")
    assert found.best.treatment.what == "skips around 4 blocks, each scaled by 0.5"


def test_sequences_get_layer_normalization_and_pictures_one_group() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.phi, self.head = nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.head(self.phi(self.first(x.view(-1, 8, 8)))).mean(1)
            return output

    (of_tokens,) = tried(Tokens(), "normalize")
    assert repr(of_tokens.model.get_submodule("first.1")) == repr(nn.LayerNorm(16))
    of_pictures = {one.treatment.variant: one.model for one in tried(convolutions(), "normalize")}
    assert repr(of_pictures["layer"].get_submodule("features.0.conv.1")) == repr(nn.GroupNorm(1, 16))
    assert repr(of_pictures["batch"].get_submodule("features.0.conv.1")) == repr(nn.BatchNorm2d(16))
