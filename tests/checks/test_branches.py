"""Networks that are no chain: skips that bridge the trunk, several heads, a branch without a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs
from gradscope.at_rest.preflight_step import first_step
from gradscope.checks import NotApplicable
from gradscope.checks.branches import bridged, ends
from gradscope.checks.course import course
from gradscope.checks.exploding import exploding
from gradscope.checks.head import head_of
from gradscope.checks.norm_explosion import norm_explosion
from gradscope.checks.passage import Passage, passage, split
from gradscope.runs import Run
from gradscope.spec import LayerSpec

Write = Callable[..., Run]


class PreActivation(nn.Module):
    """x + W relu(norm(x)), block after block."""

    def __init__(self, blocks: int, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Linear(64, width)
        self.norms = nn.ModuleList([nn.BatchNorm1d(width) for _ in range(blocks)])
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(blocks)])
        self.head = nn.Linear(width, 10)
        for one in self.layers:
            nn.init.kaiming_normal_(one.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(F.relu(norm(x)))
        out: Tensor = self.head(F.relu(x))
        return out


class TwoHeads(nn.Module):
    """A class, and a number that hardly varies."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper = nn.Linear(64, 64), nn.Linear(64, 64)
        self.classes, self.number = nn.Linear(64, 10), nn.Linear(64, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.elu(self.upper(F.elu(self.lower(x))))
        return self.classes(x), self.number(x)[:, 0]


class Silenced(nn.Module):
    """A branch that is multiplied by zero."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.branch, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.lower(x))
        out: Tensor = self.head(x + 0.0 * F.relu(self.branch(x)))
        return out


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(256, 64, generator=chance), torch.randint(10, (256,), generator=chance)


def specs(*parents: tuple[int, ...], norm: str = "none") -> list[LayerSpec]:
    """Layers by the places of their parents, each followed by a relu."""
    return [
        LayerSpec(id=at, layer=f"net.{at}", call=1, depth=at + 1, parents=given, activation="relu", norm=norm)
        for at, given in enumerate(parents)
    ]


@pytest.mark.parametrize(
    ("parents", "around", "last"),
    [
        (((), (0,), (1,)), (), (3,)),
        (((), (0,), (1, 0), (2,)), (1, 2), (4,)),  # a skip from 1 to 3
        (((), (0,), (0, 1), (0, 1, 2)), (1, 2, 3), (4,)),
        (((), (0,), (1,), (1,)), (), (3, 4)),  # two heads
        (((), (0,), ()), (), (2, 3)),  # cut
    ],
)
def test_skips_and_ends(write: Write, parents: list[tuple[int, ...]], around: list[int], last: list[int]) -> None:
    run = write({"output_grad_norm": {0: [1.0] * len(parents)}}, specs=specs(*parents))
    assert bridged(run) == set(around)
    assert ends(run) == tuple(last)


def test_batch_normalization_that_skips_lead_around_does_not_multiply_up() -> None:
    torch.manual_seed(0)
    x, y = batch()
    with first_step(PreActivation(24), x, y, None, name="skips") as run:
        assert run.decay(0).decades < 1.3  # theory: a factor of 7.4, where a chain has one of 99
        found = norm_explosion(run)
    assert isinstance(found, NotApplicable)
    assert found.reason.startswith("skips lead around every batch normalization")


def test_a_chain_beside_one_skip_is_judged_by_its_own_layers(write: Write) -> None:
    chain = [(), *((at,) for at in range(29))]
    chain[4] = (3, 1)
    norms = [1.2 ** (29 - at) for at in range(30)]
    (one,) = norm_explosion(write({"output_grad_norm": {0: norms}}, specs=specs(*chain, norm="batch")))  # type: ignore[misc]
    chi = math.pi / (math.pi - 1.0)
    # 29 hidden layers have 28 ways between them; the skip from layer 2 to layer 5 leads around three.
    assert one.evidence["decades_expected"] == pytest.approx(25 * math.log10(chi) / 2.0)


def test_a_skip_before_the_normalization_is_a_path_and_no_pooling() -> None:
    torch.manual_seed(0)
    x, y = batch()
    with first_step(PreActivation(6), x, y, None, name="skips") as run:
        seen = passage(run, 0)
        assert isinstance(seen, Passage)
        share, book = split(run, seen), run.ledger(0)
    assert share.pools == pytest.approx(0.0, abs=1e-6)
    assert share.paths == pytest.approx(book["log10_join_gain"].iloc[:-2].sum())
    assert share.paths > 0.5
    assert share.weights + share.activations + share.paths == pytest.approx(seen.decades)


def test_the_error_of_one_head_says_nothing_of_a_loss_of_two(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = TwoHeads(), gs.lab.data.load("digits")
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with gs.watch(model, optimizer, out=tmp_path / "two") as probe:
        for x, y in gs.lab.data.batches(data, 64, 150, 0):
            classes, number = model(x.flatten(1))
            loss = F.cross_entropy(classes, y) + F.mse_loss(number, x.flatten(1).mean(1))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            probe.log(loss=loss)
    run = gs.load(tmp_path / "two")
    assert isinstance(run, Run)
    assert head_of(run) is None
    assert gs.diagnose(run).codes == ()


def test_two_heads_that_put_out_constants_have_learnt_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = TwoHeads(), gs.lab.data.load("digits")
    lower = [one for _ in range(8) for one in (nn.Linear(64, 64), nn.Sigmoid())]
    model.lower = nn.Sequential(*lower, nn.Linear(64, 64))  # type: ignore[assignment]
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    with gs.watch(model, optimizer, out=tmp_path / "two") as probe:
        for x, y in gs.lab.data.batches(data, 64, 150, 0):
            classes, number = model(x.flatten(1))
            # The number is about 3 whatever the picture, which a bias learns: half of the loss.
            loss = F.cross_entropy(classes, y) + F.mse_loss(number, 3.0 + x.flatten(1).mean(1))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            probe.log(loss=loss)
    run = gs.load(tmp_path / "two")
    assert isinstance(run, Run)
    assert course(run).skill > 0.5
    assert course(run).verdict == "stalled"
    assert {"stalled", "vanishing"} <= {one.code for one in gs.diagnose(run) if one.severity != "note"}


def test_a_second_head_without_a_gradient_does_not_count(write: Write) -> None:
    values = {
        "output_grad_norm": {0: [1.0, 1.0, 0.5, 0.0]},
        "output_grad_rms": {0: [0.1, 0.1, 0.05, 0.0]},
    }
    assert head_of(write(values, specs=specs((), (0,), (1,), (0,)))) is not None


def test_a_branch_without_a_gradient_is_named_and_is_no_explosion() -> None:
    torch.manual_seed(0)
    x, y = batch()
    with first_step(Silenced(), x, y, None, name="silenced") as run:
        found, all_of_them = exploding(run), gs.diagnose(run)
    assert isinstance(found, NotApplicable)
    assert "exactly zero in some layers" in found.reason
    assert "no-gradient" in all_of_them.codes
