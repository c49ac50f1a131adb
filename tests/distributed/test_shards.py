"""Pooling: the values of shards become those of the whole, or are absent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import gradscope as gs
from gradscope.metrics import registered
from gradscope.runs import Run, Writer
from gradscope.runs.shards import POOLED, SHARDS, needed, pool
from gradscope.signals import SIGNALS
from gradscope.spec import LayerSpec, MetricSpec

DEPTHS = {rank: {7: 1} for rank in range(8)}


def measures(w: NDArray[Any], g: NDArray[Any], dw: NDArray[Any]) -> dict[str, float | None]:
    """What a recording makes of a weight, its gradient and its update."""
    if not w.size:
        return {}
    rms = {name: float(np.sqrt(np.mean(one**2))) for name, one in {"w": w, "g": g, "dw": dw}.items()}
    return {
        "weight_grad_norm": float(np.linalg.norm(g)),
        "weight_grad_rms": rms["g"],
        "weight_grad_zero_fraction": float(np.mean(g == 0)),
        "bias_grad_norm": float(np.linalg.norm(g)),
        "weight_rms": rms["w"],
        "bias_rms": rms["w"],
        "update_ratio": rms["dw"] / rms["w"] if rms["w"] else None,
    }


def shard(step: int, rank: int, part: float, copies: int, values: dict[str, float | None]) -> dict[str, Any]:
    shares = {f"{name}_share": part for name in ("weight", "bias")}
    return {"step": step, "rank": rank, "id": 7, **shares, "weight_copies": copies, "bias_copies": copies, **values}


def pooled(metric: str, rows: list[dict[str, Any]]) -> dict[int, float]:
    table = pa.Table.from_pylist(rows, schema=SHARDS)
    step, depth, value = pool(metric, {name: table[name] for name in needed(metric)}, DEPTHS)
    assert set(depth.tolist()) <= {1}
    return dict(zip(step.tolist(), value.tolist(), strict=True))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6).filter(any),
    st.integers(1, 3),
    st.integers(-30, 30),
    st.randoms(use_true_random=False),
)
def test_shards_of_any_sizes_pool_to_the_whole(sizes: list[int], copies: int, exponent: int, random: Any) -> None:
    numbers = np.random.default_rng(random.randrange(2**32))
    w, g, dw = (numbers.normal(size=sum(sizes)) * 10.0**exponent for _ in range(3))
    g[numbers.random(len(g)) < 0.3] = 0.0
    ends = np.cumsum([0, *sizes])
    rows = [
        shard(3, place * copies + copy, size / sum(sizes) / copies, copies, measures(*(one[a:b] for one in (w, g, dw))))
        for place, (size, a, b) in enumerate(zip(sizes, ends[:-1], ends[1:], strict=True))
        for copy in range(copies)
    ]
    for one in rows:
        one["rank"] %= 8
    whole = measures(w, g, dw)
    for metric in POOLED:
        np.testing.assert_allclose(pooled(metric, rows)[3], whole[metric], rtol=1e-9)


@pytest.mark.parametrize("metric", POOLED)
def test_a_missing_rank_leaves_nothing(metric: str) -> None:
    values = dict.fromkeys(POOLED, 1.0)
    rows = [shard(step, rank, 0.5, 1, values) for step in (0, 10) for rank in (0, 1)]
    assert list(pooled(metric, rows)) == [0, 10]
    assert list(pooled(metric, rows[:3])) == [0]
    assert pooled(metric, rows[:1]) == {}
    assert pooled(metric, []) == {}
    assert pooled(metric, [*rows[:2], rows[1]]) == {}  # recorded twice
    absent = {**rows[1], metric: None}
    assert pooled(metric, [rows[0], absent]) == {}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("metric", ["weight_grad_norm", "weight_grad_rms", "bias_grad_norm", "weight_rms"])
def test_nan_and_infinity_stay_what_they_are(metric: str, bad: float) -> None:
    values = dict.fromkeys(POOLED, 1.0)
    rows = [shard(0, 0, 0.5, 1, {**values, metric: bad}), shard(0, 1, 0.5, 1, values)]
    np.testing.assert_equal(pooled(metric, rows)[0], bad)


def test_a_ratio_without_a_denominator_is_absent() -> None:
    rows = [shard(0, rank, 0.5, 1, {"update_ratio": 0.0, "weight_rms": 0.0}) for rank in (0, 1)]
    assert pooled("update_ratio", rows) == {}
    assert pooled("update_ratio", [{**one, "weight_rms": None} for one in rows]) == {}


def test_every_metric_of_parameters_can_be_pooled_or_is_known_not_to_be() -> None:
    of_parameters = {
        name
        for name, one in registered().items()
        if one.spec.group != "custom" and any(SIGNALS[request.signal].phase == "step" for request in one.requests)
    }
    assert of_parameters - set(POOLED) == {"weight_grad_norm_raw"}  # what reaches a shard has been averaged


def test_views_of_a_run_with_shards(tmp_path: Path) -> None:
    metrics = [MetricSpec("weight_grad_norm", "W"), MetricSpec("output_grad_norm", "O")]
    layers = [LayerSpec(7, "sharded", 1, 1), LayerSpec(8, "plain", 1, 2)]
    for rank, norm in enumerate([3.0, np.nan]):
        writer = Writer(tmp_path, metrics=metrics, rank=rank)
        writer.describe(layers)
        for step in (0, 1):
            values = np.array([[0.0, 5.0], [2.0, 6.0]]) + rank
            writer.rows(step, np.array([7, 8], np.int32), values, np.array([[False, True], [True, True]]))
            writer.append("shards", [shard(step, rank, 0.5, 1, {"weight_grad_norm": 4.0 if step and rank else norm})])
        writer.close()
    run = Run(tmp_path)
    np.testing.assert_equal(run.profile("weight_grad_norm", 0).to_dict(), {1: np.nan, 2: 2.0})
    assert run.profile("weight_grad_norm", 1, rank=1).to_dict() == {1: 5.0, 2: 3.0}
    assert run.rows("weight_grad_norm")["layer"].tolist() == ["sharded", "plain"] * 2
    assert run.frame("output_grad_norm", rank=1).to_numpy().tolist() == [[6.0, 7.0]] * 2
    assert run.nonfinite[["step", "rank", "layer", "nonfinite"]].to_numpy().tolist() == [
        [0, 0, "sharded", 1],
        [0, 1, "sharded", 1],
    ]
    assert [(one.code, one.layers) for one in gs.diagnose(run)] == [("non-finite", (1,))]
    assert run.shards[["rank", "layer", "weight_share"]].drop_duplicates().to_numpy().tolist() == [
        [0, "sharded", 0.5],
        [1, "sharded", 0.5],
    ]


def test_a_live_run_shows_what_all_ranks_have_written(tmp_path: Path) -> None:
    metrics = [MetricSpec("weight_rms", "W")]
    writers = [Writer(tmp_path, metrics=metrics, rank=rank) for rank in (0, 1)]
    run = Run(tmp_path)
    for rank, writer in enumerate(writers):
        writer.describe([LayerSpec(7, "sharded", 1, 1)])
        writer.append("shards", [shard(0, rank, 0.5, 1, {"weight_rms": 2.0})])
        writer.flush()
        assert run.refresh()
        assert run.steps("weight_rms") == [0] * rank
    for writer in writers:
        writer.close()
