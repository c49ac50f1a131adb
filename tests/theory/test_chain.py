"""Theory of a run, from what it recorded."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gradscope.errors import InvalidValueError
from gradscope.spec import LayerSpec
from gradscope.theory import Stage, Start, of_layers, propagate


def specs(depth: int, activation: str = "tanh", width: int = 50) -> list[LayerSpec]:
    return [
        LayerSpec(
            id=7 - at,
            layer=f"fc{at}",
            call=1,
            depth=at + 1,
            parents=(8 - at,) if at else (),
            activation=activation if at < depth - 1 else "identity",
            fan_in=width,
            fan_out=width,
        )
        for at in range(depth)
    ]


def test_a_run_is_predicted_like_its_network() -> None:
    frame = of_layers(specs(4), dict.fromkeys(range(1, 5), 0.2), 1.5, bias_rms={2: 0.3}, sample_spread=0.9, step=20)
    stages = [Stage(2.0, 0.09 * (at == 1), "tanh", fan_in=50, fan_out=50) for at in range(4)]
    levels = propagate(stages, Start(2.25, 1 - 0.36))
    assert set(frame["step"]) == {20}
    assert set(frame["source"]) == {"theory"}
    assert frame.attrs["relative"] == ("output_grad_norm", "weight_grad_norm")
    for metric, values in {
        "output_rms": [math.sqrt(one.q) for one in levels],
        "sample_spread": [math.sqrt(one.q * (1 - one.c)) for one in levels],
        "output_grad_norm": [math.exp(one.typical) for one in levels],
    }.items():
        rows = frame[frame["metric"] == metric]
        assert rows["depth"].tolist() == [1, 2, 3, 4]
        assert rows["layer"].tolist() == ["fc0", "fc1", "fc2", "fc3"]
        assert rows["value"].tolist() == pytest.approx(values)
        assert set(rows["status"]) == {""}
    gradient = frame[frame["metric"] == "output_grad_norm"]
    assert gradient["low"].tolist() == pytest.approx([math.exp(one.low) for one in levels])
    assert gradient["value"].iloc[-1] == 1.0
    weights = frame[frame["metric"] == "weight_grad_norm"].set_index("depth")
    assert math.isnan(weights["value"][1])
    assert weights["status"][1] == "what enters the first layer is not in the run"
    assert weights["value"][4] == pytest.approx(1.0)


def test_without_a_spread_there_is_none() -> None:
    frame = of_layers(specs(3), dict.fromkeys(range(1, 4), 0.2), 1.0)
    assert "sample_spread" not in set(frame["metric"])


def test_sensitive_networks_are_marked() -> None:
    frame = of_layers(specs(30, "gelu"), dict.fromkeys(range(1, 31), 0.2), 1.4)
    status = frame[frame["metric"] == "output_grad_norm"].set_index("depth")["status"]
    assert status[1] == "approximate: sensitive: noise of the finite width grows from layer to layer"
    assert status[30] == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kind": "Conv2d"}, "a run does not hold the geometry of Conv2d 'fc1': predict from the model"),
        ({"call": 2}, "layer 'fc1' is called several times, and theory takes weights as independent"),
        ({"parents": (7, 5)}, "layer 'fc1' does not follow the one before it alone: predict from the model"),
        ({"resolved": False}, "what lies in front of layer 'fc1' was not understood"),
        ({"fan_in": 0}, "the run does not hold the size of the weights of layer 'fc1'"),
    ],
)
def test_what_is_no_chain_says_why(changes: dict[str, object], why: str) -> None:
    layers = specs(3)
    layers[1] = replace(layers[1], **changes)  # type: ignore[arg-type]
    frame = of_layers(layers, dict.fromkeys(range(1, 4), 0.2), 1.0)
    assert frame["value"].isna().all()
    assert set(frame["status"]) == {why}
    assert len(frame) == 15


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"activation": "?"}, "the activation function of layer 'fc1' was not recognised"),
        ({"norm": "group"}, "theory knows no normalization 'group', which follows layer 'fc1'"),
        (
            {"activation": "hardtanh"},
            "theory of runs knows no activation function 'hardtanh', which follows layer 'fc1'",
        ),
    ],
)
def test_behind_what_is_unknown_there_are_no_values(changes: dict[str, object], why: str) -> None:
    layers = specs(4)
    layers[1] = replace(layers[1], **changes)  # type: ignore[arg-type]
    frame = of_layers(layers, dict.fromkeys(range(1, 5), 0.2), 1.0)
    rms = frame[frame["metric"] == "output_rms"].set_index("depth")
    assert rms["value"].isna().tolist() == [False, False, True, True]
    assert rms["status"][3] == why
    gradient = frame[frame["metric"] == "output_grad_norm"].set_index("depth")
    assert gradient["value"].isna().tolist() == [True, True, True, False]
    assert gradient["status"][1] == f"the gradient comes through layers of which theory says nothing: {why}"


def test_weights_that_were_not_recorded() -> None:
    frame = of_layers(specs(3), {1: 0.2, 3: 0.2}, 1.0)
    assert set(frame["status"]) == {"the run does not hold the size of the weights of layer 'fc1'"}


def test_an_output_that_was_not_recorded() -> None:
    for missing in (math.nan, math.inf):
        frame = of_layers(specs(3), dict.fromkeys(range(1, 4), 0.2), missing)
        assert set(frame["status"]) == {"the run does not hold a finite output_rms of its first layer, 'fc0'"}


def test_wrong_measurements_are_named() -> None:
    with pytest.raises(InvalidValueError, match=r"^theory of a run needs at least one layer$"):
        of_layers([], {}, 1.0)
    with pytest.raises(InvalidValueError, match=r"^output_rms and sample_spread of the first layer are not below 0$"):
        of_layers(specs(2), {}, -1.0)
