"""The factors of every activation gain, recorded through a probe, against autograd by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from kept_models import MODELS, Kept, Pair, Plain, Way, loss_of
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradscope as gs
from gradscope.runs import Run
from gradscope.runs.factors import KINDS, decades, totals
from gradscope.runs.ledger import SPLIT

NEAR = {torch.float64: 1e-10, torch.float32: 1e-5}
# The second recorded step is recorded by what is known of the first, the third after a change of weights.
STEPS = 3
FACTORS = (*SPLIT, "activation_gain", "join_gain", "join_share")


def build(kind: type[Kept], dtype: torch.dtype) -> tuple[Kept, Tensor]:
    torch.manual_seed(3)
    return kind().to(dtype), torch.randn(kind.shape, dtype=dtype)


def record(kind: type[Kept], dtype: torch.dtype, folder: Path, **options: object) -> tuple[Run, list[pd.DataFrame]]:
    """Train for three steps; return the run and, for every step, the factors by hand."""
    model, x = build(kind, dtype)
    twin, _ = build(kind, dtype)
    pair = [torch.optim.SGD(one.parameters(), lr=1e-3) for one in (model, twin)]
    expected = []
    with gs.watch(model, pair[0], out=folder, every=1, **options) as probe:  # type: ignore[arg-type]
        for step in range(STEPS):
            for one, optimizer in zip((model, twin), pair, strict=True):
                torch.manual_seed(step)
                optimizer.zero_grad()
                loss = loss_of(one, x)
                if one is twin:
                    expected.append(by_hand(twin, loss))
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return probe.run, expected


def by_hand(model: Kept, loss: Tensor) -> pd.DataFrame:
    """Every factor of every layer but the head, by its name."""

    def grad(of: Tensor) -> Tensor:
        return torch.autograd.grad(loss, of, retain_graph=True)[0]

    def own(pair: Pair) -> Tensor:
        return torch.autograd.grad(pair[1], pair[0], grad(pair[1]), retain_graph=True)[0]

    def factors(way: Way) -> dict[str, float]:
        assert way.a is not None
        found = {
            "activation_gain": norm(grad(way.z)) / norm(grad(way.a)),
            "norm_gain": norm(own(way.norm)) / norm(grad(way.norm[1])) if way.norm else 1.0,
            "phi_gain": norm(own(way.phi)) / norm(grad(way.phi[1])) if way.phi else 1.0,
            "join_gain": 1.0,
            "join_share": math.nan,
        }
        if way.join is not None:
            total, part = grad(way.join[0]), own(way.join)
            found["join_gain"] = norm(total) / norm(part)
            found["join_share"] = float((total * part).sum() / total.square().sum())
        found["pool_gain"] = found["activation_gain"] / found["norm_gain"] / found["phi_gain"]
        return found

    return pd.DataFrame({name: factors(way) for name, way in model.ways.items() if way.a is not None}).T


def norm(tensor: Tensor) -> float:
    return float(tensor.double().norm())


def book_of(run: Run, step: int) -> pd.DataFrame:
    """The ledger of a step by layer, with the shares where paths join."""
    book = run.ledger(step)
    if "join_share" in run.metrics and step in run.steps("join_share"):
        book = book.assign(join_share=run.profile("join_share", step))
    else:
        book = book.assign(join_share=math.nan)
    return book.set_index(pd.Index([{one.depth: one.layer for one in run.specs}[depth] for depth in book.index]))


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("kind", MODELS, ids=lambda one: one.__name__)
def test_the_factors_are_those_of_autograd(kind: type[Kept], dtype: torch.dtype, tmp_path: Path) -> None:
    run, expected = record(kind, dtype, tmp_path / "run")
    for step, truth in enumerate(expected):
        book = book_of(run, step)
        trunk = [name for name in book.index if name != "head"]
        assert set(trunk) <= set(truth.index)
        for factor in FACTORS:
            found, hand = book.loc[trunk, factor], truth.loc[trunk, factor]
            np.testing.assert_allclose(found, hand, rtol=NEAR[dtype], err_msg=f"{factor} at step {step}")
        product = book[list(SPLIT)].prod(axis=1, skipna=False)
        np.testing.assert_allclose(product, book["activation_gain"], rtol=1e-14)


@pytest.mark.parametrize("kind", MODELS, ids=lambda one: one.__name__)
def test_the_kinds_sum_to_the_measured_total(kind: type[Kept], tmp_path: Path) -> None:
    run, _ = record(kind, torch.float32, tmp_path / "run")
    signal = run.profile("output_grad_norm")[list(run.trunk)]
    between = decades(run.ledger())
    measured = np.log10(signal.iloc[:-1].to_numpy() / signal.iloc[1:].to_numpy())
    np.testing.assert_allclose(between[list(KINDS)].sum(axis=1), measured, atol=1e-12)
    sums = totals(run.ledger())
    assert sums.whole == pytest.approx(math.log10(signal.iloc[0] / signal.iloc[-1]), abs=1e-12)
    assert sums.unsplit == 0.0
    assert sums.fraction(sums.largest) > 0.0


def test_a_run_without_the_gains_is_not_split(tmp_path: Path) -> None:
    names = ["output_grad_norm", "input_grad_norm", "next_input_grad_norm", "input_grad_total_norm", "input_share"]
    run, expected = record(Plain, torch.float64, tmp_path / "run", metrics=names)
    book = book_of(run, 0)
    assert book[[*SPLIT, "join_gain"]].isna().all(axis=None)
    assert run.specs[0].entry is None
    np.testing.assert_allclose(book["activation_gain"][:-1], expected[0]["activation_gain"], rtol=1e-10)
    sums = totals(run.ledger())
    assert (sums.activation, sums.normalization, sums.pooling) == (0.0, 0.0, 0.0)
    assert sums.unsplit == pytest.approx(book["log10_activation_gain"][:-1].sum(), abs=1e-12)


class Unknown(nn.Module):
    """An activation function that nobody knows, and a known one behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        out: Tensor = self.head(torch.tanh(self.b(a * torch.sin(a))))
        return out


def test_an_unknown_activation_function_is_not_split(tmp_path: Path) -> None:
    model = Unknown()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(8, 6)).square().sum().backward()
        probe.step()
    book = probe.run.ledger()
    assert book.loc[1, [*SPLIT, "join_gain"]].isna().all()
    assert np.isfinite(book.loc[2, list(SPLIT)].astype(float)).all()
    found = decades(book)
    assert found["unsplit"].tolist() == [book["log10_activation_gain"].iloc[0], 0.0]
    assert totals(book, [1, 2]).unsplit == found["unsplit"].iloc[0]
    assert totals(book, [2, 3]).unsplit == 0.0


def test_what_lets_nothing_through_leaves_the_rest_undefined(tmp_path: Path) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(4, 2))
    nn.init.constant_(first.bias, -100.0)
    nn.init.constant_(second.bias, 1.0)
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(8, 4)).square().sum().backward()
        probe.step()
    book = probe.run.ledger()
    gains = book[["activation_gain", "phi_gain", "norm_gain", "pool_gain"]].to_numpy()[0]
    np.testing.assert_array_equal(gains, [0.0, 0.0, 1.0, math.nan])
    assert decades(book).to_numpy()[0].tolist()[1:] == [0.0, 0.0, -math.inf, 0.0, 0.0]
    sums = totals(book)
    assert (sums.whole, sums.activation, sums.largest) == (-math.inf, -math.inf, "activation")
    assert math.isnan(sums.fraction("activation"))


class TwoWays(nn.Module):
    """What lies on the way to the first layer that takes it in says nothing of the trunk's way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.aside, self.a, self.b, self.head = (nn.Linear(6, 6) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        z = self.stem(x)
        aside = self.aside(z)
        out: Tensor = self.head(torch.tanh(self.b(torch.tanh(self.a(torch.tanh(z))))) + aside)
        return out


def test_a_way_that_was_not_looked_at_is_not_split(tmp_path: Path) -> None:
    model = TwoWays()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(8, 6)).square().sum().backward()
        probe.step()
    book = probe.run.ledger()
    assert book.loc[1, list(SPLIT)].isna().all()
    assert np.isfinite(book.loc[3, list(SPLIT)].astype(float)).all()


class InPlace(nn.Module):
    """Functions that change what they are given, behind batch norm and behind a view."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.a, self.head = (
            nn.Conv1d(2, 4, 3),
            nn.BatchNorm1d(4),
            nn.Linear(6, 6),
            nn.Linear(6, 2),
        )
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.relu(self.a(self.relu(self.norm(self.conv(x))))))
        return out


def test_functions_in_place_have_the_same_factors(tmp_path: Path) -> None:
    books = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model, x = InPlace(inplace), torch.randn(4, 2, 8)
        with gs.watch(model, out=tmp_path / str(inplace), every=1) as probe:
            model(x).square().sum().backward()
            probe.step()
        books.append(probe.run.ledger())
        assert np.isfinite(books[-1].loc[[1, 2], list(SPLIT)]).all(axis=None)
    pd.testing.assert_frame_equal(books[0], books[1], rtol=1e-6)


def test_micro_batches_add_their_squares(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.0), nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU())
    model.append(nn.Linear(6, 2))
    x = torch.randn(12, 6)
    books = []
    for parts in (1, 3):
        with gs.watch(model, out=tmp_path / str(parts), every=1) as probe:
            for piece in x.chunk(parts):
                model(piece).square().sum().backward()
            probe.step()
        books.append(probe.run.ledger())
    pd.testing.assert_frame_equal(books[0], books[1], rtol=1e-5)


class Segments(nn.Module):
    """Blocks that may be checkpointed, each on its own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh()) for _ in range(3))
        self.head = nn.Linear(6, 2)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) if self.how == "plain" else checkpoint(block, x, use_reentrant=self.how == "reentrant")
        out: Tensor = self.head(x)
        return out


@pytest.mark.parametrize("how", ["reentrant", "without reentry"])
def test_checkpointed_blocks_have_the_same_factors(how: str, tmp_path: Path) -> None:
    books = []
    for one in ("plain", how):
        torch.manual_seed(0)
        model, x = Segments(one), torch.randn(8, 6, requires_grad=True)
        with gs.watch(model, out=tmp_path / one, every=1) as probe:
            model(x).square().sum().backward()
            probe.step()
        books.append(probe.run.ledger())
    if how == "reentrant":  # what goes into a segment is cut off from what comes out of the one before
        assert books[1][list(SPLIT)].isna().all(axis=None)
    else:
        pd.testing.assert_frame_equal(books[0], books[1], rtol=1e-6)
