"""A long training of a deep network: few files, few bytes, small pictures, a silent terminal.

Users of other tools hit upload caps of 10 MB a step and slow pages (wandb#3701, fairchem#747), too many open files
(aim#2753, aim#1897) and terminals full of progress bars (PL#11471).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.runs import Writer
from gradscope.spec import LayerSpec, MetricSpec

LAYERS, STEPS, BLOCK = 100, 20_000, 500
METRICS = [
    MetricSpec("output_grad_norm", "Output gradient norm", group="backward", scale="log"),
    MetricSpec("weight_grad_norm", "Weight gradient norm", group="weights", scale="log"),
    MetricSpec("output_mean", "Output mean", group="forward"),
    MetricSpec("saturation", "Saturation", group="activation", bounds=(0.0, 1.0), dtype="float32"),
]
SPIKE_STEP, SPIKE_LAYER = 12_345, 40
MEGABYTE = 10**6


@pytest.fixture(scope="module")
def flood(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 million values, flushed 40 times, with one spike that lasts a single step."""
    folder = tmp_path_factory.mktemp("flood") / "run"
    writer = Writer(folder, metrics=METRICS)
    parents = [(place - 1,) if place else () for place in range(LAYERS)]
    writer.describe(
        [
            LayerSpec(id=place, layer=f"net.{place}", call=1, depth=place + 1, parents=parents[place])
            for place in range(LAYERS)
        ]
    )
    rng = np.random.default_rng(0)
    ids = np.tile(np.arange(LAYERS, dtype=np.int32), BLOCK)
    for first in range(0, STEPS, BLOCK):
        steps = np.repeat(np.arange(first, first + BLOCK), LAYERS)
        values = np.exp(rng.normal(size=(BLOCK * LAYERS, len(METRICS)))) * 0.97 ** (LAYERS - ids[:, None])
        values[(steps == SPIKE_STEP) & (ids == SPIKE_LAYER - 1), 0] = 1e9
        writer.rows(steps, ids, values, np.ones(values.shape, np.bool_))
        for step in range(first, first + BLOCK):
            writer.scalars(step, {"loss": 1.0 / (1 + step)})
        writer.flush()
    writer.close()
    return folder


def opened(folder: Path) -> gs.Run:
    run = gs.load(folder)
    assert isinstance(run, gs.Run)
    return run


def bytes_read() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def test_files_are_few_and_bytes_no_more_than_the_numbers_themselves(flood: Path) -> None:
    files = [path for path in flood.rglob("*") if path.is_file()]
    assert len(files) < 60
    size = sum(path.stat().st_size for path in files)
    # Random numbers cannot be compressed: 28 bytes for the four of a row.
    assert size < 1.1 * LAYERS * STEPS * 28


def test_a_view_reads_what_it_shows(flood: Path) -> None:
    whole = sum(path.stat().st_size for path in flood.rglob("*.parquet"))
    before = bytes_read()
    profile = opened(flood).profile("output_grad_norm", step=SPIKE_STEP)
    one_step = bytes_read() - before
    assert profile[SPIKE_LAYER] == 1e9
    assert one_step < 0.05 * whole
    before = bytes_read()
    frame = opened(flood).frame("saturation")
    one_metric = bytes_read() - before
    assert frame.shape == (STEPS, LAYERS)
    # The smallest of the columns, with step, rank and id beside it.
    assert one_metric < 0.25 * whole


@pytest.mark.parametrize("draw", [gs.figures.timeline, gs.figures.heatmap], ids=["timeline", "heatmap"])
def test_a_picture_is_small_and_keeps_the_spike_of_one_step(draw: object, flood: Path) -> None:
    assert callable(draw)
    figure: go.Figure = draw(opened(flood), "output_grad_norm")
    assert len(figure.to_json()) < MEGABYTE
    lines = gs.figures.timeline_frame(opened(flood), "output_grad_norm")
    assert max(float(np.nanmax(line.values)) for line in lines) == 1e9
    assert max(len(line.values) for line in lines) < 1000


def test_profiles_and_losses_are_small_pictures_too(flood: Path) -> None:
    run = opened(flood)
    for figure in (gs.figures.gradient_flow(run), gs.figures.loss(run)):
        assert len(figure.to_json()) < MEGABYTE


def test_watching_keeps_few_files_open_and_the_terminal_silent(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(20)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    opened_files = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for step in range(60):
            model(torch.randn(2, 4)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=step)
            if step % 10 == 0:
                probe.run  # noqa: B018 - flushes
                opened_files.append(len(os.listdir("/proc/self/fd")))
    assert opened_files[-1] <= opened_files[1]
    assert capfd.readouterr() == ("", "")
