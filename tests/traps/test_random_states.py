"""No metric draws a random number: what the training draws next is what it would have drawn alone.

A watcher that samples with the global generator changes dropout and shuffling, as torchexplorer's histograms do.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trainings import MODELS

import gradscope as gs
from gradscope.metrics import registered

BUILT_IN = [name for name, one in registered().items() if one.function.__module__.startswith("gradscope.")]


def draws(
    model: nn.Module, batch: tuple[Tensor, Tensor], folder: Path | None, metrics: str | list[str]
) -> list[object]:
    """What each generator gives after every step of a training."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global generator is the one that others share
    probe = gs.watch(model, out=folder, every=1, metrics=metrics) if folder else None
    found: list[object] = []
    for _ in range(3):
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        if probe:
            probe.step()
        found += [torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002
    if probe:
        probe.close()
        assert probe.run is not None
        gs.diagnose(probe.run)
    return [*found, torch.rand(()).item(), random.random(), np.random.rand()]  # noqa: NPY002


@pytest.mark.parametrize("metric", [*BUILT_IN, "all", "histograms", "default"])
def test_the_generators_are_left_alone(metric: str, tmp_path: Path) -> None:
    bare, watched = (
        draws(one.model, one.batch, folder, metric)
        for one, folder in ((MODELS["dropout"](), None), (MODELS["dropout"](), tmp_path / "run"))
    )
    assert bare[:-3] == watched[:-3]
    assert bare[-3:] == watched[-3:]


@pytest.mark.parametrize("call", ["coverage", "run", "cost", "layers", "event", "log", "diagnose"])
def test_asking_the_probe_draws_nothing(call: str, tmp_path: Path) -> None:
    one = MODELS["dropout"]()
    probe = gs.watch(one.model, out=tmp_path / "run", every=1, metrics="all")
    nn.functional.cross_entropy(one.model(one.batch[0]), one.batch[1]).backward()
    probe.step()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    {
        "coverage": probe.coverage,
        "run": lambda: probe.run,
        "cost": lambda: probe.cost,
        "layers": lambda: probe.layers,
        "event": lambda: probe.event("here"),
        "log": lambda: probe.log(loss=torch.tensor(1.0)),
        "diagnose": lambda: gs.diagnose(probe.run),
    }[call]()
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    probe.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("metric", [*BUILT_IN, "histograms"])
def test_the_generator_of_a_gpu_is_left_alone(metric: str, tmp_path: Path) -> None:
    one = MODELS["dropout"]()
    model, x, y = one.model.cuda(), one.batch[0].cuda(), one.batch[1].cuda()
    states = []
    for watched in (False, True):
        torch.cuda.manual_seed_all(0)
        probe = gs.watch(model, out=tmp_path / "run", every=1, metrics=metric) if watched else None
        nn.functional.cross_entropy(model(x), y).backward()
        if probe:
            probe.step()
            probe.close()
        states.append(torch.cuda.get_rng_state())
    assert torch.equal(*states)
