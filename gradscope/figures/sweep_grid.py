"""The map of a sweep: decay of the error signal over depth, initialization and activation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from gradscope.errors import GradscopeError, unknown_name
from gradscope.figures import marks as mk
from gradscope.figures import style
from gradscope.figures.layer_step import power_text
from gradscope.figures.values import RunsLike, named, recorded_steps

if TYPE_CHECKING:
    from gradscope.runs import Run

PREFERRED = {"x": "depth", "y": "init", "facet": "activation"}
ASIDE = ("seed",)


def varying(runs: Iterable[Run], aside: Sequence[str] = ASIDE) -> list[str]:
    """Return the configuration keys with more than one value among the runs, those ``aside`` left out."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.config.items():
            values.setdefault(key, set()).add(str(value))
    return sorted(key for key, found in values.items() if len(found) > 1 and key not in aside)


def axes_of(runs: Sequence[Run], chosen: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the configuration keys on x, y and the small multiples, filled in where none was chosen.

    Depth, init and activation come first where they vary, then whatever varies. UnknownNameError names the
    keys there are.
    """
    keys = sorted({key for run in runs for key in run.config})
    taken: dict[str, str | None] = {}
    for axis, key in chosen.items():
        if key is not None and key not in keys:
            raise unknown_name("configuration key", key, keys)
        taken[axis] = key
    free = [key for key in varying(runs) if key not in taken.values()]
    for axis, favourite in PREFERRED.items():
        if taken.get(axis) is None and favourite in free:
            taken[axis] = favourite
            free.remove(favourite)
    for axis in PREFERRED:
        if taken.get(axis) is None:
            taken[axis] = free.pop(0) if free else None
    return {axis: taken[axis] for axis in PREFERRED}


def sweep_map_frame(
    runs: RunsLike,
    *,
    x: str | None = None,
    y: str | None = None,
    facet: str | None = None,
    last: bool = False,
) -> pd.DataFrame:
    """Return one row per cell of the map.

    Returns:
        Columns x, y, facet (values of the configuration keys that ``frame.attrs["axes"]`` names), rate
        (median decay per layer over the runs of the cell), mark (a rate of exactly zero, or one that is not a
        number), runs (how many) and run (the name of the one whose decay is the median, for a click).
    """
    listed = named(runs)
    axes = axes_of([run for _, run in listed], {"x": x, "y": y, "facet": facet})
    rows = [
        {axis: _value(run, key) for axis, key in axes.items()} | {"run": name, "rate": decay_rate(run, last)}
        for name, run in listed
    ]
    table = pd.DataFrame(rows, columns=[*axes, "run", "rate"])
    cells = [_cell(key, group) for key, group in table.groupby(list(axes), sort=False)]
    frame = pd.DataFrame(cells, columns=[*axes, "rate", "mark", "runs", "run"])
    frame.attrs["axes"] = axes
    return frame


def _value(run: Run, key: str | None) -> Any:
    value = run.config.get(key, "—") if key else ""
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else str(value)


def decay_rate(run: Run, last: bool = False) -> float:
    """Return the decay of a run at its first or last recorded step; NaN where it has none."""
    try:
        steps = recorded_steps(run, "output_grad_norm")
        return float(run.decay(steps[-1 if last else 0]).rate) if steps else math.nan
    except GradscopeError:
        return math.nan


def _cell(key: Any, group: pd.DataFrame) -> dict[str, Any]:
    ordered = group.sort_values(["rate", "run"], na_position="last", ignore_index=True)
    known = int(ordered["rate"].notna().sum())
    below = (max(known, 1) - 1) // 2
    rates = ordered["rate"].to_numpy(np.float64)
    # Of an even number the geometric mean of the middle two: rates are factors.
    rate = float(rates[below] if known % 2 else np.sqrt(rates[below] * rates[known // 2 % len(rates)]))
    mark = int(mk.classify(np.array([rate]), log=True)[0])
    axes = dict(zip(("x", "y", "facet"), key, strict=True))
    return axes | {"rate": rate, "mark": mark, "runs": len(group), "run": ordered["run"][below]}


def in_order(values: Iterable[Any]) -> list[Any]:
    """Return distinct values, numbers before words, each in their order.

    >>> in_order([8, "relu", 2, 8, "elu"])
    [2, 8, 'elu', 'relu']
    """
    return sorted(set(values), key=lambda one: (isinstance(one, str), 0 if isinstance(one, str) else one, str(one)))


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
        runs: The runs of a sweep; seeds share a cell, which shows their median.
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
    axes = frame.attrs["axes"]
    heads = [str(one) if axes["facet"] else "" for one in facets]
    figure = make_subplots(
        lines, columns, subplot_titles=heads, horizontal_spacing=0.02, vertical_spacing=0.1,
        shared_xaxes="all", shared_yaxes="all",
    )  # fmt: skip
    found = mk.kinds([frame["mark"].to_numpy(np.int8)])
    for index, value in enumerate(facets):
        where = (index // columns + 1, index % columns + 1)
        _add_map(figure, frame, value, where, found, theme)
    _style(figure, frame, axes, columns, lines, last, theme)
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
    names = {"x": [str(one) for one in across], "y": [str(one) for one in up]}
    shared = {
        **names,
        # Dash hands on the custom data of a clicked cell only where it is a plain string.
        "customdata": [[_run(cells, row, column) for column in across] for row in up],
        "hovertext": [[_hover(cells, row, column) for column in across] for row in up],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "hoverongaps": False,
        "xgap": 2,
        "ygap": 2,
    }
    text = [[cell_text(one) if math.isfinite(one) else "" for one in row] for row in plain]
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
    rate = "no decay rate" if math.isnan(cell["rate"]) else f"decay {style.number(cell['rate'])} per layer"
    return f"{row}, {column}<br>{rate}<br>{several}"


def _style(
    figure: go.Figure,
    frame: pd.DataFrame,
    axes: Mapping[str, str | None],
    columns: int,
    lines: int,
    last: bool,
    theme: str,
) -> None:
    plain = frame.loc[frame["mark"] == mk.PLAIN, "rate"]
    reach = max(0.05, float(np.abs(np.log10(plain)).max())) if len(plain) else 1.0
    at = "last" if last else "first"
    heading = f"median over the runs of a cell, at the {at} recorded step; below 1 the error signal vanishes"
    text = {"text": "Decay of the output gradient per layer", "subtitle": {"text": heading}}
    figure.update_layout(
        template=style.template(theme),
        title=text,
        coloraxis={
            "colorscale": style.DIVERGING,
            "cmin": -reach,
            "cmax": reach,
            "colorbar": style.colour_bar("Decay per layer") | _ticks(reach),
        },
        margin={"t": 96},
        showlegend=True,
    )
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    figure.update_annotations(font_size=13)
    for column in range(1, columns + 1):
        figure.update_xaxes(title_text=axes["x"] or "", row=lines, col=column)
    for line in range(1, lines + 1):
        figure.update_yaxes(title_text=axes["y"] or "", row=line, col=1)


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
    return {"tickvals": powers, "ticktext": [power_text(power) for power in powers]}


def cell_text(rate: float) -> str:
    """Write a rate into a cell.

    >>> cell_text(0.2349), cell_text(1.0), cell_text(3e-7)
    ('0.235', '1.00', '3×10⁻⁷')
    """
    if not 0.001 <= rate < 100:
        return style.number(rate)
    return f"{rate:.3f}" if rate < 0.9995 else f"{rate:.2f}"
