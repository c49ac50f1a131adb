"""fully_shard: metrics of parameters are those of the whole parameters, error signals those of each rank's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ranks import Ranks, load_file

import gradscope as gs
from gradscope.errors import RunFormatError

FILE = Path(__file__).with_name("fsdp_training.py")
training = load_file(FILE)
POOLED = (
    "weight_grad_norm",
    "weight_grad_rms",
    "weight_grad_zero_fraction",
    "bias_grad_norm",
    "weight_rms",
    "update_ratio",
)
LOCAL = ("output_grad_norm", "input_grad_norm", "next_input_grad_norm", "output_std", "slope_rms", "activation_mean")


def load(folder: Path) -> Any:
    run = gs.load(folder)
    assert run.events.empty, run.events["text"].tolist()
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


CASES: dict[str, dict[str, Any]] = {
    "whole": {"how": "whole"},
    "layer by layer": {"how": "layers"},
    "by block": {"how": "block"},
    "reshard_after_forward": {"how": "layers", "reshard_after_forward": True},
    "no reshard_after_forward": {"how": "layers", "reshard_after_forward": False},
    "accumulated": {"how": "block", "parts": 2},
}


@pytest.mark.parametrize("case", CASES)
def test_metrics_of_parameters_are_those_of_the_whole(ranks: Ranks, joint: Any, tmp_path: Path, case: str) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), **CASES[case])
    run = load(tmp_path / "run")
    assert run.layers["layer"].tolist() == joint.layers["layer"].tolist()
    assert run.layers["kind"].tolist() == ["Linear"] * 4
    for metric in POOLED:
        for rank in (0, 1):
            same(run.frame(metric, rank=rank), joint.frame(metric))
        same(run.profile(metric, 1).to_frame(), joint.profile(metric, 1).to_frame())


@pytest.mark.parametrize("case", ["whole", "layer by layer", "by block"])
def test_error_signals_are_those_of_the_data_of_each_rank(ranks: Ranks, tmp_path: Path, case: str) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), **CASES[case])
    run = load(tmp_path / "run")
    for rank in (0, 1):
        training.alone(str(tmp_path / f"half-{rank}"), half=rank)
        half = load(tmp_path / f"half-{rank}")
        assert run.layers["activation"].tolist() == half.layers["activation"].tolist()
        assert run.layers["parents"].tolist() == half.layers["parents"].tolist()
        assert [one.resolved for one in run.specs] == [one.resolved for one in half.specs]
        for metric in half.metrics:
            if metric not in (*POOLED, "weight_grad_norm_raw") and not half.frame(metric).empty:
                found, expected = run.profile(metric, 0, rank=rank), half.profile(metric, 0)
                same(found.to_frame(), expected.to_frame())
        assert run.steps("weight_grad_norm_raw", rank=rank) == []


def test_error_signals_of_the_ranks_make_up_those_of_the_joint_batch(ranks: Ranks, joint: Any, tmp_path: Path) -> None:
    """The loss is a mean: over both ranks the joint output gradient has the norm sqrt(a^2 + b^2) / 2, at every step."""
    ranks.run(FILE, "train", str(tmp_path / "run"), how="block")
    run = load(tmp_path / "run")
    both = np.hypot(run.frame("output_grad_norm"), run.frame("output_grad_norm", rank=1)) / 2
    same(both, joint.frame("output_grad_norm"))


def test_a_model_that_is_sharded_in_part(ranks: Ranks, joint: Any, tmp_path: Path) -> None:
    """The rest is replicated and its gradients stay local: nothing is pooled there."""
    ranks.run(FILE, "train", str(tmp_path / "run"), how="part", metrics=["weight_rms", "weight_grad_norm"])
    run = load(tmp_path / "run")
    assert sorted(set(run.shards["layer"])) == ["block.0", "block.2"]
    profile = run.profile("weight_rms", 0)
    np.testing.assert_allclose(profile.to_numpy(), joint.profile("weight_rms", 0).to_numpy(), rtol=1e-6)
    for rank in (0, 1):
        training.alone(str(tmp_path / f"half-{rank}"), half=rank)
        half = load(tmp_path / f"half-{rank}")
        own, expected = (one.profile("weight_grad_norm", 0, rank=r) for one, r in ((run, rank), (half, 0)))
        np.testing.assert_allclose(own[[1, 4]], expected[[1, 4]], rtol=1e-5)
        np.testing.assert_allclose(own[[2, 3]], joint.profile("weight_grad_norm", 0)[[2, 3]], rtol=1e-5)


def test_mixed_precision(ranks: Ranks, joint: Any, tmp_path: Path) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), how="block", bf16=True)
    run = load(tmp_path / "run")
    assert run.layers["activation"].tolist() == joint.layers["activation"].tolist()
    for metric in POOLED:
        if metric != "weight_grad_zero_fraction":  # in half precision other entries are exactly zero
            same(run.frame(metric), joint.frame(metric), rtol=0.1)
    same(run.frame("weight_rms").loc[[0]], joint.frame("weight_rms").loc[[0]])
    both = np.hypot(run.frame("next_input_grad_norm"), run.frame("next_input_grad_norm", rank=1)) / 2
    same(both, joint.frame("next_input_grad_norm"), rtol=0.1)


def test_without_an_optimizer(ranks: Ranks, joint: Any, tmp_path: Path) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), without_optimizer=True)
    run = load(tmp_path / "run")
    for metric in POOLED[:-1]:
        same(run.frame(metric), joint.frame(metric))
    assert run.steps("update_ratio") == []


@pytest.mark.parametrize("optimizer", ["AdamW", "RMSprop"])
def test_other_optimizers(ranks: Ranks, tmp_path: Path, optimizer: str) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), optimizer=optimizer)
    training.alone(str(tmp_path / "alone"), optimizer=optimizer)
    run, alone = load(tmp_path / "run"), load(tmp_path / "alone")
    for metric in POOLED:
        same(run.frame(metric).loc[[0]], alone.frame(metric).loc[[0]])


@pytest.mark.parametrize("watching", [0, 1])
def test_watching_on_one_rank_neither_hangs_nor_records_what_it_cannot_know(
    ranks: Ranks, joint: Any, tmp_path: Path, watching: int
) -> None:
    bare = ranks.run(FILE, "train", str(tmp_path / "none"), watching=())
    assert ranks.run(FILE, "train", str(tmp_path / "run"), watching=(watching,)) == bare
    if watching == 1:
        with pytest.raises(RunFormatError) as error:
            gs.load(tmp_path / "run")
        assert str(error.value) == (
            f"'{tmp_path / 'run'}' holds rows of rank 1 but no run.json, which rank 0 writes and did not, or not yet"
        )
        return
    run = load(tmp_path / "run")
    for metric in (*POOLED, "weight_grad_norm_raw"):
        if (
            metric.startswith("weight_grad") and metric != "weight_grad_norm_raw"
        ):  # rank 0 holds the one row of the head
            same(run.frame(metric), joint.frame(metric)[[4]])
        assert set(run.frame(metric)) <= {4}
        stored = pd.read_parquet(tmp_path / "run" / "layers")[metric]
        assert stored.isna().all()
    assert run.shards["weight_share"].tolist()[:4] == [5 / 9, 4 / 7, 5 / 9, 1.0]
    assert run.steps("output_grad_norm") == [0, 1, 2]
    text = run.coverage.set_index("layer")["text"]
    assert text["first"] == (
        "everything; its weight and bias are sharded and this rank holds 56%: metrics of parameters are pooled from "
        "the ranks that watch, and absent unless all do"
    )


def test_shards_that_several_ranks_hold_count_once(ranks: Ranks, joint: Any, tmp_path: Path) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), how="whole", shape=(2, 1))
    run = load(tmp_path / "run")
    assert set(run.shards["weight_share"]) == {0.5}
    assert set(run.shards["weight_copies"]) == {2}
    for metric in POOLED:
        same(run.frame(metric), joint.frame(metric))


def test_what_cannot_be_pooled_is_absent(ranks: Ranks, tmp_path: Path) -> None:
    """A metric of a user's own may be anything; a histogram of a shard would pass for one of the weight."""
    ranks.run(FILE, "train_with_own_metric", str(tmp_path / "run"))
    run = load(tmp_path / "run")
    for rank in (0, 1):
        assert run.frame("weight_grad_max", rank=rank).empty
        assert run.frame("output_grad_max", rank=rank).shape == (3, 4)
    assert set(run.histograms["quantity"]) == {"activation_input", "output_grad"}


def test_a_metric_that_mixes_a_sharded_weight_in_starts_no_collective(ranks: Ranks, tmp_path: Path) -> None:
    """A layer that is sharded by itself has its shard back before hooks on its call are reached."""
    ranks.run(FILE, "train_with_own_metric", str(tmp_path / "run"), how="layers", watching=(0,))
    run = load(tmp_path / "run")
    assert run.frame("weight_grad_max").empty


def test_tensor_parallel_layers_are_refused_in_words(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(FILE, "train_tensor_parallel", str(tmp_path / "run"))
    run = load(tmp_path / "run")
    for rank in (0, 1):
        for metric in ("output_grad_norm", "output_std", "weight_grad_norm_raw"):
            assert "2" not in set(run.rows(metric, rank=rank)["layer"])
    text = run.coverage.query("rank == 0").set_index("layer")["text"]
    assert text["2"].startswith("its weight is split within the forward pass (tensor parallel)")


def test_a_checkpointed_block_that_is_sharded(ranks: Ranks, joint: Any, tmp_path: Path) -> None:
    ranks.run(FILE, "train", str(tmp_path / "run"), how="checkpointed")
    run = load(tmp_path / "run")
    assert run.layers["layer"].tolist() == joint.layers["layer"].tolist()
    for metric in POOLED:
        same(run.frame(metric), joint.frame(metric))
    both = np.hypot(run.frame("next_input_grad_norm"), run.frame("next_input_grad_norm", rank=1)) / 2
    same(both, joint.frame("next_input_grad_norm"))
