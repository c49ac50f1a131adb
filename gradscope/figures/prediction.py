"""What theory predicts of a profile over depth, made ready to be drawn over what was measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError
from gradscope.figures import wording
from gradscope.figures.run_theory import lacks_biases, of_run
from gradscope.figures.values import names_by_depth

if TYPE_CHECKING:
    from gradscope.runs import Run

NUMBERS = ("value", "low", "high")
NEEDED = ("depth", "metric", *NUMBERS)
MOST_REASONS = 3
WIDTH = 84
"""Characters of a line of the subtitle."""


@dataclass(frozen=True)
class Prediction:
    """A predicted profile.

    Attributes:
        frame: Columns depth, layer, value, low, high, ascending in depth; NaN where theory says nothing.
        anchor: Depth at which the prediction was set to the measured value, None where it says how large the values
            are without.
        notes: Where theory does not apply, and why; one line per reason.
    """

    frame: pd.DataFrame
    anchor: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the legend calls it."""
        low, high = self.frame["low"].to_numpy(np.float64), self.frame["high"].to_numpy(np.float64)
        return "theory, 95 % band" if (high > low).any() else "theory"

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not np.isfinite(self.frame["value"].to_numpy(np.float64)).any()

    def values(self, log: bool) -> NDArray[np.float64]:
        """Return what the axis has to have room for: the line and its band."""
        every = self.frame[list(NUMBERS)].to_numpy(np.float64).ravel()
        return np.asarray(every[np.isfinite(every) & ((every > 0) | (not log))], dtype=np.float64)

    def lines(self, hidden: Sequence[int], step: int) -> list[str]:
        """Return what the subtitle says of the prediction: its factor per layer, its anchor, where there is none."""
        notes = [wording.label(line, WIDTH) for note in self.notes for line in wording.wrap(note, WIDTH)]
        if self.empty:
            return notes
        parts = ["for random weights of these variances"] if step else []
        if self.anchor is not None:
            parts = [_per_layer(self.frame, hidden), f"set to the measured value at depth {self.anchor}", *parts]
        text = "; ".join(part for part in parts if part) or "from the variances of the weights"
        return [*wording.wrap(f"theory (dashed): {text}", WIDTH), *notes]


NOTHING = Prediction(pd.DataFrame(columns=["depth", "layer", *NUMBERS], dtype=np.float64))


def _per_layer(frame: pd.DataFrame, hidden: Sequence[int]) -> str:
    """Say by what factor the prediction falls or grows per layer, from the last hidden layer to the first."""
    places = {depth: place for place, depth in enumerate(hidden)}
    rows = frame[frame["depth"].isin(hidden) & (frame["value"] > 0) & np.isfinite(frame["value"])]
    if len(rows) < 2:
        return ""
    first, last = rows.iloc[0], rows.iloc[-1]
    way = places[int(last["depth"])] - places[int(first["depth"])]
    rate = float((first["value"] / last["value"]) ** (1.0 / way))
    return f"{wording.number(rate)} per layer"


def predicted(run: Run, step: int, metric: str, theory: object) -> Prediction:
    """Return what is predicted of a metric of a run: nothing where ``theory`` is False or None.

    Raises:
        InvalidTypeError: ``theory`` is neither a truth value nor a frame.
        InvalidValueError: The frame lacks a column.
    """
    if theory is None or theory is False:
        return NOTHING
    if theory is not True:
        return read(run, step, metric, theory)
    try:
        found = read(run, step, metric, of_run(run, step))
    except GradscopeError as error:
        return replace(NOTHING, notes=(f"no theory: {error}",))
    remark = ("taken without biases, of which the run says nothing",) if lacks_biases(run) and not found.empty else ()
    return replace(found, notes=(*found.notes, *remark))


def read(run: Run, step: int, metric: str, theory: object) -> Prediction:
    """Return what a frame of predictions says of a metric of a run.

    Of several steps in the frame, the last one not after ``step`` counts. Values of a metric that are only known up to
    a factor (``theory.attrs["relative"]`` names those metrics) are anchored: multiplied so that they agree with what
    was measured in the last hidden layer, or the deepest layer before it with a value of either. The band then is that
    of the ratio to this layer: of independent factors, squares of half widths add up on the logarithmic scale.

    Raises:
        InvalidTypeError: It is no DataFrame.
        InvalidValueError: It lacks a column.
    """
    given = _checked(theory)
    rows = _rows(step, metric, given)
    if rows.empty:
        return replace(NOTHING, notes=(f"theory says nothing of {metric}",))
    names = names_by_depth(run)
    rows = rows[rows["depth"].isin(names)]
    rows = rows.assign(layer=[names[depth] for depth in rows["depth"]])
    notes = tuple(_notes(rows))
    if metric not in given.attrs.get("relative", ()):
        return Prediction(rows.drop(columns="status"), None, notes)
    anchor = _anchor(run, step, metric, rows)
    if anchor is None:
        known = np.isfinite(rows["value"]).any()
        rows = rows.assign(**dict.fromkeys(NUMBERS, np.nan))
        missing = ("no theory: no hidden layer has both a measured and a predicted value",) if known else ()
        return Prediction(rows.drop(columns="status"), None, (*notes, *missing))
    rows = _anchored(rows, anchor, float(run.profile(metric, step)[anchor]))
    return Prediction(rows.drop(columns="status"), anchor, notes)


def _anchored(rows: pd.DataFrame, anchor: int, measured: float) -> pd.DataFrame:
    logs = np.log(rows[list(NUMBERS)].to_numpy(np.float64))
    place = int(np.flatnonzero(rows["depth"] == anchor)[0])
    squares = (0.5 * (logs[:, 2] - logs[:, 1])) ** 2
    middle = logs[:, 0] - logs[place, 0] + np.log(measured)
    half = np.sqrt(np.abs(squares - squares[place]))
    ends = np.exp(np.column_stack([middle, middle - half, middle + half]))
    return rows.assign(**dict(zip(NUMBERS, ends.T, strict=True)))


def _checked(theory: object) -> pd.DataFrame:
    if not isinstance(theory, pd.DataFrame):
        raise InvalidTypeError(f"theory is True or a frame of predictions, not {type(theory).__name__}")
    missing = [name for name in NEEDED if name not in theory.columns]
    if missing:
        raise InvalidValueError(
            f"the frame of predictions lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}"
        )
    return theory


def _rows(step: int, metric: str, theory: pd.DataFrame) -> pd.DataFrame:
    rows = theory[theory["metric"] == metric]
    if "step" in rows.columns and rows["step"].nunique() > 1:
        steps = np.unique(rows["step"].to_numpy(np.int64))
        rows = rows[rows["step"] == steps[max(0, int(np.searchsorted(steps, step, "right")) - 1)]]
    status = rows["status"].astype(str) if "status" in rows.columns else ""
    rows = rows.assign(status=status).sort_values("depth", ignore_index=True)
    return rows[["depth", *NUMBERS, "status"]].astype(dict.fromkeys(NUMBERS, np.float64))


def _notes(rows: pd.DataFrame) -> Iterator[str]:
    """Say why there is no value, or how good it is, a line for each reason."""
    told = rows[rows["status"] != ""].assign(silent=lambda one: one["value"].isna())
    reasons = list(told.groupby(["silent", "status"], sort=False)["depth"])
    for (silent, reason), depths in reasons[:MOST_REASONS]:
        start = "no theory for depth" if silent else "depth"
        yield f"{start} {spans(depths.tolist())}: {reason}"
    if len(reasons) > MOST_REASONS:
        yield f"and {len(reasons) - MOST_REASONS} more remarks on other depths"


def spans(numbers: list[int], most: int = 4) -> str:
    """Write whole numbers in short.

    >>> spans([1, 2, 3, 7]), spans([1, 3, 5, 7, 9, 11])
    ('1–3, 7', '1, 3, 5, 7 and 2 more')
    """
    groups = [
        [one for _, one in group] for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    texts = [str(one[0]) if len(one) == 1 else f"{one[0]}–{one[-1]}" for one in groups]
    rest = sum(map(len, groups[most:]))
    return ", ".join(texts[:most]) + (f" and {rest} more" if rest else "")


def _anchor(run: Run, step: int, metric: str, rows: pd.DataFrame) -> int | None:
    """Return the deepest hidden layer of the trunk where measurement and prediction both have a place on a log axis."""
    measured = run.profile(metric, step)
    predicted = rows.set_index("depth")["value"]
    for depth in reversed(run.trunk[:-1]):
        pair = float(measured.get(depth, np.nan)), float(predicted.get(depth, np.nan))
        if all(np.isfinite(one) and one > 0 for one in pair):
            return depth
    return None
