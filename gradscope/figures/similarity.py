"""Which layers tell the samples apart in the same way, as a square of colours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.figures import axes, style, wording

NEEDED = ("depth", "layer", "other_depth", "other_layer", "value", "estimator", "n", "warning")
WRITTEN = 12
"""Layers up to which the numbers are written into the cells."""


def layer_similarity(frame: pd.DataFrame, *, theme: str = "light") -> go.Figure:
    """Draw how alike every two layers tell the same samples apart: 1 on the diagonal, blocks where layers agree.

    Args:
        frame: A frame of ``gradscope.similarity_of``.
        theme: ``light`` or ``dark``.

    Raises:
        InvalidTypeError: It is no frame.
        InvalidValueError: It lacks columns, or has no rows.
    """
    _check(frame)
    square = frame.pivot(index="depth", columns="other_depth", values="value")
    depths = square.index.to_numpy(np.int64)
    names = frame.drop_duplicates("depth").set_index("depth")["layer"].reindex(depths)
    labels = [_label(int(depth), str(name)) for depth, name in names.items()]  # type: ignore[call-overload]
    figure = style.empty_figure("Similarity of layers", _subtitle(frame), theme)
    values = square.to_numpy(np.float64)
    figure.add_heatmap(
        x=depths,
        y=depths,
        z=np.clip(values, 0.0, 1.0),
        zmin=0.0,
        zmax=1.0,
        customdata=_hover(frame, square, labels),
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]}<extra></extra>",
        hoverongaps=False,
        colorscale=style.SEQUENTIAL,
        colorbar=axes.colour_bar("CKA"),
        xgap=1 if len(depths) <= WRITTEN else 0,
        ygap=1 if len(depths) <= WRITTEN else 0,
        **_written(values),
    )
    ticks = _ticks(depths)
    figure.update_xaxes(title_text="Depth (0: the input)", constrain="domain", showgrid=False, **ticks)
    figure.update_yaxes(
        title_text="Depth", constrain="domain", scaleanchor="x", showgrid=False, **ticks, exponentformat="none"
    )
    return figure


def _check(frame: object) -> None:
    if not isinstance(frame, pd.DataFrame):
        raise InvalidTypeError(f"frame is a DataFrame of gradscope.similarity_of, not {type(frame).__name__}")
    missing = [one for one in NEEDED if one not in frame]
    if missing:
        raise InvalidValueError(f"a frame of gradscope.similarity_of has the column {missing[0]!r}; this one has not")
    if frame.empty:
        raise InvalidValueError("the frame has no rows")


def _label(depth: int, layer: str) -> str:
    return wording.short(layer, 40) + (f", depth {depth}" if depth else "")


def _subtitle(frame: pd.DataFrame) -> str:
    """Name the estimator, its sample, and what is not to be trusted or not there."""
    own = frame[frame["depth"] == frame["other_depth"]]
    flat, shaky = own[own["value"].isna()], own[own["value"].notna() & (own["warning"] != "")]
    notes = [
        f"depth {', '.join(map(str, part['depth'].iloc[:3]))}{' ...' if len(part) > 3 else ''}: {text}"
        for part, text in ((flat, "the same for every sample, left empty"), (shaky, "little more than rounding"))
        if len(part)
    ]
    return "; ".join([f"{frame['estimator'].iloc[0]}, n = {int(frame['n'].iloc[0]):,} samples", *notes])


def _hover(frame: pd.DataFrame, square: pd.DataFrame, labels: list[str]) -> NDArray[np.object_]:
    low, high = (frame.pivot(index="depth", columns="other_depth", values=end).to_numpy() for end in ("low", "high"))
    values = square.to_numpy()
    texts = np.empty((*values.shape, 3), object)
    for row, name in enumerate(labels):
        for column, other in enumerate(labels):
            known = np.isfinite(low[row, column])
            span = f" [{low[row, column]:.3f}, {high[row, column]:.3f}]" if known else ""
            texts[row, column] = (name, other, f"{values[row, column]:.3f}{span}")
    return texts


def _written(values: NDArray[np.float64]) -> dict[str, object]:
    if len(values) > WRITTEN:
        return {}
    texts = [["" if np.isnan(one) else f"{one:.2f}".replace("-", "−") for one in row] for row in values]
    return {"text": texts, "texttemplate": "%{text}"}


def _ticks(depths: NDArray[np.int64]) -> dict[str, object]:
    last = int(depths[-1])
    spaced = axes.depth_ticks(last)
    stride = int(spaced["dtick"])
    shown = list(range(0, last + 1, stride))
    return {"tickvals": shown, "ticktext": [str(one) for one in shown]}
