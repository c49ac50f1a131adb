"""The demonstration: how the gradient fares on real digits as depth, activation and initialization change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from gradscope.checks import diagnose
from gradscope.errors import GradscopeError
from gradscope.lab.models import mlp
from gradscope.lab.validation import whole
from gradscope.runs import Decay, Run

# What the command line leaves alone; the rest are defaults of its options.
SETTINGS: Mapping[str, Any] = {"every": 10, "lr": 0.05}
CELL = ["activation", "init", "depth"]
VERDICTS = ("vanishing", "exploding")
OTHERS = ("mild", "-", "healthy", "too shallow")
RULE = (
    "vanishing: interval below 1 and more than a factor of 10 in total; exploding: above 1; mild: at most 10;"
    " healthy: interval around 1, at most 10; -: around 1, more than 10; 2/3: in two of three runs"
)


def check(grid: Mapping[str, Sequence[Any]]) -> None:
    """Raise the error for a depth, activation or initialization that cannot be, before anything is trained."""
    for depth in grid["depth"]:
        whole("depth", depth)
    for activation in grid["activation"]:
        mlp(depth=1, width=1, activation=activation, seed=0)
    for init in grid["init"]:
        mlp(depth=1, width=1, init=init, seed=0)


def summary(runs: Iterable[Run]) -> pd.DataFrame:
    """Return one row per activation, initialization and depth, at the first recorded step.

    Columns: ``activation``, ``init``, ``depth``, ``runs``, the medians over the seeds of ``decay`` (factor per
    layer), ``decay_low``, ``decay_high`` (its 95 % interval, NaN under 3 increments) and ``decades`` (log10 of
    the total factor), and ``verdict``: what ``diagnose`` says of that step, else what `RULE` says, and of how
    many of the runs.
    """
    rows = [row for run in runs if (row := _row(run)) is not None]
    frame = pd.DataFrame(rows, columns=[*CELL, "decay", "decay_low", "decay_high", "decades", "verdict"])
    cells = [
        dict(zip(CELL, key, strict=True))
        | {"runs": len(cell)}
        | cell[["decay", "decay_low", "decay_high", "decades"]].median().to_dict()
        | {"verdict": _verdict(list(cell["verdict"]))}
        for key, cell in frame.groupby(CELL, sort=False)
    ]
    columns = [*CELL, "runs", "decay", "decay_low", "decay_high", "decades", "verdict"]
    return pd.DataFrame(cells, columns=columns)


def conclusion(table: pd.DataFrame) -> str:
    """Say in a sentence what a summary shows at its greatest depth: where the gradient is lost, where it is kept.

    >>> import textwrap
    >>> cells = {"activation": ["sigmoid", "relu"], "init": ["xavier", "kaiming"], "depth": [32, 32],
    ...          "decay": [0.235, 1.003], "decades": [-19.5, 0.04], "verdict": ["vanishing", "healthy"]}
    >>> print(textwrap.fill(conclusion(pd.DataFrame(cells)), 100))
    At depth 32, sigmoid with xavier initialization multiplies the gradient by 0.235 per layer, so that
    the first layer receives 10^-19.5 of what the last hidden one does; relu with kaiming
    initialization, by 1.003, keeps it.
    """
    known = table[table["decades"].notna()]
    if known.empty:
        return "No run finished, so nothing can be said."
    deepest = known[known["depth"] == known["depth"].max()]
    worst, best = (deepest.loc[series.idxmax()] for series in (deepest["decades"].abs(), -deepest["decades"].abs()))
    kept = f"{_named(best)} initialization, by {best['decay']:.3f},"
    end = f"{kept} {'keeps it' if best['verdict'].startswith('healthy') else 'comes nearest to keeping it'}."
    if worst["verdict"].startswith("healthy"):
        nearest = f"{_named(best)} initialization, by {best['decay']:.3f} per layer, comes nearest to 1"
        return f"At depth {worst['depth']} every cell keeps the gradient; {nearest}."
    return (
        f"At depth {worst['depth']}, {_named(worst)} initialization multiplies the gradient by"
        f" {worst['decay']:.3f} per layer, so that the first layer receives {power(worst['decades'])} of what"
        f" the last hidden one does; {end}"
    )


def census(table: pd.DataFrame) -> str:
    """Count the verdicts of a summary in words.

    >>> census(pd.DataFrame({"verdict": ["vanishing", "healthy", "vanishing", "too shallow"]}))
    'vanishing in 2 of 3 cells, exploding in none'
    """
    judged = [one for one in table["verdict"] if not one.startswith("too shallow")]
    counts = {code: sum(one.startswith(code) for one in judged) for code in VERDICTS}
    texts = [f"{code} in {f'{count} of {len(judged)} cells' if count else 'none'}" for code, count in counts.items()]
    return ", ".join(texts)


def power(decades: float) -> str:
    """Write 10 to the power of a number of decades; a dash where that is not known.

    >>> power(-19.53), power(-0.01), power(-math.inf), power(math.nan)
    ('10^-19.5', '10^0.0', '0', '-')
    """
    if math.isnan(decades):
        return "-"
    return "0" if decades == -math.inf else f"10^{round(decades, 1) + 0.0:.1f}"


def _row(run: Run) -> dict[str, Any] | None:
    """Return what a run shows at its first recorded step; None for a run that recorded nothing."""
    try:
        decay, first = run.decay(), run.steps()[0]
    except (GradscopeError, IndexError):
        return None
    codes = [one.code for one in diagnose(run, VERDICTS) if first in one.steps]
    verdict = codes[0] if codes else _other(decay)
    return {key: run.config.get(key) for key in CELL} | {
        "decay": decay.rate,
        "decay_low": decay.low,
        "decay_high": decay.high,
        "decades": decay.decades,
        "verdict": verdict,
    }


def _other(decay: Decay) -> str:
    """Judge a decay that is neither vanishing nor exploding; see `RULE`.

    >>> _other(Decay(0.95, 0.94, 0.96, -0.7, 32)), _other(Decay(0.99, 0.97, 1.01, -0.1, 32))
    ('mild', 'healthy')
    >>> _other(Decay(0.9, 0.7, 1.2, -1.4, 32)), _other(Decay(0.9, math.nan, math.nan, -0.1, 2))
    ('-', 'too shallow')
    """
    if math.isnan(decay.low):
        return "too shallow"
    if not decay.low <= 1.0 <= decay.high:
        return "mild"
    return "healthy" if abs(decay.decades) <= 1.0 else "-"


def _verdict(each: Sequence[str]) -> str:
    """Put the verdicts of the seeds together: one word where they agree, else how many say the most frequent bad one.

    >>> _verdict(["healthy", "vanishing", "vanishing"]), _verdict(["healthy", "healthy"])
    ('vanishing 2/3', 'healthy')
    >>> _verdict(["healthy", "mild", "mild"]), _verdict(["healthy", "mild", "vanishing"])
    ('mild 2/3', 'vanishing 1/3')
    """
    found = [one for one in VERDICTS if one in each] or [one for one in OTHERS if one in each]
    worst = max(found, key=each.count)
    count = each.count(worst)
    return worst if count == len(each) else f"{worst} {count}/{len(each)}"


def _named(cell: pd.Series[Any]) -> str:
    return f"{cell['activation']} with {cell['init']}"
