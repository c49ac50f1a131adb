"""What ``verify`` found, to read, to show in a notebook and to compute with."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from gradscope.at_rest.verification.comparison import Difference

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 20


@dataclass(frozen=True)
class Report:
    """Whether watching changes a training, and what. As a string, to read; in a notebook, a table.

    Attributes:
        model: Name of the model's class.
        steps: How many steps were trained.
        every: Every how many steps one was recorded.
        metrics: The metrics that were recorded.
        checked: How many things were compared, by kind.
        differences: What is not the same with and without, in order of time; the first one is next to the cause.
        unstable: What is not the same in two trainings that nobody watches; looked for where there is a difference.
        suspects: Metrics of the user's own that make a difference alone.
    """

    model: str
    steps: int
    every: int
    metrics: tuple[str, ...]
    checked: Mapping[str, int]
    differences: tuple[Difference, ...] = ()
    unstable: tuple[Difference, ...] = ()
    suspects: tuple[str, ...] = field(default=())

    @property
    def identical(self) -> bool:
        """Whether everything compared has the same bits with and without."""
        return not self.differences

    @property
    def reproducible(self) -> bool:
        """Whether the training repeats itself where nobody watches; where it does not, nothing can be told."""
        return not self.unstable

    def frame(self) -> pd.DataFrame:
        """Return one row per difference, in order of time; the columns are the fields of `Difference`."""
        import pandas as pd

        names = [one.name for one in fields(Difference)]
        return pd.DataFrame([asdict(one) for one in self.differences], columns=pd.Index(names))

    def verdict(self) -> str:
        """The result in one or two sentences."""
        watched = f"{_count(self.steps, 'step')} of {self.model}, recorded {_often(self.every)} with "
        watched += _count(len(self.metrics), "metric")
        if self.identical:
            return (
                f"Watching changes nothing: {watched}, {_count(sum(self.checked.values()), 'comparison')}, all "
                "identical bit for bit."
            )
        if not self.reproducible:
            first = self.unstable[0]
            return (
                f"The training itself is not reproducible: two copies of {self.model} that nobody watches differ, "
                f"first at step {first.step} in {first}. Whether watching changes anything cannot be told."
            )
        first = self.differences[0]
        text = f"Watching changes this training ({watched}), first at step {first.step} in {first}."
        if self.suspects:
            named = ", ".join(repr(one) for one in self.suspects)
            text += (
                f" {'This metric does' if len(self.suspects) == 1 else 'Each of these metrics does'} it alone: {named}."
            )
        return text

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[place]) for row in rows) for place in range(2)]
        table = [f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]}" for row in rows]
        shown = [f"  step {one.step}: {one}" for one in self.differences[:SHOWN]]
        if len(self.differences) > SHOWN:
            shown.append(f"  and {len(self.differences) - SHOWN} more")
        return "\n".join([self.verdict(), "", *table, *(["", *shown] if shown else [])])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in row)}</tr>" for row in self._rows())
        listed = "".join(f"<li>step {one.step}: {html.escape(str(one))}</li>" for one in self.differences[:SHOWN])
        verdict = f"<p>{html.escape(self.verdict())}</p>"
        return f"{verdict}<table>{rows}</table>{f'<ul>{listed}</ul>' if listed else ''}"

    def _rows(self) -> list[tuple[str, str, str]]:
        """One row per kind: its name, how many were compared, how many differ."""
        differing: dict[str, int] = dict.fromkeys(self.checked, 0)
        for one in self.differences:
            differing[one.what] = differing.get(one.what, 0) + 1
        return [
            (
                what,
                str(self.checked.get(what, 0)),
                f"{count} differ{'s' if count == 1 else ''}" if count else "identical",
            )
            for what, count in differing.items()
        ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _often(every: int) -> str:
    """How often a step is recorded.

    >>> [_often(every) for every in (1, 2, 10, 12, 23)]
    ['at every step', 'at every 2nd step', 'at every 10th step', 'at every 12th step', 'at every 23rd step']
    """
    if every == 1:
        return "at every step"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(every % 10, "th") if every // 10 % 10 != 1 else "th"
    return f"at every {every}{ending} step"
