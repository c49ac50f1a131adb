"""The spectrum of a Jacobian: products against all singular values, and both against theory."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.at_rest import Jacobian
from gradscope.lab.blocks import ACTIVATIONS


def chain(
    activation: str, init: str, layers: int = 10, width: int = 400, seed: int = 0, **options: object
) -> nn.Module:
    """Layers of one width, activation functions between them."""
    linear = [nn.Linear(width, width, dtype=torch.float64) for _ in range(layers)]
    functions = [ACTIVATIONS[activation]() for _ in range(layers)]
    model = nn.Sequential(*itertools.chain(*zip(linear, functions, strict=True)))
    return gs.lab.initialize(model[:-1], init, seed=seed, **options)  # type: ignore[arg-type]


def sample(width: int = 400, samples: int = 1, seed: int = 0) -> Tensor:
    # Not the seed of the weights: the input would be the first of them.
    draw = torch.Generator().manual_seed(1000 + seed)
    x = torch.randn(samples, width, dtype=torch.float64, generator=draw)
    return torch.nn.functional.normalize(x) * math.sqrt(width)


def both(model: nn.Module, x: Tensor, **options: object) -> tuple[Jacobian, Jacobian]:
    """The same Jacobian from all singular values and from products."""
    return gs.jacobian(model, x, exact=True, **options), gs.jacobian(model, x, exact=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ["identity", "tanh", "relu"])
def test_random_vectors_agree_with_all_singular_values(activation: str) -> None:
    whole, drawn = both(chain(activation, "kaiming", 4, 300), sample(300), probes=64)
    assert drawn.m1 == pytest.approx(whole.m1, rel=0.05)
    assert drawn.m2 == pytest.approx(whole.m2, rel=0.10)
    assert abs(drawn.m1 - whole.m1) < 4 * drawn.m1_error < 0.2 * whole.m1
    assert abs(drawn.ratio - whole.ratio) < 4 * drawn.ratio_error < 0.4 * whole.ratio
    assert drawn.s_max == pytest.approx(whole.s_max, rel=1e-3)
    assert (whole.probes, drawn.probes, whole.m1_error) == (0, 64, 0.0)
    assert math.isnan(drawn.s_min)


def test_standard_errors_are_those_of_the_mean() -> None:
    model, x = chain("relu", "kaiming", 3, 60), sample(60)
    whole = gs.jacobian(model, x)
    off = [gs.jacobian(model, x, exact=False, probes=16, seed=seed) for seed in range(60)]
    scatter = float(np.std([one.m1 for one in off], ddof=1))
    # The standard deviation of 60 draws is known to 9 %.
    assert np.mean([one.m1_error for one in off]) == pytest.approx(scatter, rel=0.3)
    assert np.mean([one.m1 for one in off]) == pytest.approx(whole.m1, abs=4 * scatter / math.sqrt(60))


@pytest.mark.parametrize(
    ("activation", "init", "options", "paper"),
    [
        ("identity", "lecun_normal", {}, 11.0),
        ("identity", "orthogonal", {}, 1.0),
        ("relu", "kaiming_normal", {}, 20.0),
        ("relu", "orthogonal", {"gain": math.sqrt(2)}, 10.0),
        ("tanh", "default", {"weight_var": 1.760955, "bias_var": 0.05}, None),
        ("tanh", "orthogonal", {"weight_var": 1.086026, "bias_var": 1e-4}, None),
    ],
)
def test_the_formula_at_400_units_and_10_layers(
    activation: str, init: str, options: dict[str, Any], paper: float | None
) -> None:
    # Nine activation functions lie between ten layers: 1 + 10 (-s_1) + 9 (mu_2 / mu_1^2 - 1).
    found = [gs.jacobian(chain(activation, init, seed=seed, **options), sample(seed=seed)) for seed in (0, 1)]
    for one in found:
        assert one.theory.status == ""
        assert paper is None or one.theory.ratio == pytest.approx(paper, rel=1e-9)
    assert np.mean([one.ratio for one in found]) == pytest.approx(found[0].theory.ratio, rel=0.08)
    assert np.mean([one.m1 / one.theory.m1 for one in found]) == pytest.approx(1.0, abs=0.3)


def test_tanh_at_the_edge_of_chaos_is_what_pennington_schoenholz_and_ganguli_found() -> None:
    options: dict[str, Any] = {"weight_var": 1.760955, "bias_var": 0.05}
    q = gs.theory.mean_field("tanh", **options).q
    # The first layer's output at the fixed point; ten pairs of an activation function and a layer follow.
    x = sample() * math.sqrt((q - 0.05) / 1.760955)
    for init, expected in (("default", 14.42), ("orthogonal", 4.42)):
        found = gs.jacobian(chain("tanh", init, 11, **options), x, between=("0", None))
        assert found.theory.ratio == pytest.approx(expected, rel=0.03)
        assert found.ratio == pytest.approx(expected, rel=0.08)


@pytest.mark.parametrize(("layers", "expected"), [(1, 2.0), (2, 2.5981), (10, 5.3415)])
def test_the_largest_singular_value_of_linear_gaussian_networks(layers: int, expected: float) -> None:
    networks = [chain("identity", "lecun_normal", layers, seed=seed) for seed in range(4)]
    found = [gs.jacobian(one, sample(), exact=False, probes=2) for one in networks]
    # Biased by finite width, downwards: 5.09 at 400 units where 5.34 is the limit.
    assert np.mean([one.s_max for one in found]) == pytest.approx(expected, rel=0.08)
    for one, network in zip(found, networks, strict=True):
        weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Linear)]
        scale = math.prod(400 * float(weight.detach().square().mean()) for weight in weights) ** 0.5
        assert one.theory.s_max == pytest.approx(expected * scale, rel=1e-4)
        assert one.s_max_error < 5e-3 * one.s_max


def test_widths_that_differ() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 400), nn.ReLU(), nn.Linear(400, 100), nn.ReLU(), nn.Linear(100, 300)).double()
    gs.lab.initialize(model, "kaiming", seed=0)
    found = gs.jacobian(model, sample(200, 4))
    assert found.ratio == pytest.approx(found.theory.ratio, rel=0.08)
    assert found.m1 == pytest.approx(found.theory.m1, rel=0.15)
    gs.lab.initialize(model, "orthogonal", gain=math.sqrt(2), seed=0)
    found = gs.jacobian(model, sample(200, 4))
    assert found.ratio == pytest.approx(found.theory.ratio, rel=0.08)


def test_theory_stands_beside_skips_and_normalizations() -> None:
    options: dict[str, Any] = {"norm": "layer", "residual": True, "inputs": 200, "outputs": 200, "dtype": "float64"}
    model = gs.lab.mlp(6, 200, "relu", "kaiming", seed=0, **options)
    found = gs.jacobian(model, sample(200, 16), between=("hidden.0.linear", "head"))
    assert found.m1 == pytest.approx(found.theory.m1, rel=0.25)
    assert found.theory.status == "m2 is known for chains of linear layers and activations only"
    assert math.isnan(found.theory.ratio)


def test_samples_that_meet_are_one_matrix() -> None:
    model = gs.lab.mlp(3, 16, norm="batch", inputs=8, outputs=4, seed=0, dtype="float64")
    x = sample(8, 6)
    trained = gs.jacobian(model, x)
    assert (trained.joint, trained.samples, trained.rows, trained.columns, trained.mode) == (True, 1, 24, 48, "train")
    still = gs.jacobian(model, x, train=False)
    assert (still.joint, still.samples, still.rows, still.columns, still.mode) == (False, 6, 4, 8, "eval")
    assert model.training


def test_every_sample_has_a_jacobian_of_its_own() -> None:
    model, x = gs.lab.mlp(3, 16, "relu", inputs=8, outputs=4, seed=0, dtype="float64"), sample(8, 5)
    found = gs.jacobian(model, x, samples=3)
    assert found.singular_values is not None
    for place, values in enumerate(found.singular_values):
        true = torch.func.jacrev(lambda one: model(one[None])[0])(x[place])
        assert torch.linalg.svdvals(true).detach().numpy() == pytest.approx(values, rel=1e-9)
    assert found.s_max == found.singular_values.max()
    assert found.s_min == found.singular_values.min()


def test_a_mask_is_the_same_in_all_products() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Dropout(0.5), nn.Linear(40, 40))
    whole, drawn = both(model, torch.ones(1, 40), probes=200)
    assert drawn.m1 != whole.m1  # other masks: the copies draw anew
    assert drawn.s_max_error < 1e-3 * drawn.s_max


def test_signals_that_vanish_in_single_precision_do_not_vanish_here() -> None:
    found = gs.jacobian(gs.lab.mlp(40, 64, "sigmoid", "default", outputs=64, seed=0), torch.ones(2, 64))
    assert 0 < found.m1 < 1e-60
    assert found.m1 == pytest.approx(found.theory.m1, rel=2.0)


def test_a_module_that_insists_on_its_type_is_taken_in_it() -> None:
    class Single(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return torch.nn.functional.linear(input.float(), torch.ones(3, 3)) * self.weight.float().sum()

    assert gs.jacobian(Single(3, 3), torch.ones(2, 3)).m1 > 0


def gradients(model: nn.Module) -> list[Tensor]:
    return [one.grad for one in model.parameters() if one.grad is not None]


def test_nothing_of_the_model_changes() -> None:
    model = gs.lab.mlp(3, 16, "relu", norm="batch", inputs=8, outputs=4, seed=0)
    model(torch.ones(4, 8)).sum().backward()
    before = [one.clone() for one in (*model.state_dict().values(), *gradients(model))]
    state = torch.get_rng_state()
    x = torch.ones(4, 8)
    gs.jacobian(model, x, train=False)
    after = [*model.state_dict().values(), *gradients(model)]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert not x.requires_grad
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_the_report() -> None:
    found = gs.jacobian(nn.Linear(2, 2, bias=False).requires_grad_(False), torch.ones(1, 2), exact=False, probes=4)
    assert str(found).splitlines()[0] == (
        "Jacobian of output by input (2 x 2), train mode, of one sample, from 4 random vectors"
    )
    assert "smallest singular value  not known" in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"between": ("a", None)}, "no layer 'a'; there are: 0, 2"),
        ({"between": "0"}, "between is a pair of layer names, or None, not '0'"),
        ({"probes": 0}, "probes is at least 1, not 0"),
        ({"train": 1}, "train is True, False or None, not 1"),
        ({"exact": True}, "exact=True forms J, whose smaller side has 1025 entries, more than 1024: leave it out"),
        ({"between": ("2", "0")}, "nothing leads from 2 to 0"),
    ],
)
def test_what_cannot_be(options: dict[str, object], message: str) -> None:
    model = nn.Sequential(nn.Linear(1025, 1), nn.Tanh(), nn.Linear(1, 1025)) if "exact" not in options else None
    model = model or nn.Sequential(nn.Linear(1025, 1025), nn.Tanh(), nn.Linear(1025, 1025))
    with pytest.raises(gs.GradscopeError) as caught:
        gs.jacobian(model, torch.ones(1, 1025), **options)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_words_have_no_derivative() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 2))
    with pytest.raises(gs.GradscopeError) as caught:
        gs.jacobian(model, torch.tensor([[1, 2]]))
    text = "x is a tensor of floating-point numbers, not a tensor of torch.int64; name a layer in between="
    assert str(caught.value) == text
    assert gs.jacobian(model, torch.tensor([[1, 2]]), between=("1", "3")).rows == 4


def test_weights_of_zero_let_nothing_through() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    for place in (0, 2):
        with torch.no_grad():
            model[place].weight.zero_()  # type: ignore[union-attr, operator]
        found = gs.jacobian(model, torch.randn(4, 8))
        assert (found.m1, found.s_max) == (0.0, 0.0)
        assert (found.theory.m1, found.theory.status) == (0.0, "weights of zero let nothing through")
        nn.init.normal_(model[0].weight)  # type: ignore[arg-type]


def test_why_theory_does_not_begin_at_the_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    x = torch.randn(4, 1, 8, 8)
    text = (
        "the first layer, '0', is a convolution; of those theory knows no Jacobian by the input: start from a layer's "
    )
    assert gs.jacobian(model, x).theory.status == text + "output, between=('0', None)"
    assert gs.jacobian(model, x, between=(None, "2")).theory.status == text + "output, between=('0', '2')"
    assert not math.isnan(gs.jacobian(model, x, between=("0", None)).theory.m1)
    model = nn.Sequential(nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    text = "something comes between the input and the first layer: start from a layer's output, between=('1', None)"
    assert gs.jacobian(model, torch.randn(4, 8)).theory.status == text


def widening(convolutions: bool, activation: type[nn.Module], width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for one, other in ((1 if convolutions else 16, width), (width, 2 * width), (2 * width, 3 * width)):
        parts += [nn.Conv2d(one, other, 3, padding=1) if convolutions else nn.Linear(one, other), activation()]
    return nn.Sequential(*parts[:-1])


@pytest.mark.parametrize("width", [4, 12])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("convolutions", [True, False])
def test_the_band_of_theory_covers_single_networks(convolutions: bool, activation: type[nn.Module], width: int) -> None:
    inside, wide = 0, []
    for seed in range(8):
        model = widening(convolutions, activation, width, seed)
        x = torch.randn((4, 1, 5, 5) if convolutions else (8, 16))
        found = gs.jacobian(model, x, between=("0", "4"), samples=4)
        inside += found.theory.m1_low <= found.m1 <= found.theory.m1_high
        wide.append(math.log(found.theory.m1_high / found.theory.m1_low))
    assert inside >= 7
    # Bands come closer with width.
    assert max(wide) < 6.5 / math.sqrt(width)


def test_the_band_is_printed_and_left_out_where_it_is_not_known() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    found = gs.jacobian(model, torch.randn(8, 8))
    theory = found.theory
    assert f"{theory.m1:.4g} ({theory.m1_low:.4g} to {theory.m1_high:.4g})\n" in str(found)
    model.insert(1, nn.BatchNorm1d(16))
    theory = gs.jacobian(model, torch.randn(8, 8), between=("0", None)).theory
    assert not math.isnan(theory.m1)
    assert math.isnan(theory.m1_low)


def test_what_theory_assumes_of_a_convolution_is_said() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    )
    theory = gs.jacobian(model, torch.randn(4, 1, 5, 5), between=("0", None)).theory
    text = "approximate: layer '2': padding_mode='reflect' is taken as circular"
    assert theory.status == f"m2 is known for chains of linear layers and activations only; {text}"
    assert math.isnan(theory.m1_low)
