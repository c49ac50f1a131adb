"""What runs on a GPU, run on the CPU: numbers stay in tensors and come to the host in one transfer a recorded step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from odd_models import ZOO, Odd, loss_of

import gradscope as gs
from gradscope.metrics import Ratio, unregister
from gradscope.probe import observer, reduce


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Treat every tensor as one on a device; return the list that counts transfers."""
    transfers: list[int] = []
    read = reduce.Tape.read

    def counting(tape: reduce.Tape) -> object:
        numbers = read(tape)
        transfers.append(tape.transfers)
        return numbers

    for module in (reduce, observer):
        monkeypatch.setattr(module, "on_host", lambda tensor: False)
    monkeypatch.setattr(reduce.Tape, "read", counting)
    return transfers


def record(kind: type[Odd], folder: Path) -> gs.Run:
    torch.manual_seed(1)
    model = kind()
    x = torch.randn(kind.shape)
    torch.manual_seed(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=folder, every=2, metrics="all") as probe:
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(model(x))
            loss.backward()
            probe.log(loss=loss)
            optimizer.step()
    return probe.run


@pytest.mark.parametrize("kind", ZOO, ids=lambda kind: kind.__name__)
def test_the_device_path_records_the_same(kind: type[Odd], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    near = record(kind, tmp_path / "near")
    transfers = request.getfixturevalue("far_away")
    far = record(kind, tmp_path / "far")
    for metric in near.metrics:
        np.testing.assert_allclose(far.frame(metric), near.frame(metric), rtol=1e-4, atol=1e-6, err_msg=metric)
    np.testing.assert_allclose(far.scalars["value"], near.scalars["value"], rtol=1e-6)
    # Steps 0 and 2; the loss of step 1 travels with step 2, and nothing is left for the end.
    assert [count for count in transfers if count] == [1, 1]
    assert len(near.histograms) == len(far.histograms)


def test_a_ratio_of_a_number_and_a_tensor(tmp_path: Path, far_away: list[int]) -> None:
    @gs.metric(label="Share of one")
    def share_of_one(output: torch.Tensor) -> Ratio:
        return Ratio(1.0, output.abs().sum())

    try:
        model = torch.nn.Linear(6, 2)
        with gs.watch(model, out=tmp_path / "run", every=1, metrics="share_of_one") as probe:
            out = model(torch.randn(4, 6))
            out.sum().backward()
            probe.step()
    finally:
        unregister("share_of_one")
    assert probe.run.profile("share_of_one")[1] == pytest.approx(1 / float(out.detach().abs().sum()), rel=1e-6)
    assert [count for count in far_away if count] == [1]
