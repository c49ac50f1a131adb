from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradscope.runs import Run, Writer, load
from gradscope.spec import LayerSpec, MetricSpec

NORMS = ("output_grad_norm", "input_grad_norm", "next_input_grad_norm")


@pytest.fixture
def metrics() -> tuple[MetricSpec, ...]:
    return (MetricSpec("a", "A"), MetricSpec("b", "B", dtype="float32"))


@pytest.fixture
def chain() -> Callable[..., list[LayerSpec]]:
    def build(count: int, activation: str = "relu") -> list[LayerSpec]:
        return [
            LayerSpec(
                id=place,
                layer=f"net.{place}",
                call=1,
                depth=place + 1,
                parents=(place - 1,) if place else (),
                activation=activation,
                fan_in=4,
                fan_out=4,
                parameters=20,
            )
            for place in range(count)
        ]

    return build


@pytest.fixture
def fill(chain: Callable[..., list[LayerSpec]]) -> Callable[..., None]:
    """Write steps of recognisable values: metric m of layer l at step s is s + l/100 + m/1000."""

    def write(writer: Writer, steps: Sequence[int], layers: int = 3, columns: int = 2) -> None:
        ids = np.arange(layers, dtype=np.int32)
        for step in steps:
            values = step + ids[:, None] / 100 + np.arange(columns)[None, :] / 1000
            writer.rows(step, ids, values, np.ones(values.shape, np.bool_))

    return write


@pytest.fixture
def recorded(
    tmp_path: Path, metrics: tuple[MetricSpec, ...], chain: Callable[..., list[LayerSpec]]
) -> Callable[..., Run]:
    """Record one profile of the three norms of a chain, and load the run."""

    def record(output: Sequence[float], own: Sequence[float], total: Sequence[float], parents: Any = None) -> Run:
        specs = chain(len(output))
        if parents is not None:
            specs = [
                LayerSpec(id=one.id, layer=one.layer, call=1, depth=one.depth, parents=parents[one.id]) for one in specs
            ]
        writer = Writer(str(tmp_path / "recorded"), metrics=[MetricSpec(name, name) for name in NORMS])
        writer.describe(specs)
        values = np.array([output, own, total], dtype=np.float64).T
        writer.rows(0, np.arange(len(output), dtype=np.int32), np.nan_to_num(values, nan=1.0), ~np.isnan(values))
        writer.close()
        run = load(str(tmp_path / "recorded"))
        assert isinstance(run, Run)
        return run

    return record
