"""Tables of runs for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

    from gradscope.runs import Runs

COLOURS = {"vanishing": "red", "exploding": "magenta", "healthy": "green"}


def demo_table(cells: pd.DataFrame) -> Table:
    """Show the summary of a demonstration, a section for each activation and initialization."""
    from gradscope.lab.demo import power

    title = "The gradient from the last hidden layer to the first, at step 0"
    # It must fit 80 columns: what does not, rich cuts.
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, collapse_padding=True, pad_edge=False)
    for name in ("activation", "init"):
        table.add_column(name, no_wrap=True)
    for name in ("depth", "per layer", "95 %", "in all"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    groups = cells.groupby(["activation", "init"], sort=False)
    for (activation, init), group in groups:
        for index, row in enumerate(group.to_dict("records")):
            shown = (str(activation), str(init)) if index == 0 else ("", "")
            verdict = str(row["verdict"])
            table.add_row(
                *shown,
                str(row["depth"]),
                _factor(row["decay"]),
                _interval(row["decay_low"], row["decay_high"]),
                power(row["decades"]),
                Text(verdict, style=COLOURS.get(verdict.split()[0], "")),
            )
        table.add_section()
    return table


def runs_table(runs: Runs, varied: Sequence[str]) -> Table:
    """Show runs by what varies between them."""
    title = "Decay: factor of the gradient per layer, at the first recorded step"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1))
    for name in varied:
        table.add_column(name)
    for name in ("decay", "95 %", "final loss"):
        table.add_column(name, justify="right")
    table.add_column("status")
    for row in runs.table().to_dict("records"):
        table.add_row(
            *(str(row.get(name, "")) for name in varied),
            _factor(row["decay"]),
            _interval(row["decay_low"], row["decay_high"]),
            _factor(row["final_loss"]),
            Text(row["status"], style="red" if row["status"] == "failed" else ""),
        )
    return table


def _factor(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _interval(low: float, high: float) -> str:
    return "-" if math.isnan(low) else f"{low:.3f}–{high:.3f}"
