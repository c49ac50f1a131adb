"""The head of a network: its error signal and what its outputs tell of samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradscope.checks.branches import ends
from gradscope.checks.finding import NotApplicable
from gradscope.checks.recent import late, seen
from gradscope.runs import Run


@dataclass(frozen=True)
class Head:
    """What the last layer of the trunk shows.

    Attributes:
        outputs: Its outputs: classes, where it classifies.
        errors: By step, e = |dL/dz| sqrt(N): the error of a sample, in units of the loss.
        deviation: Standard deviation of all its outputs at the first step; NaN where not recorded.
        spread: Mean standard deviation of an output between samples, over the last steps; NaN where not recorded.
        spread_before: The same at the first step.
    """

    outputs: int
    errors: pd.Series[float]
    deviation: float
    spread: float
    spread_before: float = math.nan


def head_of(run: Run) -> Head | None:
    """Return what the head shows; None where its output gradient is not known.

    None as well where several layers that no other follows receive a gradient: the loss is made of all of them, so that
    the error of one says nothing of what was to be gained.
    """
    if not run.trunk or len(_ends(run)) > 1:
        return None
    return _head(run, _depth(run))


def heads_of(run: Run) -> list[Head]:
    """Return what each layer shows that no other follows and that receives a gradient."""
    found = [_head(run, depth) for depth in _ends(run)]
    return [one for one in found if one is not None]


def _head(run: Run, depth: int) -> Head | None:
    spec = next(one for one in run.specs if one.depth == depth)
    norm, rms = _of(run, "output_grad_norm", depth), _of(run, "output_grad_rms", depth)
    outputs = max(spec.fan_out, 1)
    if norm is None or rms is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        errors: pd.Series[float] = norm * np.sqrt((norm / rms) ** 2 / outputs)
    # An error of exactly zero has no samples to count; it is an error of zero all the same.
    errors = errors.where(norm > 0.0, 0.0).dropna()
    if errors.empty:
        return None
    deviation, spread = _of(run, "output_std", depth), _of(run, "sample_spread", depth)
    return Head(
        outputs=outputs,
        errors=errors,
        deviation=math.nan if deviation is None else float(deviation.iloc[0]),
        spread=math.nan if spread is None else float(late(spread.to_frame())[depth]),
        spread_before=math.nan if spread is None else float(spread.iloc[0]),
    )


def _ends(run: Run) -> list[int]:
    frame = seen(run, "output_grad_norm")
    if isinstance(frame, NotApplicable):
        return []
    most = frame.reindex(columns=list(ends(run))).max()
    return [int(depth) for depth in most.index[most > 0.0]]


def _depth(run: Run) -> int:
    """Return the depth of the head: the end of the trunk; where no gradient reaches that, the last that has any."""
    frame = seen(run, "output_grad_norm")
    if isinstance(frame, NotApplicable) or run.trunk[-1] in frame:
        return run.trunk[-1]
    return int(max(frame.columns))


def _of(run: Run, metric: str, depth: int) -> pd.Series[float] | None:
    frame = seen(run, metric)
    if isinstance(frame, NotApplicable) or depth not in frame:
        return None
    found: pd.Series[float] = frame[depth].dropna()
    return None if found.empty else found
