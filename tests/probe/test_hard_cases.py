"""Cases in which a recorder easily gets the numbers wrong, each against autograd by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs

DOUBLE = torch.float64


def record(model: nn.Module, x: Tensor, folder: Path, every: int = 1, **arguments: object) -> gs.Run:
    with gs.watch(model, out=folder, every=every, **arguments) as probe:  # type: ignore[arg-type]
        out = model(x)
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
        probe.step()
    return probe.run


def test_a_norm_of_ten_million_entries_is_right_to_1e_minus_6(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 3200), nn.ReLU(), nn.Linear(3200, 3200))
    run = record(model, torch.randn(4, 16), tmp_path / "run", metrics=["weight_rms"])
    expected = float(model[2].weight.detach().double().square().mean().sqrt())
    assert run.profile("weight_rms")[2] == pytest.approx(expected, rel=1e-6)


class ResidualTokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.a(x))
        return self.head(x + torch.tanh(self.b(x)))


@pytest.mark.parametrize("tokens", [1, 5])
def test_shares_on_three_dimensional_input(tokens: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = ResidualTokens().to(DOUBLE), torch.randn(4, tokens, 6, dtype=DOUBLE)
    run = record(model, x, tmp_path / "tokens")
    rows = record(model, x.reshape(-1, 6), tmp_path / "rows")
    np.testing.assert_allclose(run.ledger()["share"], rows.ledger()["share"], rtol=1e-12)
    assert (run.coverage["code"] == "recorded").all()


def test_shapes_of_gradients_are_those_of_their_tensors(tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = []

    @gs.metric(label="Shapes")
    def shapes_seen(output_grad: Tensor, input_grad: Tensor) -> float:
        shapes.extend([tuple(output_grad.shape), tuple(input_grad.shape)])
        return 0.0

    try:
        model = nn.Sequential(nn.Linear(6, 7, bias=False), nn.Tanh(), nn.Linear(7, 3))
        record(model, torch.randn(4, 5, 6), tmp_path / "run", metrics=["shapes_seen"])
    finally:
        gs.metrics.unregister("shapes_seen")
    assert shapes == [(4, 5, 3), (4, 5, 7)]


def test_no_bias_on_three_dimensional_input(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 7, bias=False), nn.Tanh(), nn.Linear(7, 3, bias=False)).to(DOUBLE)
    run = record(model, torch.randn(4, 5, 6, dtype=DOUBLE), tmp_path / "run")
    signal, ledger = run.profile("output_grad_norm"), run.ledger()
    product = ledger["weight_gain"][2] * ledger["activation_gain"][1]
    assert product == pytest.approx(signal[1] / signal[2], rel=1e-12)
    assert run.layers["activation"].tolist() == ["tanh", "identity"]


PADDED = {
    "circular": lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
    "replicate": lambda: nn.Conv2d(3, 3, 3, padding=1, padding_mode="replicate"),
    "same, even kernel": lambda: nn.Conv2d(3, 3, 4, padding="same"),
    "same, odd kernel": lambda: nn.Conv2d(3, 3, 3, padding="same"),
    "zeros": lambda: nn.Conv2d(3, 3, 3, padding=1),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", PADDED)
def test_own_contribution_behind_a_padding(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), PADDED[kind](), nn.Tanh(), nn.Conv2d(3, 2, 3)).to(DOUBLE)
    run = record(model, torch.randn(2, 1, 8, 8, dtype=DOUBLE), tmp_path / "run")
    ledger = run.ledger()
    np.testing.assert_allclose(ledger["path_gain"][[2, 3]], 1.0, rtol=1e-12)
    np.testing.assert_allclose(ledger["share"][[2, 3]], 1.0, rtol=1e-12)
    assert (run.coverage["code"] == "recorded").all()


class LowRank(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.requires_grad_(False)
        self.down, self.up = nn.Linear(width, 2, bias=False), nn.Linear(2, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


def test_a_layer_is_not_given_the_product_of_another(tmp_path: Path) -> None:
    model = nn.Sequential(LowRank(6), nn.Tanh(), LowRank(6), nn.Tanh(), nn.Linear(6, 2)).to(DOUBLE)
    x = torch.randn(8, 6, dtype=DOUBLE)
    run = record(model, x, tmp_path / "run")
    own = run.layers.merge(run.rows("input_grad_norm"), on=["depth", "layer"], how="left").set_index("layer")["value"]
    assert math.isnan(own["0"])  # its input needs no gradient
    assert math.isnan(own["2"])  # a sum: its own part cannot be told
    codes = run.coverage.set_index("layer")["code"]
    assert codes["2"] == "no_contribution"
    assert (run.frame("output_grad_norm").notna()).all(axis=None)


UNKNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "gated": lambda z: torch.sigmoid(z) * z,
    "gate after": lambda z: z * torch.sigmoid(z),
    "leaky sum": lambda z: 0.1 * z + torch.relu(z),
    "sum": lambda z: torch.relu(z) + 0.1 * z,
    "mish by hand": lambda z: torch.tanh(F.softplus(z)) * z,
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_a_function_made_of_known_ones_is_unknown(kind: str, tmp_path: Path) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(UNKNOWN[kind](self.a(x)))

    model = Model()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for _ in range(2):
            model(torch.randn(4, 6)).sum().backward()
            probe.step()
    assert probe.run.layers["activation"].tolist() == ["?", "identity"]
    assert probe.run.frame("slope_rms").empty
    assert probe.run.coverage.set_index("layer")["code"]["a"] == "unknown_activation"


def test_products_that_are_not_watched_leave_the_graph_unresolved(tmp_path: Path) -> None:
    model = gs.lab.mlp(6, 16, "tanh", inputs=6, seed=0)
    run = record(model, torch.randn(8, 6), tmp_path / "run", layers=["hidden.0*", "hidden.3*", "hidden.4*", "head"])
    assert [spec.resolved for spec in run.specs] == [True, False, True, False]
    whole = record(model, torch.randn(8, 6), tmp_path / "whole")
    assert all(spec.resolved for spec in whole.specs)


@pytest.mark.parametrize("case", ["batch of one", "zero head", "empty batch"])
def test_undefined_is_null_and_no_illness(case: str, tmp_path: Path) -> None:
    model = gs.lab.mlp(4, 16, "relu", "kaiming", inputs=4, seed=0)
    if case == "zero head":
        nn.init.zeros_(model.head.weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="all") as probe:
        model(
            {"batch of one": torch.randn(1, 4), "empty batch": torch.randn(0, 4)}.get(case, torch.randn(8, 4))
        ).sum().backward()
        optimizer.step()
    run = probe.run
    assert run.nonfinite.empty
    assert "non-finite" not in gs.diagnose(run).codes
    assert not (run.coverage["code"] == "error").any()


def test_a_gradient_that_arrives_twice_is_no_number(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(4, 6)
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        out = model(x)
        out[:, 0].sum().backward(retain_graph=True)
        out[:, 1].sum().backward()
        probe.step()
    run = probe.run
    assert run.frame("output_grad_norm").empty
    assert run.frame("output_rms").shape == (1, 2)
    text = "its gradient arrived twice through one forward pass (retain_graph): the sum is not known"
    assert run.coverage[["code", "text"]].to_numpy().tolist() == [["repeated", text]] * 2
    assert run.profile("weight_grad_norm")[2] == pytest.approx(float(model[2].weight.grad.norm()), rel=1e-6)


def test_a_gradient_penalty_is_replaced_by_the_backward_pass_proper(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 1)).to(DOUBLE)
    x = torch.randn(4, 6, dtype=DOUBLE, requires_grad=True)
    caught: list[Tensor] = []
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        hidden = model[0](x)
        hidden.register_hook(lambda grad: caught.append(grad.detach().clone()))
        out = model[2](model[1](hidden))
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        (slope.norm(dim=1) - 1).square().mean().backward()
        probe.step()
    assert probe.run.profile("output_grad_norm")[1] == pytest.approx(float(caught[-1].norm()), rel=1e-12)


def test_an_optimizer_that_steps_more_often_counts_with_its_last_step(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    slow, fast = (torch.optim.SGD(layer.parameters(), lr=0.1) for layer in model)
    with gs.watch(model, [fast, slow], out=tmp_path / "run", every=1) as probe:
        for _ in range(5):
            model.zero_grad()
            model(torch.randn(8, 4)).square().sum().backward()
            applied = float(model[1].weight.grad.double().norm())
            fast.step()
        slow.step()
    run = probe.run
    assert list(run.frame("weight_grad_norm").index) == [0]
    assert run.profile("weight_grad_norm")[2] == pytest.approx(applied, rel=1e-6)
    assert run.profile("weight_grad_norm_raw")[2] == pytest.approx(applied, rel=1e-6)


def test_an_optimizer_that_never_steps_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    slow, fast = (torch.optim.SGD(layer.parameters(), lr=0.1) for layer in model)
    probe = gs.watch(model, [fast, slow], out=tmp_path / "run", every=1)
    model(torch.randn(8, 4)).sum().backward()
    fast.step()
    with pytest.warns(UserWarning, match=r"^no step was closed: of 2 optimizers, number 2 never stepped$"):
        probe.close()


def tap(tensor: Tensor, into: list[Tensor]) -> None:
    tensor.register_hook(lambda grad: into.append(grad.clone()))


@pytest.mark.parametrize("kind", ["sgd", "lbfgs"])
def test_micro_batches_inside_a_closure_combine(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)).to(DOUBLE)
    x = torch.randn(8, 6, dtype=DOUBLE)
    settings = {"sgd": torch.optim.SGD, "lbfgs": torch.optim.LBFGS}
    optimizer = settings[kind](model.parameters(), lr=0.1)
    norms: list[float] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        grads: list[Tensor] = []
        for rows in (slice(0, 3), slice(3, 8)):
            hidden = model[0].register_forward_hook(lambda *call: tap(call[2], grads))
            loss = model(x[rows]).square().sum()
            loss.backward()
            hidden.remove()
        norms.append(float(torch.cat(grads).norm()))
        return loss

    before = float(model[0].weight.detach().square().mean().sqrt())
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        optimizer.step(closure)
    run = probe.run
    assert run.profile("output_grad_norm")[1] == pytest.approx(norms[-1], rel=1e-12)
    assert run.profile("weight_rms")[1] == pytest.approx(before, rel=1e-12)
    assert run.profile("update_ratio")[1] > 0
    assert run.layers["call"].tolist() == [1, 1]


def test_thawed_layers_join_the_trunk(tmp_path: Path) -> None:
    model = gs.lab.mlp(5, 8, "tanh", inputs=6, seed=0)
    model.hidden.requires_grad_(False)
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for step in range(3):
            if step == 1:
                model.hidden.requires_grad_(True)
            model(torch.randn(8, 6)).square().sum().backward()
            probe.step()
    run = probe.run
    assert list(run.trunk) == [1, 2, 3, 4, 5, 6]
    assert run.layers["activation"].tolist() == ["tanh"] * 5 + ["identity"]
    assert math.isfinite(run.decay(step=2).rate)


def test_a_block_skipped_at_first_joins_the_trunk(tmp_path: Path) -> None:
    class Stochastic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
            self.skip: int | None = 1

        def forward(self, x: Tensor) -> Tensor:
            for place, layer in enumerate(self.layers):
                x = x if place == self.skip else torch.tanh(layer(x))
            return x

    model = Stochastic()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for skip in (1, None):
            model.skip = skip
            model(torch.randn(5, 6)).sum().backward()
            probe.step()
    assert probe.run.layers["parents"].tolist() == [[], [1], [1, 2], [3]]
    assert list(probe.run.trunk) == [1, 2, 3, 4]


@pytest.mark.parametrize("case", ["unused last layer", "spectral norm"])
def test_log_knows_of_a_backward_pass_it_did_not_record(case: str, tmp_path: Path) -> None:
    if case == "spectral norm":
        model: nn.Module = nn.Sequential(*(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)) for _ in range(2)))
        run_model = model
    else:
        model = nn.ModuleDict({"used": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})
        run_model = model["used"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=2) as probe:
        for step in range(4):
            run_model(torch.randn(2, 4)).sum().backward()
            probe.log(value=step)
            optimizer.step()
    assert probe.run.scalars["step"].tolist() == probe.run.scalars["value"].tolist() == [0, 1, 2, 3]


def test_computed_weights_are_said_to_be_so(tmp_path: Path) -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    run = record(model, torch.randn(3, 4), tmp_path / "run")
    assert run.coverage["code"].tolist() == ["computed_weight", "recorded"]


def test_forward_passes_without_backward_do_not_count_nor_grow(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(4, 6)
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(x).sum().backward()
        for _ in range(600):
            model(100 * x)
        records = probe._recorder.records.values() if probe._recorder else ()
        assert max(len(one.batches) for one in records) <= 256
        probe.step()
    expected = float(model[0](x).detach().double().square().mean().sqrt())
    assert probe.run.profile("output_rms")[1] == pytest.approx(expected, rel=1e-6)


def test_layers_called_one_by_one_accumulate(tmp_path: Path) -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(6, 4), "decoder": nn.Linear(4, 6)})
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for _ in range(3):
            model["decoder"](torch.tanh(model["encoder"](torch.randn(5, 6)))).square().sum().backward()
        probe.step()
    assert probe.run.layers["call"].tolist() == [1, 1]


def test_a_model_that_calls_itself(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor, again: bool = True) -> Tensor:
            x = torch.tanh(self.layer(x))
            return self(x, again=False) if again else x

    run = record(Twice(), torch.randn(3, 6), tmp_path / "run")
    assert run.layers[["call", "parents", "activation"]].to_numpy().tolist() == [[1, [], "tanh"], [2, [1], "tanh"]]
