"""The fixed point of signal propagation, against tabulated values and closed forms."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
from scipy.special import erf

from gradscope.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.theory import ACTIVATIONS, fixed_points, mean_field

# activation, weight_var, bias_var, q, chi, c, xi_q, xi_c, xi_grad
TABLE = [
    ("tanh", 1.69, 0.09, 0.607047, 0.939807, 1.0, 1.3377, 16.108, 16.108),
    ("tanh", 6.25, 0.09, 4.079124, 1.585225, 0.122104, 0.6883, 5.1089, -2.1705),
    ("tanh", 16.0, 0.09, 12.604149, 2.367261, 0.029696, 0.4903, 3.6394, -1.1605),
    ("tanh", 1.0, 0.05, 0.193593, 0.759032, 1.0, 1.7476, 3.6270, 3.6270),
    ("tanh", 1.5, 0.05, 0.418037, 0.938636, 1.0, 1.6828, 15.791, 15.791),
    ("tanh", 2.5, 0.05, 1.063958, 1.133516, 0.446804, 1.1799, 11.796, -7.9793),
    ("tanh", 4.0, 0.05, 2.195494, 1.342402, 0.165065, 0.8733, 6.9803, -3.3960),
    ("tanh", 2.0, 0.0, 0.617965, 1.105529, 0.0, 1.6856, 21.724, -9.9677),
    ("tanh", 25 / 9, 0.0, 1.178480, 1.209831, 0.0, 1.1878, 12.118, -5.2499),
    ("sigmoid", 1.0, 0.0, 0.264687, 0.055721, 1.0, 0.3327, 0.3463, 0.3463),
    ("sigmoid", 2.0, 0.0, 0.555290, 0.100977, 1.0, None, None, None),
    ("sigmoid", 16.0, 0.0, 5.855404, 0.398879, 1.0, 0.4797, 1.0880, 1.0880),
    ("sigmoid", 100.0, 0.0, 44.20744, 0.985806, 1.0, 0.3578, 69.951, 69.951),
    ("selu", 1.0, 0.0, 1.0, 1.071575, 0.0, 4.0804, 33.604, -14.466),
    ("selu", 9 / 16, 0.0, 0.02303, 1.00367, 0.992014, None, None, None),
    ("softsign", 2.0, 0.0, 0.079479, 1.042351, 0.0, 3.1011, 61.108, -24.109),
    ("relu", 1.0, 0.05, 0.1, 0.5, 1.0, 1.4427, 1.4427, 1.4427),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]:.3g}-{row[2]}")
def test_a_fixed_point_is_the_tabulated_one(row: tuple[str, float, float, float]) -> None:
    activation, weight_var, bias_var, *expected = row
    found = mean_field(activation, weight_var, bias_var)
    assert (found.q, found.chi, found.c) == pytest.approx(tuple(expected[:3]), abs=1e-5)
    for value, known in zip((found.xi_q, found.xi_c, found.xi_grad), expected[3:], strict=True):
        # Depth scales are tabulated to five digits.
        assert known is None or value == pytest.approx(known, abs=5.1e-4 if abs(known) > 10 else 5.1e-5)
    assert found.status == ""


@pytest.mark.parametrize("weight_var", [0.5, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("bias_var", [0.01, 1.0])
def test_the_error_function_has_closed_forms(weight_var: float, bias_var: float) -> None:
    found = mean_field(erf, weight_var, bias_var)
    q = found.q
    assert q == pytest.approx(weight_var * 2 / math.pi * math.asin(2 * q / (1 + 2 * q)) + bias_var, rel=1e-9)
    assert found.chi == pytest.approx(weight_var * 4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-9)
    part = weight_var * 2 / math.pi * math.asin(2 * q * found.c / (1 + 2 * q)) + bias_var
    assert found.c == pytest.approx(part / q, rel=1e-9)
    assert (found.c < 1.0) == (found.chi > 1.0)


@pytest.mark.parametrize(("weight_var", "bias_var", "chi"), [(0.2, 0.3, 0.1), (1.0, 2.0, 0.5), (1.999, 1e-4, 0.9995)])
def test_relu_with_a_bias_has_a_closed_form(weight_var: float, bias_var: float, chi: float) -> None:
    found = mean_field("relu", weight_var, bias_var)
    assert found.q == pytest.approx(bias_var / (1 - chi), rel=1e-12)
    assert found.chi == pytest.approx(chi, rel=1e-12)
    assert found.xi_q == found.xi_grad == found.xi_c == pytest.approx(-1 / math.log(chi), rel=1e-9)


def test_sine_has_closed_forms() -> None:
    found = mean_field(np.sin, 2.0, 0.1, derivative=np.cos, kinks=())
    assert found.q == pytest.approx(2.0 * (1 - math.exp(-2 * found.q)) / 2 + 0.1, rel=1e-10)
    assert found.chi == pytest.approx(2.0 * (1 + math.exp(-2 * found.q)) / 2, rel=1e-10)


def test_a_function_given_is_like_its_name() -> None:
    for name, given in (("tanh", np.tanh), ("relu", lambda u: np.maximum(u, 0.0))):
        by_name, by_function = mean_field(name, 1.3, 0.07), mean_field(given, 1.3, 0.07)
        assert by_function.q == pytest.approx(by_name.q, rel=1e-9)
        assert by_function.chi == pytest.approx(by_name.chi, rel=1e-9)
        assert by_function.c == pytest.approx(by_name.c, rel=1e-6)


def test_kinks_away_from_zero_are_found() -> None:
    def hard(u: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip(u, -0.7, 1.3))

    numerical, exact = mean_field(hard, 2.0, 0.1), mean_field(hard, 2.0, 0.1, derivative=_hard_slope, kinks=(-0.7, 1.3))
    inside = erf(1.3 / math.sqrt(2 * exact.q)) + erf(0.7 / math.sqrt(2 * exact.q))
    assert exact.chi == pytest.approx(2.0 * inside / 2, rel=1e-12)
    assert numerical.chi == pytest.approx(exact.chi, rel=1e-9)
    assert numerical.q == pytest.approx(exact.q, rel=1e-9)


def _hard_slope(u: np.ndarray) -> np.ndarray:
    inside: np.ndarray = ((u > -0.7) & (u < 1.3)).astype(np.float64)
    return inside


def test_gelu_has_two_fixed_points() -> None:
    low, high = fixed_points("gelu", 2.0, 0.1)
    assert (low.kind, high.kind) == ("stable", "unstable")
    assert low.q == pytest.approx(0.340830, abs=1e-6)
    assert high.q == pytest.approx(11.297871, abs=1e-6)
    found = mean_field("gelu", 2.0, 0.1)
    assert found.q == low.q
    assert found.status == ("2 fixed points: 0.34083 (stable), 11.2979 (unstable); reached from q0 = 1: 0.34083")
    assert mean_field("gelu", 2.0, 0.1, q0=10.0).q == low.q
    there = mean_field("gelu", 2.0, 0.1, q0=11.1)
    assert there.q == high.q
    assert there.xi_q < 0
    assert there.status.endswith("reached from q0 = 11.1: 11.2979; this one is unstable")
    beyond = mean_field("gelu", 2.0, 0.1, q0=20.0)
    assert math.isnan(beyond.q)
    assert beyond.status == (
        "no fixed point: q grows without bound from q0 = 20; fixed points: 0.34083 (stable), 11.2979 (unstable)"
    )


@pytest.mark.parametrize(
    ("activation", "weight_var", "bias_var", "chi", "status"),
    [
        ("linear", 1.0, 0.0, 1.0, "every q is a fixed point: q keeps its value from layer to layer"),
        ("relu", 2.0, 0.0, 1.0, "every q is a fixed point: q keeps its value from layer to layer"),
        ("relu", 1.0, 0.0, 0.5, "no fixed point above 0: q falls towards 0 from q0 = 1, where chi = 0.5"),
        ("relu", 3.0, 0.1, 1.5, "no fixed point: q grows without bound from q0 = 1"),
        ("identity", 1.0, 0.1, 1.0, "no fixed point: q grows without bound from q0 = 1"),
        (
            "tanh",
            1.0,
            0.0,
            None,
            "no fixed point above 0: q falls towards 0 from q0 = 1, ever more slowly, where chi = 1",
        ),
        ("gelu", 1.0, 0.0, None, "no fixed point above 0: q falls towards 0 from q0 = 1, where chi = 0.25"),
        ("gelu", 2.0, 0.0, None, "no fixed point above 0: q falls towards 0 from q0 = 1, where chi = 0.5"),
        ("silu", 2.0, 0.0, None, "no fixed point above 0: q falls towards 0 from q0 = 1, where chi = 0.5"),
        ("selu", 2.0, 0.0, None, "no fixed point: q grows without bound from q0 = 1"),
        ("elu", 2.0, 0.0, None, "no fixed point: q grows without bound from q0 = 1"),
    ],
)
def test_without_a_fixed_point_the_status_says_why(
    activation: str, weight_var: float, bias_var: float, chi: float | None, status: str
) -> None:
    found = mean_field(activation, weight_var, bias_var)
    assert found.status == status
    assert all(math.isnan(one) for one in (found.q, found.c, found.xi_q, found.xi_c))
    assert math.isnan(found.chi) if chi is None else found.chi == pytest.approx(chi, rel=1e-12)


def test_close_to_the_edge_the_fixed_point_is_still_exact() -> None:
    found = mean_field("tanh", 1.001)
    # q = (w - 1) / 2 to first order, and layers of relaxation 1 / (w - 1): iteration would need thousands.
    assert found.q == pytest.approx(5e-4, rel=1e-3)
    assert found.xi_q == pytest.approx(1000, rel=2e-3)


def test_a_map_that_does_not_rise_is_iterated() -> None:
    found = mean_field(lambda u: np.exp(-(u**2)), 1.0, 0.0)
    assert found.q == pytest.approx(1 / math.sqrt(1 + 4 * found.q), rel=1e-6)


@pytest.mark.parametrize(
    ("activation", "chi"),
    [
        ("relu", 1.0),
        ("identity", 1.0),
        ("tanh", 1.177807),
        ("sigmoid", 0.152827),
        ("gelu", 1.072032),
        ("silu", 1.066634),
        ("selu", 1.071575),
        ("elu", 1.035905),
        ("softsign", 1.244010),
    ],
)
def test_layer_norm_makes_chi_independent_of_the_weights(activation: str, chi: float) -> None:
    for weight_var in (0.01, 2.0):
        found = mean_field(activation, weight_var, norm="layer")
        assert found.chi == pytest.approx(chi, abs=1e-6)
        assert found.xi_q == 0.0


@pytest.mark.parametrize(
    ("activation", "chi"),
    [
        ("relu", math.pi / (math.pi - 1)),
        ("identity", 1.0),
        ("tanh", 1.177807),
        ("sigmoid", 1.033592),
        ("gelu", 1.318845),
        ("silu", 1.212081),
        ("leaky_relu", 1.453371),
    ],
)
def test_batch_norm_explodes_whatever_the_weights(activation: str, chi: float) -> None:
    for weight_var, bias_var in ((0.01, 0.0), (2.0, 0.3)):
        assert mean_field(activation, weight_var, bias_var, norm="batch").chi == pytest.approx(chi, abs=1e-6)


def test_a_norm_over_nothing_says_so() -> None:
    found = mean_field("tanh", 0.0, 0.1, norm="batch")
    assert math.isnan(found.chi)
    assert found.status == "nothing varies that a normalization could divide by"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_has_an_answer(activation: str) -> None:
    found = mean_field(activation, 0.7, 0.2)
    assert found.q > 0.2
    assert 0 < found.chi < 1
    assert found.c == 1.0
    assert found.xi_c == found.xi_grad > 0


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UnknownNameError, match=r"^no activation 'tan'; there are: .* \(did you mean 'tanh'\?\)$"):
        mean_field("tan", 1.0)
    with pytest.raises(UnknownNameError, match=r"^no norm 'group'; there are: none, batch, layer$"):
        mean_field("tanh", 1.0, norm="group")
    with pytest.raises(InvalidValueError, match=r"^weight_var is a finite number not below 0, not -1.0$"):
        mean_field("tanh", -1.0)
    with pytest.raises(InvalidValueError, match=r"^bias_var is a finite number not below 0, not nan$"):
        mean_field("tanh", 1.0, math.nan)
    with pytest.raises(InvalidValueError, match=r"^q0 is a number above 0, not 0.0$"):
        mean_field("tanh", 1.0, q0=0.0)
    with pytest.raises(InvalidTypeError, match=r"^activation is a name or a function on arrays, not 3; names: ident"):
        mean_field(3, 1.0)  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match=r"^activation jumps near 0; theory needs a continuous function$"):
        mean_field(np.sign, 1.0)
    with pytest.raises(InvalidValueError, match=r"^activation returns shape \(\) for an array of shape \(4097,\)$"):
        mean_field(np.mean, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"q0": "x"}, "q0 is a finite number not below 0, not 'x'"),
        ({"weight_var": np.ones(2)}, "weight_var is a finite number not below 0, not array([1., 1.])"),
        ({"weight_var": None}, "weight_var is a finite number not below 0, not None"),
    ],
)
def test_what_is_no_number(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{re.escape(message)}$"):
        mean_field("tanh", **{"weight_var": 1.0, **arguments})


def test_a_function_of_one_number() -> None:
    with pytest.raises(InvalidTypeError, match=r"^activation is a function on numpy arrays, but tanh raised TypeError"):
        mean_field(math.tanh, 1.0)  # type: ignore[arg-type]


def test_numbers_beyond_all_doubles_are_said_without_a_warning() -> None:
    assert mean_field(np.exp, 2.0, 0.1).status == "no fixed point: q grows without bound from q0 = 1"
    assert mean_field("tanh", 1e300).status == (
        "no fixed point below 1e+12, up to which they are looked for: q grows beyond from q0 = 1"
    )
