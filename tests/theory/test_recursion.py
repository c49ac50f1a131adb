"""The layer-wise recursion, against closed forms and tabulated predictions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from known_decay import DECAY

from gradscope.errors import InvalidValueError, UnknownNameError
from gradscope.theory import ACTIVATIONS, Level, Residual, Stage, Start, mean_field, propagate

WIDTH, DEPTH = 512, 30
COLUMNS = [(1.0, 0.0), (2.0, 0.0), (1 / 3, 1 / 3 / WIDTH), (WIDTH * 1e-4, 0.0), (25 / 9, 0.0)]
# Factors per layer of |dL/dz| are in known_decay; of |dL/dW|, layers 2 to 30:
WEIGHT_RATES = {
    "relu": (1.0000, 1.0000, 0.4549, 1.0000, None),
    "identity": (1.0000, None, None, None, None),
    "tanh": (1.0030, 1.0540, 0.6330, 1.0000, 1.1018),
    "sigmoid": (0.2364, 0.3184, 0.1415, 0.0564, None),
    "gelu": (1.0028, 1.0178, 0.3250, None, None),
    "selu": (1.0352, None, None, None, None),
}


def chain(activation: str, weight_var: float, bias_var: float = 0.0, depth: int = DEPTH) -> tuple[Level, ...]:
    stage = Stage(weight_var, bias_var, activation, fan_in=WIDTH, fan_out=WIDTH)
    return propagate([stage] * depth, Start(weight_var + bias_var))


def rate(levels: Sequence[Level], first: int = 0, last: int = -1) -> float:
    steps = (last if last >= 0 else len(levels) + last) - first
    return math.exp((levels[first].log_gradient - levels[last].log_gradient) / steps)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_error_signal_of_a_chain(activation: str) -> None:
    for (weight_var, bias_var), expected in zip(COLUMNS, DECAY[activation], strict=True):
        assert rate(chain(activation, weight_var, bias_var)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("activation", WEIGHT_RATES)
def test_the_weight_gradient_of_a_chain(activation: str) -> None:
    for (weight_var, bias_var), expected in zip(COLUMNS, WEIGHT_RATES[activation], strict=True):
        levels = chain(activation, weight_var, bias_var)
        found = math.exp((levels[1].log_weight_gradient - levels[-1].log_weight_gradient) / (DEPTH - 2))
        assert expected is None or found == pytest.approx(expected, abs=1e-4)
        assert math.isnan(levels[0].log_weight_gradient)


def test_widths_do_not_change_the_norm() -> None:
    widths = [30, 500, 20, 70]
    stages = [Stage(2.0, 0.0, "relu", fan_in=a, fan_out=b) for a, b in zip([10, *widths], widths, strict=False)]
    assert [one.log_gradient for one in propagate(stages)] == pytest.approx([0.0] * 4, abs=1e-12)


def test_correlations_of_relu_have_a_closed_form() -> None:
    levels = propagate([Stage(2.0, activation="relu")] * 31, Start(1.0, 0.0))
    known = {1: 0.318310, 2: 0.493731, 5: 0.735946, 10: 0.871536, 20: 0.948428, 30: 0.972011}
    assert {at: levels[at].c for at in known} == pytest.approx(known, abs=1e-6)
    for before, after in itertools.pairwise(levels):
        c = before.c
        assert after.c == pytest.approx((math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi, abs=1e-12)
    assert levels[10].spread == pytest.approx(math.sqrt(1 - 0.871536), abs=1e-5)


def test_a_long_chain_comes_to_the_fixed_point() -> None:
    fixed, last = mean_field("tanh", 2.5, 0.05), propagate([Stage(2.5, 0.05, "tanh")] * 200, Start(3.0, 0.9))[-2]
    assert (last.q, last.c, last.chi) == pytest.approx((fixed.q, fixed.c, fixed.chi), abs=1e-6)
    at_one = propagate([Stage(2.5, 0.05, "tanh")] * 5, Start(2 * fixed.q))
    assert [one.q for one in at_one[1:]] == pytest.approx([1.377, 1.182, 1.112, 1.084], abs=5e-4)


def test_tanh_at_the_edge_dies_away_algebraically() -> None:
    levels = propagate([Stage(1.0, activation="tanh")] * 400, Start(1.0))
    assert levels[-1].q == pytest.approx(1 / 800, rel=0.02)
    assert levels[-2].chi < 1


def test_no_depth_underflows() -> None:
    levels = propagate([Stage(1.0, activation="sigmoid")] * 600, Start(1.0))
    assert levels[0].log_gradient == pytest.approx(599 * 0.5 * math.log(mean_field("sigmoid", 1.0).chi), rel=1e-3)
    dead = propagate([Stage(0.0, 0.1, "tanh")] * 3, Start(1.0))
    assert dead[0].log_gradient == -math.inf


def test_residual_sums() -> None:
    for scale, per_block in ((1.0, math.sqrt(2)), (30**-0.5, 1.0165)):
        for branch in ((Stage(2.0),), (Stage(2.0, activation="relu"), Stage(2.0))):
            block = Residual(branch, scale, before_activation="relu")
            levels = propagate([Stage(1.0), *[block] * 30, Stage(1.0)])
            assert math.exp(levels[0].log_gradient / 30) == pytest.approx(per_block, abs=1e-4)
    linear = propagate([Stage(1.0), *[Residual((Stage(1.0),))] * 30, Stage(1.0)])
    assert math.exp(linear[0].log_gradient / 30) == pytest.approx(math.sqrt(2), rel=1e-9)


@pytest.mark.parametrize(("blocks", "log"), [(30, 2.685), (100, 5.273)])
def test_a_residual_tanh_network_explodes_slower_than_exponentially(blocks: int, log: float) -> None:
    block = Residual((Stage(1.0),), before_activation="tanh")
    assert propagate([Stage(1.0), *[block] * blocks, Stage(1.0)])[0].log_gradient == pytest.approx(log, abs=1e-3)


def test_pre_norm_blocks() -> None:
    for norm, growth in (("layer", 1.0), ("batch", 1 - 1 / math.pi)):
        block = Residual((Stage(2.0),), before_norm=norm, before_activation="relu", norm_eps=0.0)  # type: ignore[arg-type]
        levels = propagate([Stage(1.0), *[block] * 30, Stage(1.0)], Start(1.0, 0.0))
        logs = [one.log_gradient for one in levels]
        # Level 0 stands in front of all blocks; the last layer of block l in front of block l + 1.
        for at in (0, 1, 5, 10, 20, 28):
            assert math.exp(logs[at] - logs[at + 1]) == pytest.approx(math.sqrt(1 + 1 / (1 + at * growth)), rel=1e-6)


def test_a_branch_that_ends_in_an_activation() -> None:
    # x + relu(W x): the mean of what is added does not average out.
    block = Residual((Stage(2.0, activation="relu"),))
    levels = propagate([Stage(1.0), block, block, Stage(1.0)])
    first = 1.0 + 1.0
    mean = math.sqrt(2.0) / math.sqrt(2 * math.pi)
    again = first + 2 * mean * math.sqrt(2 * first) / math.sqrt(2 * math.pi) + first
    assert [one.q for one in levels] == pytest.approx([1.0, 2.0, 2 * first, again])
    assert levels[0].log_gradient == pytest.approx(math.log(2), rel=1e-9)


def test_the_law_of_units_behind_sums_is_followed() -> None:
    block = Residual((Stage(2.0, activation="relu"), Stage(2.0)), activation="relu")
    levels = propagate([Stage(1.0, activation="relu"), *[block] * 6, Stage(1.0)])
    # The same by a large sample of units alone.
    random = np.random.default_rng(0)
    stream, squares = np.maximum(random.normal(size=400_000), 0.0), []
    for _ in range(6):
        squares.append(2 * np.mean(stream**2))
        stream = np.maximum(stream + random.normal(size=stream.size) * math.sqrt(squares[-1]), 0.0)
    assert [one.q for one in levels[1:-1:2]] == pytest.approx(squares, rel=0.02)
    assert levels[-1].q == pytest.approx(np.mean(stream**2), rel=0.02)


def test_a_projected_shortcut() -> None:
    block = Residual((Stage(1.0, activation="relu"), Stage(2.0)), shortcut=(Stage(0.5),))
    levels = propagate([Stage(1.0, name="stem"), block, Stage(1.0, name="head")])
    assert levels[0].chi == pytest.approx(1.5)
    assert levels[0].log_gradient == pytest.approx(0.5 * math.log(1.0 + 0.5))
    assert levels[-1].q == pytest.approx(1.0 + 0.5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
def test_norms_in_a_chain(activation: str) -> None:
    for norm, start in (("layer", Start(1.0)), ("batch", Start(1.0, 0.0))):
        stage = Stage(2.0, activation=activation, norm=norm, norm_eps=0.0)  # type: ignore[arg-type]
        levels = propagate([stage] * 30, start)
        assert levels[10].chi == pytest.approx(mean_field(activation, 2.0, norm=norm).chi, rel=1e-9)
        assert levels[10].status == ""


def test_batch_norm_without_a_known_correlation_says_what_it_assumes() -> None:
    levels = propagate([Stage(2.0, activation="relu", norm="batch")] * 3)
    assert levels[0].status == ""
    assert levels[1].status == (
        "approximate: samples are taken to be uncorrelated, since the start says nothing of their correlation"
    )


def test_dropout_adds_to_signal_and_gradient() -> None:
    levels = propagate([Stage(1.0, dropout=0.2)] * 2, Start(1.0, 0.5))
    assert (levels[1].q, levels[1].c, levels[0].chi) == pytest.approx((1.25, 0.4, 1.25))


def test_where_theory_ends_the_status_says_so() -> None:
    stages = [Stage(1.0), Stage(1.0, activation="tanh", why_not_behind="attention"), Stage(1.0, activation="relu")]
    levels = propagate([*stages, Stage(2.0)])
    assert [math.isnan(one.q) for one in levels] == [False, False, True, True]
    assert levels[2].log_gradient == pytest.approx(0.0, abs=1e-12)
    assert [one.status for one in levels] == [
        "the gradient comes through layers of which theory says nothing: attention",
        "the gradient comes through layers of which theory says nothing: attention",
        "attention",
        "attention",
    ]
    lost = propagate([Stage(1.0), Stage(1.0, why_not="a layer of its own"), Stage(1.0)])
    assert [one.status for one in lost[1:]] == ["a layer of its own"] * 2


def test_wrong_networks_are_named() -> None:
    with pytest.raises(InvalidValueError, match=r"^a network for theory needs at least one stage$"):
        propagate([])
    with pytest.raises(UnknownNameError, match=r"^no activation 'swish'; there are: "):
        propagate([Stage(1.0, activation="swish")])
    with pytest.raises(InvalidValueError, match=r"^q of the start is not below 0 anywhere, not -1.0$"):
        propagate([Stage(1.0)], Start(-1.0))
