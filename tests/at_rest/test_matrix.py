"""Watching changes nothing, over a matrix of models, optimizers, metrics and schedules."""

from __future__ import annotations

import pytest
import torch
from torch.amp import GradScaler
from trainings import MODELS, OPTIMIZERS, Autocast, Training, mlp, trained, vectors

import gradscope as gs


def verified(one: Training, **settings: object) -> gs.at_rest.Report:
    return gs.verify(one.model, one.optimizer, one.loss_fn, one.batch, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    report = verified(MODELS[name]())
    assert report.identical, str(report)
    kinds = {"losses", "gradients", "parameters", "optimizer state", "random states", "settings", "hooks", "attributes"}
    assert kinds <= set(report.checked)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name: str) -> None:
    report = verified(trained(mlp(), vectors(), OPTIMIZERS[name]))
    assert report.identical, str(report)
    assert report.checked["losses"] >= 3


@pytest.mark.parametrize("metrics", ["default", "all", "histograms", "backward", ["output_rms"]])
@pytest.mark.parametrize("every", [1, 2, 5])
def test_metrics_and_schedules(metrics: str | list[str], every: int) -> None:
    report = verified(MODELS["batch norm"](), metrics=metrics, every=every, steps=4)
    assert report.identical, str(report)
    assert (report.steps, report.every) == (4, every)


SCALERS = {
    "scaled": {"init_scale": 2.0**10},
    "skipping": {"init_scale": 2.0**120, "growth_interval": 2},
    "growing": {"init_scale": 4.0, "growth_interval": 1},
    "disabled": {"enabled": False},
}


@pytest.mark.parametrize("scaler", SCALERS)
@pytest.mark.parametrize("optimizer", ["SGD", "SGD, fused", "Adam", "AdamW, fused"])
def test_mixed_precision_with_a_scaler(optimizer: str, scaler: str) -> None:
    one = trained(Autocast(torch.float16), vectors(), OPTIMIZERS[optimizer])
    given = GradScaler("cpu", **SCALERS[scaler])  # type: ignore[arg-type]
    before = given.state_dict()
    report = verified(one, scaler=given, steps=4)
    assert report.identical, str(report)
    assert given.state_dict() == before
    assert ("scaler" in report.checked) == (scaler != "disabled")


def test_a_training_under_way() -> None:
    one = trained(mlp(), vectors(), OPTIMIZERS["Adam"])
    for _ in range(3):
        torch.nn.functional.cross_entropy(one.model(one.batch[0]), one.batch[1]).backward()
        one.optimizer.step()
    report = verified(one)
    assert report.identical, str(report)


def test_an_optimizer_with_a_scheduler() -> None:
    one = trained(mlp(), vectors(), OPTIMIZERS["Adam"])
    torch.optim.lr_scheduler.StepLR(one.optimizer, 1)
    before = [parameter.clone() for parameter in one.model.parameters()]
    assert verified(one).identical
    assert all(torch.equal(a, b) for a, b in zip(before, one.model.parameters(), strict=True))


def test_a_model_that_is_being_watched(tmp_path_factory: pytest.TempPathFactory) -> None:
    one = trained(mlp(), vectors())
    with gs.watch(one.model, one.optimizer, out=tmp_path_factory.mktemp("run") / "run", every=1) as probe:
        assert verified(one).identical
        assert not probe.closed
    assert probe.run.frame("output_rms").empty


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_models_on_a_gpu(name: str) -> None:
    one = MODELS[name]()
    model = one.model.cuda()
    batch = tuple(value.cuda() if isinstance(value, torch.Tensor) else value for value in one.batch)
    report = gs.verify(model, one.optimizer, one.loss_fn, (batch[0], batch[1]))
    assert report.identical or not report.reproducible, str(report)
    assert "torch (cuda:0)" in {place for _, place, _ in gs.at_rest.world.World.now().observe()}
