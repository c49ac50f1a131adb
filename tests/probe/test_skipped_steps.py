"""A step that the scaler skips takes a number, keeps its values, is flagged, and raises no alarm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from mixed_precision import OPTIMIZERS, SCALE, batches, net, scaler_of, train
from torch import nn

import gradscope as gs


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_takes_a_number_and_is_flagged(name: str, tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS[name], scaler_of(), spoil=(1, 2), steps=4)
    assert run.steps() == [0, 1, 2, 3]
    assert run.skipped() == [1, 2]
    logged = run.scalars[run.scalars["name"] == "number"]
    assert list(logged["step"]) == list(logged["value"]) == [0, 1, 2, 3]
    # The value stays as it was, in the layer where it was; nothing was changed by the step.
    assert np.isinf(run.frame("weight_grad_norm").to_numpy()).tolist() == [
        [False, False, False],
        [False, True, False],
        [False, True, False],
        [False, False, False],
    ]
    assert run.frame("update_ratio").loc[[1, 2]].to_numpy().tolist() == [[0.0] * 3] * 2
    bad = run.nonfinite
    assert bad["skipped"].all()
    assert set(bad["depth"]) == {2}


def test_a_skipped_step_is_no_alarm(tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS["sgd"], scaler_of(), spoil=(1,))
    (note,) = gs.diagnose(run)
    assert (note.code, note.severity, note.steps) == ("non-finite", "note", (1,))


def test_an_overflow_of_half_precision_itself_is_skipped_and_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = scaler_of(init_scale=2.0**30)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for x, _ in batches(20):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = model(x).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    run = probe.run
    skipped = run.skipped()
    assert len(skipped) > 5
    assert skipped == list(range(len(skipped)))
    assert run.steps() == list(range(20))
    taken = run.frame("weight_grad_norm").drop(index=skipped).to_numpy()
    assert ((taken > 1e-4) & (taken < 100)).all()


def test_skipped_steps_count_where_they_are_not_recorded(tmp_path: Path) -> None:
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), scaler_of()
    with gs.watch(model, optimizer, out=tmp_path / "run", every=3, scaler=scaler) as probe:
        for step, (x, y) in enumerate(batches(7)):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if step in (1, 4, 6):
                model[0].weight.grad.fill_(torch.nan)
            scaler.step(optimizer)
            scaler.update()
    assert probe.run.steps() == [0, 3, 6]
    assert probe.run.skipped() == [6]


def test_one_optimizer_skips_and_the_other_does_not(tmp_path: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(6, 8), "head": nn.Linear(8, 3)})
    slow = torch.optim.SGD(model["body"].parameters(), lr=0.1)
    fast = torch.optim.SGD(model["head"].parameters(), lr=0.1, fused=True)
    scaler = scaler_of()
    with gs.watch(model, [slow, fast], out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for step, (x, y) in enumerate(batches(4)):
            slow.zero_grad()
            fast.zero_grad()
            scaler.scale(F.cross_entropy(model["head"](torch.tanh(model["body"](x))), y)).backward()
            for skipping, layer in ((1, "body"), (2, "head"), (3, "body"), (3, "head")):
                if step == skipping:
                    model[layer].bias.grad[0] = torch.nan
            scaler.step(slow)
            scaler.step(fast)
            scaler.update()
    bad = probe.run.nonfinite
    assert bad[["step", "layer"]].to_numpy().tolist() == [[1, "body"], [2, "head"], [3, "body"], [3, "head"]]
    stored = pd.read_parquet(tmp_path / "run" / "layers")
    assert probe.run.steps() == [0, 1, 2, 3]
    assert stored.loc[stored["skipped"], ["step", "id"]].to_numpy().tolist() == [[1, 0], [2, 1], [3, 0], [3, 1]]


def test_a_training_cut_short_keeps_its_step_unscaled(tmp_path: Path) -> None:
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), scaler_of()
    (x, y), *_ = batches(1)

    def cut_short() -> None:
        with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler):
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match=r"^stop$"):
        cut_short()
    run = gs.load(tmp_path / "run")
    norms = [float(one.grad.norm()) / SCALE for one in (model[0].weight, model[2].weight, model[4].weight)]
    assert list(run.profile("weight_grad_norm")) == pytest.approx(norms, rel=1e-5)
    assert run.profile("output_grad_norm")[3] < 1.0
    assert run.skipped() == [0]
