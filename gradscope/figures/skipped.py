"""Steps that the optimizer did not take: a gradient scaler skips those whose gradients overflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from gradscope.figures import marks as mk
from gradscope.figures.decimate import column_of
from gradscope.figures.window import Range

if TYPE_CHECKING:
    from gradscope.runs import Run


def skipped_frame(run: Run, columns: int, between: Range | None = None) -> pd.DataFrame:
    """Return the skipped steps, gathered to at most ``columns`` groups: columns step, last and count."""
    steps = np.array(run.skipped(), dtype=np.int64)
    if between is not None:
        steps = steps[(steps >= between[0]) & (steps <= between[1])]
    frame = pd.DataFrame({"step": steps, "column": column_of(len(steps), columns)})
    groups = frame.groupby("column")
    found = groups.agg(step=("step", "min"), last=("step", "max"), count=("step", "size"))
    return found.reset_index(drop=True)


def add_skipped(figure: go.Figure, frame: pd.DataFrame, strip: list[mk.Mark], theme: str, x: object = None) -> None:
    """Mark the skipped steps in their row of the strip, at ``x`` where the axis does not measure steps."""
    text = [_text(*row) for row in frame[["step", "last", "count"]].to_numpy(int).tolist()]
    mk.add_symbols(figure, strip, mk.SKIPPED, frame["step"] if x is None else x, text, theme=theme)


def _text(step: int, last: int, count: int) -> str:
    return f"step {step}" if count == 1 else f"{count} steps from {step} to {last}"
