"""Mixed precision: recorded gradients carry no loss scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mixed_precision import OPTIMIZERS, SCALE, SCALED, assert_same, batches, net, scaler_of, train
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

import gradscope as gs
from gradscope.probe import observer, reduce
from gradscope.runs import Run


@pytest.mark.parametrize("clip", [None, 0.1], ids=["as is", "clipped after unscale_"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recorded_values_are_the_same_with_and_without_a_scaler(name: str, clip: float | None, tmp_path: Path) -> None:
    bare = train(tmp_path / "bare", OPTIMIZERS[name], None, clip=clip)
    scaled = train(tmp_path / "scaled", OPTIMIZERS[name], scaler_of(), clip=clip)
    assert_same(scaled, bare)
    assert scaled.skipped() == []
    assert list(scaled.events["text"]) == [SCALED]


@pytest.mark.parametrize("name", ["sgd", "fused adamw"])
def test_clipping_shows_between_the_raw_and_the_applied_gradient(name: str, tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS[name], scaler_of(), clip=0.1, steps=1)
    raw, applied = run.profile("weight_grad_norm_raw"), run.profile("weight_grad_norm")
    biases = run.profile("bias_grad_norm")
    assert float(np.sqrt((applied**2).sum() + (biases**2).sum())) == pytest.approx(0.1, rel=1e-4)
    ratios = (applied / raw).to_numpy()
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
    assert 0.01 < ratios[0] < 1.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scale_that_grows_and_falls_is_undone_step_by_step(name: str, tmp_path: Path) -> None:
    scaler = scaler_of(growth_interval=1)
    run = train(tmp_path / "run", OPTIMIZERS[name], scaler, spoil=(2,), steps=5)
    # Twice up, once down, twice up.
    assert scaler.get_scale() == SCALE * 2**3
    norms = run.frame("output_grad_norm").to_numpy()
    raw = run.frame("weight_grad_norm_raw").to_numpy()
    applied = run.frame("weight_grad_norm").to_numpy()
    assert ((norms > 0.01) & (norms < 1.0)).all()
    taken = [0, 1, 3, 4]
    np.testing.assert_allclose(raw[taken], applied[taken], rtol=1e-5)
    assert ((raw[taken] > 0.01) & (raw[taken] < 1.0)).all()


@pytest.mark.parametrize("name", ["sgd", "fused sgd"])
def test_micro_batches_under_a_scaler_equal_the_big_batch(name: str, tmp_path: Path) -> None:
    # Not additive: what one micro-batch makes of a spread, a window of samples, or what is below half precision.
    but = ("sample_spread", "dead_fraction", "input_share", "output_std", "activation_std", "effective_rank")
    big = train(tmp_path / "big", OPTIMIZERS[name], None)
    parts = train(tmp_path / "parts", OPTIMIZERS[name], scaler_of(), micro_batches=4)
    assert_same(parts, big, but=but)


def test_two_models_of_a_gan_under_one_scaler(tmp_path: Path) -> None:
    def run_gan(folder: Path, scaler: GradScaler | None) -> tuple[Run, Run]:
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6))
        critic = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        slow = torch.optim.SGD(generator.parameters(), lr=0.05)
        fast = torch.optim.SGD(critic.parameters(), lr=0.05)
        metrics = ["output_grad_norm", "weight_grad_norm", "update_ratio", "bias_grad_norm"]

        def finish(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)

        with (
            gs.watch(critic, fast, out=folder / "critic", every=1, scaler=scaler, metrics=metrics) as first,
            gs.watch(generator, slow, out=folder / "generator", every=1, scaler=scaler, metrics=metrics) as second,
        ):
            for x, _ in batches(5):
                fast.zero_grad()
                finish(critic(generator(torch.randn(12, 4)).detach()).mean() - critic(x).mean(), fast)
                slow.zero_grad()
                finish(-critic(generator(torch.randn(12, 4))).mean(), slow)
                if scaler is not None:
                    scaler.update()
        return first.run, second.run

    scaler = scaler_of()
    bare, scaled = run_gan(tmp_path / "bare", None), run_gan(tmp_path / "scaled", scaler)
    for expected, found in zip(bare, scaled, strict=True):
        assert found.steps() == [0, 1, 2, 3, 4]
        assert_same(found, expected)
    assert not {"step", "update", "unscale_"} & set(vars(scaler))


def test_backward_passes_of_two_scales_in_one_number_are_not_recorded(tmp_path: Path) -> None:
    model = nn.ModuleDict({"generator": nn.Linear(6, 6), "critic": nn.Linear(6, 1)})
    slow = torch.optim.SGD(model["generator"].parameters(), lr=0.05)
    fast = torch.optim.SGD(model["critic"].parameters(), lr=0.05)
    scaler = scaler_of(growth_interval=1)
    with gs.watch(model, [fast, slow], out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for x, _ in batches(2):
            for optimizer, fake in ((fast, model["generator"](x).detach()), (slow, model["generator"](x))):
                optimizer.zero_grad()
                scaler.scale(model["critic"](fake).mean()).backward()
                scaler.step(optimizer)
                scaler.update()
    run = probe.run
    assert set(run.rows("output_grad_norm")["layer"]) == {"generator"}
    # The gradient that the optimizer applied is known all the same.
    applied = run.frame("weight_grad_norm")
    assert applied.notna().to_numpy().all()
    assert (applied.to_numpy() < 10).all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("when", ["before the scaler", "between step and update", "after update"])
def test_probe_step_takes_the_place_of_an_optimizer(when: str, fused: bool, tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, fused=fused)
    scaler = scaler_of(growth_interval=1)
    (x, y), *_ = batches(1)
    with gs.watch(model, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if step == 2 and when != "before the scaler":
                model[0].bias.grad[0] = torch.inf
            if when == "before the scaler":
                probe.step()
            scaler.step(optimizer)
            if when == "between step and update":
                probe.step()
            scaler.update()
            if when == "after update":
                probe.step()
    run = probe.run
    for metric in ("output_grad_norm", "weight_grad_norm", "weight_grad_norm_raw"):
        values = run.frame(metric).to_numpy()
        np.testing.assert_allclose(values, values[[0, 0, 0, 0]], rtol=1e-5, err_msg=metric)
    np.testing.assert_allclose(run.frame("weight_grad_norm"), run.frame("weight_grad_norm_raw"), rtol=1e-5)
    assert run.skipped() == ([] if when == "before the scaler" else [2])


def test_a_layer_that_thaws_while_gradients_accumulate(tmp_path: Path) -> None:
    """Frozen is not vanishing: no rows of its gradients until it thaws, then the same as without a scaler."""

    def frozen_at_first(folder: Path, scaler: GradScaler | None) -> Run:
        model = net()
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with gs.watch(model, optimizer, out=folder, every=1, scaler=scaler, metrics="all") as probe:
            for step, (x, y) in enumerate(batches(4)):
                optimizer.zero_grad()
                model[0].requires_grad_(step >= 2)
                for rows in torch.arange(len(x)).chunk(3):
                    loss = F.cross_entropy(model(x[rows]), y[rows]) / 3
                    (scaler.scale(loss) if scaler else loss).backward()
                if scaler:
                    scaler.step(optimizer)
                    scaler.update()
                else:
                    optimizer.step()
        return probe.run

    bare, scaled = (frozen_at_first(tmp_path / str(one), one) for one in (None, scaler_of(growth_interval=1)))
    assert_same(scaled, bare)
    assert scaled.frame("weight_grad_norm")[1].isna().tolist() == [True, True, False, False]


@pytest.mark.parametrize("name", ["sgd", "fused sgd"])
def test_on_a_device_scales_travel_with_the_numbers_of_the_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = train(tmp_path / "near", OPTIMIZERS[name], scaler_of(growth_interval=1), spoil=(1,))
    for module in (reduce, observer):
        monkeypatch.setattr(module, "on_host", lambda tensor: False)
    far = train(tmp_path / "far", OPTIMIZERS[name], scaler_of(growth_interval=1), spoil=(1,))
    assert far.skipped() == near.skipped() == [1]
    taken = [0, 2, 3]
    for metric in ("output_grad_norm", "weight_grad_norm", "weight_grad_norm_raw", "bias_grad_norm", "update_ratio"):
        left, right = far.frame(metric).loc[taken], near.frame(metric).loc[taken]
        np.testing.assert_allclose(left, right, rtol=1e-5, err_msg=metric)
