"""What a trial found: every remedy that could be tried, best first, and why others could not."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
from torch import nn

from gradscope.at_rest.remedies.registry import Treatment
from gradscope.at_rest.trials.measure import METRICS, Profile
from gradscope.checks import NotApplicable
from gradscope.errors import InvalidValueError

Goal = Literal["passage", "loss", "dead units", "saturation", "zero gradients", "underflow"]
"""What a remedy is to recover."""
COLUMNS = ("remedy", "depth", "metric", "before", "predicted", "measured")


@dataclass(frozen=True, repr=False)
class Tried:
    """One remedy, applied to a copy of the model and measured on the batch.

    Attributes:
        code: Code of the remedy, such as ``critical_init``.
        treatment: What was done.
        profile: What was measured afterwards.
        predicted: What theory said of the treated copy beforehand: a series over depth by metric; empty where theory
            does not apply.
        recovered: Share of the trial's goal that is reached: of the decades lost, of the loss, of the bad share. 1 is a
            full recovery, 0 none; negative where the remedy does harm.
        loss_after: Loss of the batch after the trial's steps; NaN if it took none.
    """

    code: str
    treatment: Treatment
    profile: Profile
    predicted: Mapping[str, pd.Series[float]]
    recovered: float
    loss_after: float

    @property
    def remedy(self) -> str:
        """Code and variant."""
        variant = self.treatment.variant
        return f"{self.code} ({variant})" if variant else self.code

    @property
    def model(self) -> nn.Module:
        """The treated copy, as it was measured: not trained, and yours to train."""
        return self.treatment.model

    @property
    def predicted_decades(self) -> float:
        """Decades that the output gradient loses or gains between the hidden layers, by theory; NaN if unknown."""
        return _decades(self.predicted.get("output_grad_norm"), self.profile)

    @property
    def rises(self) -> bool:
        """Whether the loss of the batch is higher after the trial's steps than before them; False if it took none."""
        return self.loss_after > self.profile.loss or (
            math.isnan(self.profile.loss) and not math.isnan(self.loss_after)
        )

    def __repr__(self) -> str:
        return f"<{self.remedy}: recovered {self.recovered:.0%}>"

    def __str__(self) -> str:
        seen = self.profile
        foretold = self.predicted_decades
        text = f"{self.remedy}: {self.treatment.what}\n"
        text += f"   {_gradient(seen)}"
        text += "" if math.isnan(foretold) else f" (theory {foretold:+.2f})"
        text += f", {_spread(seen)}; recovered {self.recovered:.0%}"
        return text + f"; loss {seen.loss:.3g}{_later(self.loss_after)}"


@dataclass(frozen=True, repr=False)
class Trial:
    """Remedies tried on copies of a model; as a string, a report.

    Attributes:
        findings: Codes of the findings.
        model: Class of the model.
        goal: What is to be recovered: the ``passage`` of gradient and spread, the ``loss``, or a share of a layer that
            is bad: ``dead units``, ``saturation``, ``zero gradients``, ``underflow``.
        before: What was measured of the model as it is.
        loss_before: Its loss after the trial's steps; NaN if it took none.
        steps: Number of these steps.
        ranked: What was tried, best first.
        not_applicable: Remedies that could not be tried, with the reason.
    """

    findings: tuple[str, ...]
    model: str
    goal: Goal
    before: Profile
    loss_before: float
    steps: int
    ranked: tuple[Tried, ...]
    not_applicable: Mapping[str, NotApplicable] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Tried]:
        return iter(self.ranked)

    def __len__(self) -> int:
        return len(self.ranked)

    def __getitem__(self, place: int) -> Tried:
        return self.ranked[place]

    @property
    def best(self) -> Tried:
        """The remedy that ranks first; ``best.model`` is the treated copy.

        Raises:
            InvalidValueError: No remedy could be tried.
        """
        if not self.ranked:
            raise InvalidValueError("no remedy could be tried on this model; print the trial to see why")
        return self.ranked[0]

    def frame(self) -> pd.DataFrame:
        """Return the profiles, one row per remedy, depth and metric.

        The columns are remedy (in order of rank), depth, metric, before, predicted (by theory) and measured; NaN where
        a model has no such layer, or theory does not apply.
        """
        rows = [_rows(self.before, one, metric) for one in self.ranked for metric in METRICS]
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=pd.Index(COLUMNS))

    def table(self) -> pd.DataFrame:
        """Return one row per remedy, best first."""
        names = ("remedy", "what", "recovered", "decades", "predicted_decades", "spread_decades", "loss", "loss_after")
        rows = [
            (
                one.remedy,
                one.treatment.what,
                one.recovered,
                one.profile.decay.decades,
                one.predicted_decades,
                one.profile.spread_decades,
                one.profile.loss,
                one.loss_after,
            )
            for one in self.ranked
        ]
        return pd.DataFrame(rows, columns=pd.Index(names))

    def __repr__(self) -> str:
        best = f", best {self.best.remedy}" if self.ranked else ""
        return f"<Trial on copies of {self.model}: {len(self)} tried{best}>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        of = ", ".join(self.findings) or "no finding"
        seen = self.before
        lines = [
            f"Trial of remedies for {of}, on copies of {self.model}",
            f"As it is: {_gradient(seen)}{_per_layer(seen)}, "
            f"{_spread(seen)}; loss {seen.loss:.3g}{_later(self.loss_before, self.steps)}",
        ]
        if len(self.ranked) > 1 and self.goal == "passage":
            then = "lowest loss after the steps" if self.steps else "fewest in all"
            last = "; last, what makes the loss rise" if any(one.rises for one in self.ranked) else ""
            lines.append(f"Best first: fewest decades beyond one each of gradient and spread, then {then}{last}.")
        lines += [f"{place}. {one}" for place, one in enumerate(self.ranked, start=1)]
        if self.ranked and self.ranked[0].recovered <= 0.0:
            lines.append("None of them helps.")
        if self.not_applicable:
            reasons = [f"   {code}: {one.reason}" for code, one in self.not_applicable.items()]
            lines.append("\n".join(["Not tried:", *reasons]))
        return "\n\n".join(lines)


def _gradient(seen: Profile) -> str:
    decades = seen.decay.decades
    if not seen.hidden:
        return "no hidden layer"
    if math.isnan(decades):
        return "gradient zero or not finite"
    if math.isinf(decades):
        return f"gradient exactly zero in the {'first' if decades < 0.0 else 'last'} hidden layer"
    return f"gradient {decades:+.2f} decades"


def _per_layer(seen: Profile) -> str:
    return "" if math.isnan(seen.decay.rate) else f" ({seen.decay.rate:.3g} per layer)"


def _spread(seen: Profile) -> str:
    if not seen.hidden:
        return "spread of none"
    if math.isnan(seen.spread_decades):
        return "spread zero or not finite"
    return f"spread {seen.spread_decades:+.2f}" if math.isfinite(seen.spread_decades) else "spread gone to zero"


def _later(loss: float, steps: int | None = None) -> str:
    if math.isnan(loss):
        return ""
    return f", then {loss:.3g}" if steps is None else f", {loss:.3g} after {steps} steps on this batch"


def _rows(before: Profile, one: Tried, metric: str) -> pd.DataFrame:
    empty = pd.Series(dtype="float64")
    columns = {
        "before": before.values.get(metric, empty),
        "predicted": one.predicted.get(metric, empty),
        "measured": one.profile.values.get(metric, empty),
    }
    table = pd.DataFrame(columns).rename_axis("depth").reset_index()
    table.insert(0, "remedy", one.remedy)
    table.insert(2, "metric", metric)
    return table.astype({"before": "float64", "predicted": "float64", "measured": "float64"})


def _decades(series: pd.Series[float] | None, profile: Profile) -> float:
    """Return log10 of the first hidden layer's value over the last one's."""
    depths = [spec.depth for spec in profile.hidden]
    if series is None or len(depths) < 2:
        return math.nan
    first, last = series.get(min(depths), math.nan), series.get(max(depths), math.nan)
    return math.log10(first / last) if first > 0.0 and last > 0.0 else math.nan
