"""DistributedDataParallel: what is recorded is what one process would record on the joint batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ranks import Ranks, load_file

import gradscope as gs

FILE = Path(__file__).with_name("ddp_training.py")
training = load_file(FILE)
PARAMETERS = (
    "weight_grad_norm",
    "weight_grad_rms",
    "weight_grad_zero_fraction",
    "bias_grad_norm",
    "weight_rms",
    "update_ratio",
)


def load(folder: Path) -> Any:
    run = gs.load(folder)
    assert not len(run.events)
    return run


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One process on the joint batches."""
    folder = tmp_path_factory.mktemp("joint") / "run"
    training.alone(str(folder))
    return load(folder)


def same(found: pd.DataFrame, expected: pd.DataFrame, rtol: float = 1e-5) -> None:
    assert found.index.tolist() == expected.index.tolist()
    assert found.columns.tolist() == expected.columns.tolist()
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=rtol)


CASES = {
    "wrapper": {},
    "module": {"inner": True},
    "no_sync": {"parts": 4},
    "synchronised every time": {"parts": 2, "sync_all": True},
    "zeros": {"to_none": False},
    "static_graph": {"static_graph": True},
    "find_unused_parameters": {"find_unused_parameters": True},
    "bucket_view": {"gradient_as_bucket_view": True},
    "bucket_view, no_sync": {"gradient_as_bucket_view": True, "parts": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_parameter_gradients_are_those_of_the_joint_batch_on_every_rank(
    ranks: Ranks, joint: Any, tmp_path: Path, case: str
) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), **CASES[case])
    run = load(tmp_path / "run")
    assert run.ranks == [0, 1]
    assert run.layers["layer"].tolist() == ["0", "2", "4"]
    assert run.layers["activation"].tolist() == ["tanh", "relu", "identity"]
    for rank in (0, 1):
        for metric in PARAMETERS:
            same(run.frame(metric, rank=rank), joint.frame(metric))
