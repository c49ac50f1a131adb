"""What every estimator of information returns: a number that says how it came about and how far it can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from scipy.special import stdtrit

Bound = Literal["estimate", "lower", "upper", "both"]
Unit = Literal["nats", "bits", "1"]
NATS_PER_BIT = math.log(2.0)
OF_INFORMATION = ("bias", "chance", "ceiling")
"""Parameters in the unit of the estimate."""


@dataclass(frozen=True)
class Estimate:
    """One estimate.

    Attributes:
        value: The estimate; NaN where there is none.
        low: Lower end of its interval: 95 % by sampling, or the lower bound where `bound` is ``both``; NaN where no
            interval is known.
        high: Upper end.
        estimator: Its name.
        parameters: What it was computed with; what is an amount of information among them is in `unit`.
        n: Samples used.
        bound: ``estimate`` of the quantity itself; ``lower`` or ``upper``: of a bound on it; ``both``: `low` and `high`
            are bounds on it.
        unit: ``nats``, ``bits``, or ``1`` for what has none.
        warning: Why not to trust it; empty inside its validity.
    """

    value: float
    low: float
    high: float
    estimator: str
    n: int
    parameters: Mapping[str, float | int | str] = field(default_factory=dict)
    bound: Bound = "estimate"
    unit: Unit = "nats"
    warning: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the interval."""
        return self.low, self.high

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        settings = ", ".join(f"{name} = {_short(value)}" for name, value in self.parameters.items())
        interval = "" if math.isnan(self.low) else f" [{self.low:.4g}, {self.high:.4g}]"
        unit = "" if self.unit == "1" else f" {self.unit}"
        text = f"{self.estimator}: {self.value:.4g}{unit}{interval}, n = {self.n}"
        text += f", {settings}" if settings else ""
        return text + (f" (warning: {self.warning})" if self.warning else "")

    def in_bits(self) -> Estimate:
        """Return the same in bits; what has no unit stays as it is.

        >>> Estimate(math.log(2), 0.0, math.log(4), "binning", 100).in_bits().value
        1.0
        """
        if self.unit != "nats":
            return self
        value, low, high = (one / NATS_PER_BIT for one in (self.value, self.low, self.high))
        said = {name: one / NATS_PER_BIT for name, one in self.parameters.items() if name in OF_INFORMATION}  # type: ignore[operator]
        return replace(self, value=value, low=low, high=high, unit="bits", parameters={**self.parameters, **said})


def interval(value: float, error: float, parts: int | None = None) -> tuple[float, float]:
    """Return the interval of 95 % around a value with a standard error; NaN for an error that is not known.

    Args:
        value: The value.
        error: Its standard error.
        parts: Of how many parts of the sample the error is the spread, which makes it Student's interval; the normal
            one where None.

    >>> tuple(round(one, 2) for one in interval(1.0, 0.1))
    (0.8, 1.2)
    """
    half = error * (1.959963984540054 if parts is None else float(stdtrit(max(parts - 1, 1), 0.975)))
    return value - half, value + half


def joined(*warnings: str) -> str:
    """Join the warnings that apply."""
    return "; ".join(one for one in warnings if one)


def _short(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
