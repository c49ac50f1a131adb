"""The scaler itself: left as it was, shared, not given, stepped past."""

from __future__ import annotations

import copy
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mixed_precision import OPTIMIZERS, SCALED, UNTOLD, assert_same, batches, net, scaler_of, train
from torch.amp.grad_scaler import GradScaler

import gradscope as gs
from gradscope.errors import InvalidTypeError
from gradscope.runs import Run


def test_a_disabled_scaler_changes_nothing(tmp_path: Path) -> None:
    bare = train(tmp_path / "bare", OPTIMIZERS["sgd"], None)
    scaler = scaler_of(enabled=False)
    assert_same(train(tmp_path / "run", OPTIMIZERS["sgd"], scaler), bare, rtol=0.0)
    assert vars(scaler) == vars(scaler_of(enabled=False))


def test_an_optimizer_that_steps_past_the_scaler_is_said_so(tmp_path: Path) -> None:
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=1e-9), scaler_of()
    said: list[str] = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for x, y in batches(2):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            expected = [float(one.grad.norm()) for one in (model[0].weight, model[2].weight, model[4].weight)]
            with warnings.catch_warnings(record=True) as caught:
                optimizer.step()
            said += [str(one.message) for one in caught]
    text = (
        "optimizer 1 stepped outside scaler.step on gradients that were never unscaled: whether they carry the loss "
        "scale cannot be told, and no error signal of its layers is recorded"
    )
    run = probe.run
    assert said == [text]
    assert list(run.events["text"]) == [SCALED, text]
    assert run.frame("output_grad_norm").empty
    # What the optimizer applied is recorded as it was.
    assert list(run.profile("weight_grad_norm", 1)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", ["sgd", "fused sgd"])
def test_a_scaler_that_was_not_given_is_noticed_once(name: str, clip: float | None, tmp_path: Path) -> None:
    text = UNTOLD.format(how="GradScaler.step called the optimizer")
    with pytest.warns(UserWarning, match=r"^the loss is scaled") as caught:
        run = train(tmp_path / "run", OPTIMIZERS[name], scaler_of(), clip=clip, told=False)
    assert [str(one.message) for one in caught] == [text]
    assert run.events[["step", "kind", "text"]].to_numpy().tolist() == [[0, "probe", text]]
    # What the optimizer applies is right all the same.
    bare = train(tmp_path / "bare", OPTIMIZERS[name], None, clip=clip)
    for metric in ("weight_grad_norm", "weight_grad_rms", "bias_grad_norm", "update_ratio"):
        np.testing.assert_allclose(run.frame(metric), bare.frame(metric), rtol=1e-5, err_msg=metric)


def test_a_grad_scale_set_by_hand_is_honoured_and_noticed(tmp_path: Path) -> None:
    model = net()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)

    def work() -> Run:
        with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
            for x, y in batches(3):
                optimizer.zero_grad()
                (1024 * F.cross_entropy(model(x), y)).backward()
                optimizer.step()
        return probe.run

    with pytest.warns(UserWarning, match=r"^the loss is scaled") as caught:
        run = work()
    assert [str(one.message) for one in caught] == [UNTOLD.format(how="grad_scale is set on the optimizer")]
    bare = train(tmp_path / "bare", OPTIMIZERS["fused sgd"], None, steps=3)
    np.testing.assert_allclose(run.frame("weight_grad_norm"), bare.frame("weight_grad_norm"), rtol=1e-5)


def test_a_scale_by_hand_is_noticed_where_it_is_taken_off(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    how = "every weight gradient was divided by 1024 before its step"

    def work() -> Run:
        with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
            for x, y in batches(3):
                optimizer.zero_grad()
                (1024 * F.cross_entropy(model(x), y)).backward()
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.grad /= 1024
                optimizer.step()
        return probe.run

    with pytest.warns(UserWarning, match=r"^the loss is scaled") as caught:
        run = work()
    assert [str(one.message) for one in caught] == [UNTOLD.format(how=how)]
    assert list(run.events["text"]) == [UNTOLD.format(how=how)]


def test_clipping_alone_is_not_taken_for_a_loss_scale(tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS["sgd"], None, clip=0.01)
    assert run.events.empty


def test_the_scaler_is_as_it_was_copies_and_pickles_work_meanwhile(tmp_path: Path) -> None:
    model, scaler = net(), scaler_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (x, y), *_ = batches(1)
    before = set(vars(scaler))
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
        state = scaler.state_dict()
        data = pickle.dumps(scaler)
        for twin in (copy.deepcopy(scaler), pickle.loads(data)):
            assert twin.state_dict() == state
            other = net(seed=3)
            mine = torch.optim.SGD(other.parameters(), lr=0.1)
            twin.scale(F.cross_entropy(other(x), y)).backward()
            twin.step(mine)
            twin.update()
    assert b"gradscope" not in data
    assert scaler.state_dict() == state
    assert set(vars(scaler)) == before
    assert probe.run.steps() == [0]


def test_probes_that_share_a_scaler_leave_it_in_any_order(tmp_path: Path) -> None:
    scaler, models = scaler_of(), [net(seed) for seed in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    probes = [
        gs.watch(model, optimizer, out=tmp_path / str(place), every=1, scaler=scaler)
        for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True))
    ]
    (x, y), *_ = batches(1)
    for place in (1, 0, 2):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
        scaler.update()
        probes[place].close()
    assert [probe.run.skipped() for probe in probes] == [[0, 1], [0], [0, 1, 2]]
    assert not {"step", "update", "unscale_"} & set(vars(scaler))


def test_a_scaler_is_a_scaler(tmp_path: Path) -> None:
    with pytest.raises(InvalidTypeError, match=r"^scaler is a torch\.amp\.GradScaler, not float$"):
        gs.watch(net(), out=tmp_path / "run", scaler=65536.0)  # type: ignore[arg-type]


def test_a_disabled_scaler_that_was_not_given_is_no_loss_scale(tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS["sgd"], scaler_of(enabled=False), told=False)
    assert run.events.empty


def test_another_scaler_than_the_one_given_is_noticed(tmp_path: Path) -> None:
    model, given, used = net(), scaler_of(), scaler_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (x, y), *_ = batches(1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=given) as probe:
        used.scale(F.cross_entropy(model(x), y)).backward()
        with pytest.warns(UserWarning, match=r"^the loss is scaled \(GradScaler.step called the optimizer\)"):
            used.step(optimizer)
    assert probe.run.steps() == [0]


def test_an_optimizer_that_is_given_the_scaler_unscales_by_itself(tmp_path: Path) -> None:
    class Own(torch.optim.SGD):
        """What GradScaler does with optimizers written before ``grad_scale``."""

        _step_supports_amp_scaling = True

        def step(self, closure: Any = None, *, grad_scaler: GradScaler | None = None) -> Any:
            assert grad_scaler is not None
            grad_scaler.unscale_(self)
            return super().step()

    bare = train(tmp_path / "bare", OPTIMIZERS["sgd"], None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "GradScaler is going to stop passing itself", FutureWarning)
        run = train(tmp_path / "run", lambda parameters: Own(parameters, lr=0.1), scaler_of())
    assert_same(run, bare)
    # Its step calls that of SGD, whose hooks are called too.
    assert run.steps() == bare.steps() == [0, 1, 2, 3]


@pytest.mark.parametrize("fused", [False, True])
def test_a_training_with_a_scaler_is_bit_identical(fused: bool, tmp_path: Path) -> None:
    seen: list[list[Any]] = []
    for watched in (False, True):
        model, scaler = net(), scaler_of(init_scale=2.0**34, growth_interval=2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
        probe = gs.watch(model, optimizer, out=tmp_path / "run", every=2, scaler=scaler) if watched else None
        seen.append([])
        for x, y in batches(20):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            seen[-1] += [None if one.grad is None else one.grad.clone() for one in model.parameters()]
            scaler.step(optimizer)
            scaler.update()
            seen[-1] += [loss.detach(), torch.tensor(scaler.get_scale()), *(one.clone() for one in model.parameters())]
        if probe:
            probe.close()
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(*seen, strict=True))
    skipped = gs.load(tmp_path / "run").skipped()
    assert 0 < len(skipped) < 10
