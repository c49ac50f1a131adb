"""The same on a GPU: equal to autograd by hand, and one synchronisation for every recorded step."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from odd_models import ZOO, Odd, ViewInPlace, loss_of, truth, twin_of
from torch import nn

import gradscope as gs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.mark.parametrize("kind", ZOO, ids=lambda kind: kind.__name__)
def test_everything_recorded_equals_autograd_by_hand(kind: type[Odd], tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = kind().to("cuda", torch.float64)
    x = torch.randn(kind.shape, dtype=torch.float64, device="cuda")
    twin = twin_of(model)
    torch.manual_seed(2)
    expected = truth(twin, x)
    torch.manual_seed(2)
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        loss_of(model(x)).backward()
        probe.step()
    measured = probe.run.profile("output_grad_norm")
    np.testing.assert_allclose(list(measured), [float(one.output_grad.norm()) for one in expected], rtol=1e-10)


def test_tiny_float32_gradients_are_accumulated_in_float64(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).cuda()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        (model(torch.randn(4, 8, device="cuda")) * 1e-30).sum().backward()
        probe.step()
    assert probe.run.profile("output_grad_norm")[2] == pytest.approx(32**0.5 * 1e-30, rel=1e-6)


def test_one_synchronisation_a_recorded_step_and_none_otherwise(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(inplace=True), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 10)
    ).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 64, device="cuda"), torch.randint(0, 10, (32,), device="cuda")
    counts = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=2, metrics="all") as probe:
        for _ in range(6):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                probe.log(loss=loss)
                optimizer.step()
                torch.cuda.set_sync_debug_mode("default")
            counts.append(sum("synchroniz" in str(one.message) for one in caught))
    assert counts[2:] == [1, 0, 1, 0]
    assert len(probe.run.scalars) == 6


def test_an_in_place_function_on_a_view_is_recognised(tmp_path: Path) -> None:
    model = ViewInPlace().cuda()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        loss_of(model(torch.randn(4, 5, 6, device="cuda"))).backward()
        probe.step()
    assert probe.run.layers["activation"].tolist() == ["relu", "relu", "identity"]


def test_training_is_bit_identical(tmp_path: Path) -> None:
    losses = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.3), nn.Tanh(), nn.Linear(64, 10)).cuda()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        probe = gs.watch(model, optimizer, out=tmp_path / "run", every=2, metrics="all") if watched else None
        x, y = torch.randn(32, 64, device="cuda"), torch.randint(0, 10, (32,), device="cuda")
        for _ in range(10):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        losses.append(float(torch.rand((), device="cuda")))
        if probe:
            probe.close()
    assert losses[:11] == losses[11:]


@pytest.mark.parametrize("fused", [False, True])
def test_a_scaler_costs_no_synchronisation_of_ours(fused: bool, tmp_path: Path) -> None:
    counts: dict[bool, list[int]] = {}
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)).cuda()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
        scaler = torch.amp.GradScaler("cuda")
        x, y = torch.randn(32, 64, device="cuda"), torch.randint(0, 10, (32,), device="cuda")
        probe = gs.watch(model, optimizer, out=tmp_path / "run", every=2, scaler=scaler) if watched else None
        counts[watched] = []
        for _ in range(6):
            optimizer.zero_grad()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                with torch.autocast("cuda", dtype=torch.float16):
                    loss = F.cross_entropy(model(x), y)
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                torch.cuda.set_sync_debug_mode("default")
            counts[watched].append(sum("synchroniz" in str(one.message) for one in caught))
        if probe:
            probe.close()
    added = [mine - bare for mine, bare in zip(counts[True], counts[False], strict=True)]
    assert added[2:] == [1, 0, 1, 0]


@pytest.mark.parametrize("fused", [False, True])
def test_an_overflow_is_flagged_and_its_scale_undone(fused: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)
    x, y = torch.randn(32, 64, device="cuda"), torch.randint(0, 10, (32,), device="cuda")
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for _ in range(30):
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=torch.float16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    skipped = probe.run.skipped()
    assert skipped == list(range(len(skipped)))
    assert 5 < len(skipped) < 29
    taken = probe.run.frame("weight_grad_norm").drop(index=skipped).to_numpy()
    assert ((taken > 1e-4) & (taken < 10)).all()
