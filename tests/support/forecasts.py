"""Predictions beside what a probe measures at the first step, of several networks of one kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradscope as gs

Make = Callable[[int], nn.Module]


def batch(*shape: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1000)
    return torch.randn(*shape, generator=draw), torch.randint(0, classes, shape[:1], generator=draw)


def measure(model: nn.Module, x: Tensor, y: Tensor, folder: Path) -> gs.Run:
    with gs.watch(model, out=folder, every=1) as probe:
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        probe.step()
    run = gs.load(folder)
    assert isinstance(run, gs.Run)
    return run


def compared(make: Make, x: Tensor, y: Tensor, folder: Path, seeds: int = 3) -> pd.DataFrame:
    """Rows of predictions, with the measured value and ln (predicted / measured)."""
    found = []
    for seed in range(seeds):
        model = make(seed)
        predicted = gs.predict(model, x, y)
        run = measure(model, x, y, folder / str(seed))
        measured = pd.concat([run.rows(metric) for metric in predicted["metric"].unique()])
        rows = predicted.merge(measured, on=["step", "depth", "layer", "metric"], suffixes=("", "_measured"))
        found.append(rows.assign(seed=seed, log=np.log(rows["value"] / rows["value_measured"])))
    return pd.concat(found)


def covered(rows: pd.DataFrame, metric: str) -> float:
    """Share of layers, but those known beforehand, whose measured value lies in the band."""
    part = rows[(rows["metric"] == metric) & (rows["high"] > 1.001 * rows["low"])]
    return float(part["value_measured"].between(part["low"], part["high"]).mean())


def off_by(rows: pd.DataFrame, metric: str) -> float:
    """Mean over networks of ln (predicted / measured), at the layer where that is largest."""
    part = rows[rows["metric"] == metric]
    return float(part.groupby("depth")["log"].mean().abs().max())


def slope_off(rows: pd.DataFrame, depth: int, first: int = 1) -> float:
    """Predicted less measured mean increment of ln |dL/dz| from layer ``first`` to layer ``depth``."""
    part = rows[rows["metric"] == "output_grad_norm"]
    ends = [part[part["depth"] == at]["log"].to_numpy(np.float64) for at in (first, depth)]
    return float(np.mean(ends[0] - ends[1])) / (depth - first)


def allowed(kappa: float, width: int, steps: int, seeds: int) -> float:
    """Three standard errors of the mean increment, and what is left out: kappa / 4N and 0.001."""
    return 3 * 0.5 * math.sqrt(kappa / (width * steps * seeds)) + kappa / (4 * width) + 0.001
