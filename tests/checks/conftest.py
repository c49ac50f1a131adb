from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradscope.runs import Run, Writer, load
from gradscope.spec import LayerSpec, MetricSpec

NORMS = ("output_grad_norm", "input_grad_norm", "next_input_grad_norm")
METRICS = (
    *(MetricSpec(name, name, group="backward", scale="log") for name in NORMS),
    MetricSpec("output_rms", "Output RMS", group="forward"),
    MetricSpec("weight_rms", "Weight RMS", group="weights"),
)


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Run]:
    """Record a chain: by step, the output gradients' norms from layer 1 to the head; None is absent.

    `weight_gain` says how much of each ratio the weights make. `values` sets single values afterwards, by
    (step, depth, metric). `skipped` are steps that the optimizer did not take, `unresolved` the depths of layers
    below which something is not watched.
    """

    def build(
        profiles: Mapping[int, Sequence[float | None]],
        *,
        activation: str = "relu",
        weight_gain: float = 1.0,
        path_gain: float = 1.0,
        loss: Mapping[int, float] | None = None,
        values: Mapping[tuple[int, int, str], float] | None = None,
        skipped: Sequence[int] = (),
        unresolved: Sequence[int] = (),
        metrics: Sequence[MetricSpec] = METRICS,
        recorded: int = len(METRICS),
        name: str = "patient",
    ) -> Run:
        metrics = metrics[:recorded]
        writer = Writer(str(tmp_path / name), metrics=metrics, name=name)
        for step, profile in profiles.items():
            writer.describe(chain(len(profile), activation, unresolved))
            table, present = fill(profile, weight_gain, path_gain)
            for (when, depth, metric), value in (values or {}).items():
                if when == step:
                    table[depth - 1, [one.name for one in METRICS].index(metric)] = value
            columns = slice(0, len(metrics))
            ids = np.arange(len(profile), dtype=np.int32)
            writer.rows(step, ids, table[:, columns], present[:, columns], skipped=step in skipped)
        for step, value in (loss or {}).items():
            writer.scalars(step, {"loss": value})
        writer.close()
        run = load(tmp_path / name)
        assert isinstance(run, Run)
        return run

    return build


def chain(count: int, activation: str, unresolved: Sequence[int] = (), width: int = 0) -> list[LayerSpec]:
    return [
        LayerSpec(
            id=place,
            layer=f"net.{place}",
            call=1,
            depth=place + 1,
            parents=(place - 1,) if place else (),
            activation=activation if place < count - 1 else "identity",
            fan_in=width,
            fan_out=width if place < count - 1 else 10,
            resolved=place + 1 not in unresolved,
        )
        for place in range(count)
    ]


def fill(profile: Sequence[float | None], weight_gain: float, path_gain: float) -> Any:
    """Complete the norms: own contribution = weight gain * norm; what comes in from above = path gain * own."""
    output = np.array([0.0 if one is None else one for one in profile])
    table = np.ones((len(profile), len(METRICS)))
    present = np.ones(table.shape, np.bool_)
    table[:, 0] = output
    table[:, 1] = output * weight_gain
    table[:-1, 2] = table[1:, 1] * path_gain
    present[:, 0] = [one is not None for one in profile]
    present[0, 1] = present[-1, 2] = False
    return table, present


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Run]:
    """Record metrics of a chain as they are given: by metric and step, a value per layer, first layer to head.

    `loss` is by step; `coverage` by layer the code of what was seen of it.
    """

    def build(
        values: Mapping[str, Mapping[int, Sequence[float | None]]],
        *,
        specs: Sequence[LayerSpec] | None = None,
        activation: str = "tanh",
        loss: Mapping[int, float] | None = None,
        environment: Mapping[str, Any] | None = None,
        coverage: Mapping[str, str] | None = None,
        skipped: Sequence[int] = (),
        every: int = 10,
        name: str = "patient",
    ) -> Run:
        metrics = [MetricSpec(metric, metric) for metric in values]
        writer = Writer(str(tmp_path / name), metrics=metrics, name=name, environment=environment, every=every)
        count = max(len(row) for rows in values.values() for row in rows.values())
        writer.describe(specs or chain(count, activation, width=64))
        for step in sorted({step for rows in values.values() for step in rows}):
            columns = [values[metric].get(step, [None] * count) for metric in values]
            table = np.array([[0.0 if one is None else one for one in row] for row in columns]).T
            present = np.array([[one is not None for one in row] for row in columns]).T
            writer.rows(step, np.arange(count, dtype=np.int32), table, present, skipped=step in skipped)
        for step, value in (loss or {}).items():
            writer.scalars(step, {"loss": value})
        for layer, code in (coverage or {}).items():
            row = {"step": 0, "layer": layer, "code": code, "expected": 1, "fired": 0, "text": code}
            writer.append("coverage", [row | dict.fromkeys(("parameters", "boundaries", "units"), "no")])
        writer.close()
        run = load(tmp_path / name)
        assert isinstance(run, Run)
        return run

    return build
