"""The map of a sweep: decay of the error signal over depth, initialization and activation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gradscope.figures import axes, style, wording
from gradscope.figures import marks as mk
from gradscope.figures.sweep_cells import FAILED, in_order, sweep_map_frame
from gradscope.figures.values import RunsLike


def sweep_map(
    runs: RunsLike,
    *,
    x: str | None = None,
    y: str | None = None,
    facet: str | None = None,
    last: bool = False,
    theme: str = "light",
) -> go.Figure:
    """Draw the decay per layer of every configuration: blue where it vanishes, red where it explodes.

    Args:
        runs: The runs of a sweep; those that differ in other keys only, such as the seed, share a cell,
            which shows their median.
        x: Configuration key across; depth where it varies.
        y: Configuration key up; init where it varies.
        facet: Configuration key of the small multiples; activation where it varies.
        last: Take the last recorded step of each run instead of the first.
        theme: ``light`` or ``dark``.
    """
    frame = sweep_map_frame(runs, x=x, y=y, facet=facet, last=last)
    if frame.empty:
        return style.message("Decay over the sweep", "there is no run to show", theme)
    facets = in_order(frame["facet"])
    columns = min(len(facets), 4)
    lines = -(-len(facets) // columns)
    keys = frame.attrs["axes"]
    heads = [wording.short(str(one)) if keys["facet"] else "" for one in facets]
    figure = make_subplots(
        lines, columns, subplot_titles=heads, horizontal_spacing=0.02, vertical_spacing=0.1,
        shared_xaxes="all", shared_yaxes="all",
    )  # fmt: skip
    codes = frame["mark"].to_numpy(np.int8)
    found = [*mk.kinds([codes]), *([FAILED] if (codes == FAILED.code).any() else [])]
    for index, value in enumerate(facets):
        where = (index // columns + 1, index % columns + 1)
        _add_map(figure, frame, value, where, found, theme)
    _style(figure, frame, keys, columns, lines, last, theme)
    for mark in found:
        mk.add_legend(figure, mark, "square", theme, _legend(mark))
    return figure


def _legend(mark: mk.Mark) -> str:
    return {mk.ZERO.code: "exact zero in the lowest layer", mk.NAN.code: "no decay rate"}.get(mark.code, mark.label)


def _add_map(
    figure: go.Figure,
    frame: pd.DataFrame,
    facet: Any,
    where: tuple[int, int],
    found: list[mk.Mark],
    theme: str,
) -> None:
    across, up = in_order(frame["x"]), in_order(frame["y"])
    cells = frame[frame["facet"] == facet].set_index(["y", "x"])
    rate = _matrix(cells["rate"], up, across)
    mark = _matrix(cells["mark"], up, across)
    plain = np.where(mark == mk.PLAIN, rate, np.nan)
    shared = {
        # Places rather than values: plotly would lay a text that looks like a number elsewhere.
        "x": list(range(len(across))),
        "y": list(range(len(up))),
        # Dash hands on the custom data of a clicked cell only where it is a plain string.
        "customdata": [[_run(cells, row, column) for column in across] for row in up],
        "hovertext": [[_hover(cells, row, column) for column in across] for row in up],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
    }
    text = [[wording.cell_text(one) if math.isfinite(one) else "" for one in row] for row in plain]
    where_to = {"row": where[0], "col": where[1]}
    figure.add_heatmap(
        z=np.log10(plain), coloraxis="coloraxis", text=text, texttemplate="%{text}", **shared, **where_to
    )
    for one in found:
        flat = mk.colour(one, theme)
        z = np.where(mark == one.code, 1.0, np.nan)
        colours = [[0, flat], [1, flat]]
        label = [[one.tick if cell == one.code else "" for cell in row] for row in mark]
        figure.add_heatmap(
            z=z, colorscale=colours, showscale=False, text=label, texttemplate="%{text}", **shared, **where_to
        )


def _matrix(cells: pd.Series[Any], up: list[Any], across: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[float(cells.get((row, column), math.nan)) for column in across] for row in up])


def _run(cells: pd.DataFrame, row: Any, column: Any) -> str:
    return str(cells["run"].get((row, column), ""))


def _hover(cells: pd.DataFrame, row: Any, column: Any) -> str:
    if (row, column) not in cells.index:
        return ""
    cell = cells.loc[(row, column)]
    several = f"median of {cell['runs']} runs" if cell["runs"] > 1 else "one run"
    aside = cell["total"] - max(cell["runs"], 1)
    several += f", {aside} more without a decay rate" if aside else ""
    rate = "no decay rate" if math.isnan(cell["rate"]) else f"decay {wording.number(cell['rate'])} per layer"
    if cell["mark"] == FAILED.code:
        rate = "failed before the first recorded step"
    return f"{wording.short(str(row))}, {wording.short(str(column))}<br>{rate}<br>{several}"


def _style(
    figure: go.Figure,
    frame: pd.DataFrame,
    keys: Mapping[str, str | None],
    columns: int,
    lines: int,
    last: bool,
    theme: str,
) -> None:
    plain = frame.loc[frame["mark"] == mk.PLAIN, "rate"]
    reach = max(0.05, float(np.abs(np.log10(plain)).max())) if len(plain) else 1.0
    at = "last" if last else "first"
    pooled = _pooled(frame.attrs["pooled"], frame["runs"].tolist())
    heading = f"{pooled}at the {at} recorded step; below 1 the error signal vanishes"
    text = {"text": "Decay of the output gradient per layer", "subtitle": {"text": heading}}
    figure.update_layout(
        template=style.template(theme),
        title=text,
        coloraxis={
            "colorscale": style.DIVERGING,
            "cmin": -reach,
            "cmax": reach,
            "colorbar": axes.colour_bar("<br>Decay per layer") | _ticks(reach),
        },
        margin={"t": 96},
        showlegend=True,
    )
    across, up = in_order(frame["x"]), in_order(frame["y"])
    figure.update_xaxes(showgrid=False, **_places(across))
    # Numbers grow upwards as on every axis; words are read from the top.
    words = any(isinstance(one, str) for one in up)
    figure.update_yaxes(showgrid=False, autorange="reversed" if words else True, **_places(up))
    figure.update_annotations(font_size=13)
    for column in range(1, columns + 1):
        figure.update_xaxes(title_text=wording.short(keys["x"] or ""), row=lines, col=column)
    for line in range(1, lines + 1):
        figure.update_yaxes(title_text=wording.short(keys["y"] or ""), row=line, col=1)


def _places(values: list[Any]) -> dict[str, Any]:
    return {"tickvals": list(range(len(values))), "ticktext": [wording.short(str(one), 20) for one in values]}


def _pooled(keys: list[str], runs: list[int]) -> str:
    """Say of how many runs the cells take the median, and over what.

    >>> _pooled([], [1, 0]), _pooled(["activation", "seed"], [2, 1, 3, 0]), _pooled([], [2])
    ('', 'median of 1 to 3 runs over activation, seed, ', 'median of 2 runs with one configuration, ')
    """
    counts = sorted({one for one in runs if one})
    if not counts or counts[-1] == 1:
        return ""
    many = " to ".join(str(one) for one in dict.fromkeys((counts[0], counts[-1])))
    if not keys:
        return f"median of {many} runs with one configuration, "
    shown = [wording.short(key, 20) for key in keys[:4]]
    return f"median of {many} runs over {', '.join(shown)}{f' and {len(keys) - 4} more' if len(keys) > 4 else ''}, "


def _ticks(reach: float) -> dict[str, list[Any]]:
    """Return rates as ticks of a colour axis that measures log10, symmetric about 1.

    >>> _ticks(0.9)["ticktext"]
    ['0.2', '0.5', '1', '2', '5']
    >>> _ticks(0.1)["ticktext"]
    ['0.8', '0.9', '1', '1.1', '1.25']
    """
    series = [
        [0.8, 0.9, 1.0, 1.1, 1.25],
        [0.2, 0.5, 1.0, 2.0, 5.0],
        [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0],
    ]
    rates = next((one for one in series if math.log10(one[-1]) * 1.4 >= reach), None)
    if rates is None:
        return _power_ticks(reach)
    fitting = [one for one in rates if abs(math.log10(one)) <= reach + 1e-9]
    return {"tickvals": [math.log10(one) for one in fitting], "ticktext": [f"{one:g}" for one in fitting]}


def _power_ticks(reach: float) -> dict[str, list[Any]]:
    stride = max(1, int(reach // 3))
    powers = [stride * index for index in range(-int(reach // stride), int(reach // stride) + 1)]
    return {"tickvals": powers, "ticktext": [wording.power_text(power) for power in powers]}
