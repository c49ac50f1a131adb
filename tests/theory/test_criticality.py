"""The edge of chaos, depth scales and the phase diagram."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradscope.errors import GradscopeError, InvalidValueError
from gradscope.theory import (
    ACTIVATIONS,
    critical,
    mean_field,
    phase,
    phase_diagram,
    stationary_criticality,
    trainable_depth,
)


@pytest.mark.parametrize(
    ("bias_var", "weight_var"),
    [(1e-4, 1.086026), (1e-3, 1.189190), (0.01, 1.424205), (0.05, 1.760955), (0.1, 1.986073), (0.3, 2.505127)],
)
def test_the_edge_of_chaos_of_tanh(bias_var: float, weight_var: float) -> None:
    assert critical("tanh", bias_var) == pytest.approx(weight_var, abs=1e-6)


def test_the_edge_of_chaos_of_others() -> None:
    assert critical("softsign", 0.05) == pytest.approx(3.141247, abs=1e-6)
    assert critical("sigmoid") == pytest.approx(103.0076, abs=1e-4)
    assert critical("relu") == critical("relu", 0.3) == 2.0
    assert critical("linear") == 1.0
    assert critical("leaky_relu") == pytest.approx(2 / 1.0001, rel=1e-14)
    assert critical("tanh") == critical("elu") == critical("softsign") == 1.0
    slopes = 1.0507009873554805**2 * (1 + 1.6732632423543772**2)
    assert critical("selu") == pytest.approx(2 / slopes, rel=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "softsign", "elu", "selu", "sigmoid"])
@pytest.mark.parametrize("bias_var", [0.02, 0.7])
def test_at_the_edge_chi_is_one(activation: str, bias_var: float) -> None:
    found = mean_field(activation, critical(activation, bias_var), bias_var)
    assert found.chi == pytest.approx(1.0, abs=1e-9)
    assert found.c == 1.0
    assert found.xi_c == found.xi_grad == math.inf


def test_gradients_and_signal_keep_their_size_at_once() -> None:
    gelu, silu = stationary_criticality("gelu"), stationary_criticality("silu")
    assert gelu.q == pytest.approx((3 + math.sqrt(17)) / 2, rel=1e-9)
    assert (gelu.weight_var, gelu.bias_var) == pytest.approx((1.98305826, 0.17292239), abs=1e-8)
    assert silu.q == pytest.approx(14.32017, abs=1e-5)
    assert (silu.weight_var, silu.bias_var) == pytest.approx((1.98800468, 0.55514317), abs=1e-8)
    assert stationary_criticality("tanh").weight_var == 1.0
    assert stationary_criticality("relu").weight_var == 2.0
    with pytest.raises(GradscopeError) as error:
        stationary_criticality("sigmoid")
    assert str(error.value) == "sigmoid has no point at which both chi and the slope of the length map are 1"


def test_without_a_solution_critical_is_an_error() -> None:
    with pytest.raises(GradscopeError) as error:
        critical("gelu")
    assert str(error.value) == (
        "no weight variance makes gelu critical at bias_var = 0: at 4 chi = 1 at the fixed point q = 0, but that is "
        "unstable; from bias_var = 0.172922 on there is a stable one (see stationary_criticality)"
    )
    with pytest.raises(GradscopeError) as error:
        critical("silu", 0.2)
    assert "at 2.18669 chi = 1 at the fixed point q = 3.33674, but that is unstable" in str(error.value)
    with pytest.raises(GradscopeError) as error:
        critical(lambda u: 0.0 * u)
    assert str(error.value) == "no weight variance makes chi = 1 for <lambda>, whose slope is 0 everywhere"


def test_above_the_stationary_bias_gelu_has_a_critical_point() -> None:
    weight_var = critical("gelu", 0.3)
    found = mean_field("gelu", weight_var, 0.3, q0=20.0)
    assert found.chi == pytest.approx(1.0, abs=1e-6)


def test_depth_scale_and_phase() -> None:
    assert trainable_depth(mean_field("sigmoid", 1.0)) == pytest.approx(6 * 0.3463, abs=1e-3)
    assert trainable_depth(mean_field("tanh", critical("tanh", 0.05), 0.05)) == math.inf
    assert math.isnan(trainable_depth(mean_field("relu", 2.0)))
    assert [phase(one) for one in (0.9, 0.9995, 1.1, math.nan)] == ["ordered", "critical", "chaotic", "unknown"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_diagram_holds_the_fixed_points(activation: str) -> None:
    diagram = phase_diagram(activation, np.linspace(0.1, 6, 60), np.linspace(0, 0.5, 60))
    assert diagram.chi.shape == diagram.q.shape == (60, 60)
    for row in (1, 30):
        for column in (0, 9, 21, 59):
            found = mean_field(activation, diagram.weight_var[column], diagram.bias_var[row])
            if math.isnan(found.q):
                assert diagram.q[row, column] == math.inf
                continue
            assert diagram.q[row, column] == pytest.approx(found.q, rel=1e-5)
            assert diagram.chi[row, column] == pytest.approx(found.chi, rel=1e-5)


def test_the_diagram_where_there_is_no_fixed_point() -> None:
    found = phase_diagram("tanh", [0.5, 1.0], [0.0])
    assert found.q.tolist() == [[0.0, 0.0]]
    assert found.chi == pytest.approx(np.array([[0.5, 1.0]]), abs=1e-9)
    kept = phase_diagram("relu", [1.0, 2.0, 3.0], [0.0], q0=0.7)
    assert kept.q.tolist() == [[0.0, 0.7, math.inf]]
    assert kept.chi == pytest.approx(np.array([[0.5, 1.0, 1.5]]))
    with pytest.raises(InvalidValueError, match=r"^bias_var is a list of finite numbers not below 0, not \[-1.0\]$"):
        phase_diagram("tanh", [1.0], [-1.0])


@pytest.mark.parametrize("activation", ["tanh", "elu", "selu", "softsign"])
def test_a_bias_next_to_nothing_is_next_to_none(activation: str) -> None:
    none, *least = (critical(activation, bias_var=one) for one in (0.0, 1e-18, 1e-13, 1e-10))
    assert least == sorted(least)
    assert least[0] == pytest.approx(none, rel=1e-3)


@pytest.mark.parametrize("bias_var", [1e-18, 1e-13, 1e-9, 1e-4])
def test_gelu_is_unstable_whatever_the_bias_below(bias_var: float) -> None:
    with pytest.raises(GradscopeError, match="that is unstable"):
        critical("gelu", bias_var=bias_var)
