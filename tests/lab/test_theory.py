"""Decay of the laboratory's networks against mean-field theory: width 512, 30 layers, float64, three seeds.

Predictions are the layer-wise recursion of the length map and chi (Poole et al. 2016; Schoenholz et al. 2017).
Simulation and prediction may differ by finite width: 3 standard errors, the bias kappa/(4N), and 0.001.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from known_decay import DECAY
from torch import Tensor, nn

import gradscope as gs
from gradscope.lab.blocks import ACTIVATIONS
from gradscope.lab.models import mlp
from gradscope.runs import Run

WIDTH, LAYERS, SEEDS = 512, 30, (1000, 1001, 1002)
KAPPA = 5.0
TOLERANCE = 3 * 0.5 * math.sqrt(KAPPA / (WIDTH * (LAYERS - 1) * len(SEEDS))) + KAPPA / (4 * WIDTH) + 0.001

INITS: dict[str, Mapping[str, Any]] = {
    "xavier_uniform": {"init": "xavier_uniform"},
    "xavier_normal": {"init": "xavier_normal"},
    "lecun_normal": {"init": "lecun_normal"},
    "orthogonal": {"init": "orthogonal"},
    "kaiming_normal": {"init": "kaiming_normal"},
    "kaiming_uniform": {"init": "kaiming_uniform"},
    "default": {"init": "default"},
    "normal 0.01": {"init": "normal", "std": 0.01},
    "gain 5/3": {"init": "xavier_normal", "gain": 5 / 3},
}
_UNIT = ("xavier_uniform", "xavier_normal", "lecun_normal", "orthogonal")
_HE = ("kaiming_normal", "kaiming_uniform")
# Near weight variance 2 their factor depends on the early layers so much that finite width decides it.
SENSITIVE = {("gelu", one) for one in _HE} | {("silu", one) for one in _HE}


def predicted(activation: str, init: str) -> float:
    unit, he, default, small, gain = DECAY[activation]
    others = {"default": default, "normal 0.01": small, "gain 5/3": gain}
    return unit if init in _UNIT else he if init in _HE else others[init]


CASES = [(activation, init) for activation in ACTIVATIONS for init in INITS if (activation, init) not in SENSITIVE]


def unit_input(seed: int) -> Tensor:
    """Return one input with |x|^2 / N = 1."""
    x = torch.randn(1, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x / x.square().mean().sqrt()


def cotangent(seed: int) -> Tensor:
    return torch.randn(1, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 10**6))


def network(activation: str, init: str, seed: int, *, bias: bool = True) -> nn.Module:
    return mlp(
        depth=LAYERS - 1,
        width=WIDTH,
        inputs=WIDTH,
        outputs=WIDTH,
        activation=activation,
        bias=bias,
        seed=seed,
        dtype="float64",
        **INITS[init],
    )


def watched(model: nn.Module, seed: int, out: Path, **options: Any) -> Run:
    """Watch one backward pass from a random cotangent at the last output."""
    with gs.watch(model, out=out, every=1, **options) as probe:
        (model(unit_input(seed)) * cotangent(seed)).sum().backward()
        probe.step()
    return Run(str(out))


def log_ratio(run: Run, metric: str = "output_grad_norm", first: int = 1) -> float:
    """Return ln of the ratio of a norm in layer ``first`` to that in the last one."""
    profile = run.profile(metric)
    return math.log(profile[first] / profile[LAYERS])


def log_ratio_by_hand(model: nn.Module, seed: int) -> float:
    """Return ln of |dL/dz_1| / |dL/dz_30| by plain autograd."""
    outputs: list[Tensor] = []
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [layer.register_forward_hook(lambda _, __, z: outputs.append(z)) for layer in (linear[0], linear[-1])]
    model(unit_input(seed))
    for hook in hooks:
        hook.remove()
    first, last = torch.autograd.grad(outputs[-1], outputs, cotangent(seed))
    return math.log(first.norm().item() / last.norm().item())


@pytest.mark.parametrize(("activation", "init"), CASES)
def test_decay_is_what_mean_field_theory_predicts(activation: str, init: str, tmp_path: Path) -> None:
    logs = []
    for seed in SEEDS:
        model = network(activation, init, seed)
        run = watched(model, seed, tmp_path / str(seed), metrics=["output_grad_norm"])
        assert list(run.layers["depth"]) == list(range(1, LAYERS + 1))
        logs.append(log_ratio(run))
        assert logs[-1] == pytest.approx(log_ratio_by_hand(model, seed), abs=1e-9)
        assert run.decay(head=True).rate == pytest.approx(math.exp(logs[-1] / (LAYERS - 1)), rel=1e-9)
    simulated = sum(logs) / len(logs) / (LAYERS - 1)
    assert simulated == pytest.approx(math.log(predicted(activation, init)), abs=TOLERANCE)


def test_relu_without_biases_has_flat_weight_gradients_over_a_vanishing_error_signal(tmp_path: Path) -> None:
    # Positive homogeneity makes <W, dL/dW> the same in every layer (Du et al. 2018), whatever dL/dz does.
    errors, weights = [], []
    for seed in SEEDS:
        model = network("relu", "xavier_normal", seed, bias=False)
        run = watched(model, seed, tmp_path / str(seed))
        errors.append(log_ratio(run) / (LAYERS - 1))
        weights.append(log_ratio(run, "weight_grad_norm", first=2) / (LAYERS - 2))
        ledger = run.ledger()
        factors = ledger["weight_gain"].iloc[1:].prod() * ledger["activation_gain"].iloc[:-1].prod()
        assert math.log(factors) == pytest.approx(log_ratio(run), abs=1e-9)
    assert sum(errors) / 3 == pytest.approx(math.log(0.7071), abs=TOLERANCE)
    assert math.exp((LAYERS - 1) * sum(errors) / 3) == pytest.approx(4.3e-5, rel=0.7)
    assert sum(weights) / 3 == pytest.approx(0, abs=TOLERANCE)
