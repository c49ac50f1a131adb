"""DistributedDataParallel: what is recorded is what one process would record on the joint batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ranks import RankFailedError, Ranks, load_file

import gradscope as gs
from gradscope.errors import RunFormatError, UnknownNameError

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
    "watched before": {"before": True},
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


def test_error_signals_carry_the_rank(ranks: Ranks, joint: Any, tmp_path: Path) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"))
    run = load(tmp_path / "run")
    for rank in (0, 1):
        half = half_of(rank, tmp_path)
        for metric in set(half.metrics) - set(PARAMETERS):
            if not half.frame(metric).empty:
                same(run.frame(metric, rank=rank).loc[[0]], half.frame(metric).loc[[0]])
        assert run.rows("output_grad_norm", rank=rank)["layer"].tolist() == ["0", "2", "4"] * training.STEPS
    # The loss is a mean, so that the joint error signal is half that of both ranks.
    both = np.hypot(run.frame("output_grad_norm"), run.frame("output_grad_norm", rank=1)) / 2
    same(both, joint.frame("output_grad_norm"))
    same(run.frame("output_grad_norm"), run.frame("output_grad_norm", rank=0))
    assert run.environment["world_size"] == 2


@pytest.mark.parametrize(
    "case",
    [
        {},
        {"parts": 4},
        {"to_none": False},
        {"clip": 0.01},
        {"gradient_as_bucket_view": True},
        {"gradient_as_bucket_view": True, "parts": 2},
        {"static_graph": True},
        {"compress": True},
    ],
    ids=str,
)
def test_the_raw_gradient_is_that_of_the_rank_alone(ranks: Ranks, tmp_path: Path, case: dict[str, Any]) -> None:
    """Before averaging and clipping; the first step starts from the same parameters as one process alone."""
    ranks.run(FILE, "train", str(tmp_path / "run"), **case)
    run = load(tmp_path / "run")
    for rank in (0, 1):
        expected = half_of(rank, tmp_path).frame("weight_grad_norm_raw")
        found = run.frame("weight_grad_norm_raw", rank=rank)
        assert found.shape == expected.shape
        same(found.loc[[0]], expected.loc[[0]])


@pytest.mark.parametrize("bucket_view", [False, True])
def test_a_raw_gradient_that_was_averaged_in_between_is_absent(
    ranks: Ranks, joint: Any, tmp_path: Path, bucket_view: bool
) -> None:
    options = {"parts": 2, "sync_all": True, "gradient_as_bucket_view": bucket_view}
    ranks.run(FILE, "train", str(tmp_path / "run"), **options)
    run = load(tmp_path / "run")
    for rank in (0, 1):
        assert run.steps("weight_grad_norm_raw", rank=rank) == []
        same(run.frame("weight_grad_norm", rank=rank), joint.frame("weight_grad_norm"))


def test_what_the_optimizer_applies_is_clipped(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), clip=0.01)
    training.alone(str(tmp_path / "alone"), clip=0.01)
    run, alone = load(tmp_path / "run"), load(tmp_path / "alone")
    for metric in ("weight_grad_norm", "bias_grad_norm", "update_ratio"):
        same(run.frame(metric, rank=1), alone.frame(metric))


def test_a_rank_without_gradients_halves_them_which_is_no_loss_scale(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), idle=(1,))
    run = load(tmp_path / "run")  # no remark
    same(run.frame("weight_grad_norm") * 2, run.frame("weight_grad_norm_raw"))
    assert (run.frame("weight_grad_norm_raw", rank=1) == 0.0).all(axis=None)
    same(run.frame("weight_grad_norm", rank=1), run.frame("weight_grad_norm"))


def test_gradients_averaged_in_half_precision(ranks: Ranks, joint: Any, tmp_path: Path) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), compress=True)
    run = load(tmp_path / "run")
    same(run.frame("weight_grad_norm"), joint.frame("weight_grad_norm"), rtol=1e-2)
    same(run.frame("weight_grad_norm", rank=1), run.frame("weight_grad_norm"), rtol=1e-12)


@pytest.mark.parametrize("watching", [0, 1])
def test_watching_on_one_rank_neither_hangs_nor_changes_anything(ranks: Ranks, tmp_path: Path, watching: int) -> None:
    bare = ranks.run(FILE, "train", str(tmp_path / "none"), watching=())
    assert bare[0] == bare[1]
    assert ranks.run(FILE, "train", str(tmp_path / "run"), watching=(watching,)) == bare
    if watching == 0:
        assert load(tmp_path / "run").steps() == [0, 1, 2]
        return
    with pytest.raises(RunFormatError) as error:
        gs.load(tmp_path)
    run = tmp_path / "run"
    assert sorted(one.name for one in run.glob("*.json")) == ["run-1.json"]
    assert str(error.value).startswith(f"'{tmp_path}' holds no run")
    with pytest.raises(RunFormatError) as error:
        gs.load(run)
    assert (
        str(error.value) == f"'{run}' holds rows of rank 1 but no run.json, which rank 0 writes and did not, or not yet"
    )


@pytest.mark.parametrize("how", ["wrapper", "inner", "checkpoint_wrapper", "compiled"])
def test_names_are_those_of_the_model(ranks: Ranks, tmp_path: Path, how: str) -> None:
    ranks.run(FILE, "train_named", str(tmp_path / "run"), how)
    run = load(tmp_path / "run")
    for rank in (0, 1):
        layers = run.rows("weight_grad_norm", rank=rank)["layer"].tolist()
        assert layers == ["block.0", "block.2", "module.head"]


def test_ranks_that_meet_layers_in_another_order(ranks: Ranks, tmp_path: Path) -> None:
    norms = ranks.run(FILE, "train_forked", str(tmp_path / "run"))
    run = load(tmp_path / "run")
    assert sorted(run.layers["layer"]) == ["first", "head", "ways.0", "ways.1"]
    for rank in (0, 1):
        rows = run.rows("output_grad_norm", rank=rank)
        ways = rows[rows["layer"].str.startswith("ways")]
        assert ways["layer"].tolist() == [f"ways.{(step + rank) % 2}" for step in range(training.STEPS)]
        np.testing.assert_allclose(ways["value"], norms[rank], rtol=1e-5)
    # The gradient of a way that this rank did not take comes from the other one.
    same(run.frame("weight_grad_norm"), run.frame("weight_grad_norm", rank=1), rtol=1e-12)
    assert run.frame("weight_grad_norm").notna().all(axis=None)


@pytest.mark.parametrize("first", [0, 1])
def test_ranks_open_and_resume_in_any_order(ranks: Ranks, tmp_path: Path, first: int) -> None:
    folder = str(tmp_path / "run")
    ranks.run(FILE, "open_in_order", folder, first)
    ranks.run(FILE, "open_in_order", folder, 1 - first, resume=True)
    run = load(tmp_path / "run")
    assert run.status == "finished"
    for rank in (0, 1):
        assert run.steps("output_grad_norm", rank=rank) == [0, 1]
        assert run.frame("output_grad_norm", rank=rank).shape == (2, 3)
    with pytest.raises(RankFailedError, match="already holds a run; choose another folder, or resume=True"):
        ranks.run(FILE, "open_in_order", folder, first)


def test_a_rank_without_a_folder(ranks: Ranks, tmp_path: Path) -> None:
    assert ranks.run(FILE, "watch_nowhere", str(tmp_path)) == [
        "",
        "rank 1 needs out= or name=: the ranks of a training write into one folder",
    ]


def test_an_unknown_rank(joint: Any) -> None:
    with pytest.raises(UnknownNameError) as error:
        joint.frame("weight_grad_norm", rank=3)
    assert str(error.value) == "no rank '3'; there are: 0"
    for view in (joint.steps, joint.skipped, joint.ledger, joint.decay):
        with pytest.raises(UnknownNameError):
            view(rank=3)


def test_verify_trains_copies_on_all_ranks(ranks: Ranks) -> None:
    assert ranks.run(FILE, "verify") == [True, True]


def half_of(rank: int, folder: Path) -> Any:
    """One process on the data of one rank."""
    training.alone(str(folder / f"half-{rank}"), samples=lambda x: x[rank::2])
    return load(folder / f"half-{rank}")
