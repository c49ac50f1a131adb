"""What ``jacobian`` found, to read and to compute with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class JacobianTheory:
    """What theory predicts of a Jacobian; NaN where it does not.

    Attributes:
        m1: First moment, from the layer-wise recursion: the mean over networks of these widths.
        ratio: m2 / m1^2, for chains of linear layers (Pennington et al. 2017).
        s_max: Largest singular value, for linear Gaussian networks of one width.
        status: Why a number is missing, or, after ``approximate:``, what was assumed; empty where neither is.
        m1_low: Lower end of a band in which single networks lie at least 95 times of 100, to first order in 1 / width;
            for chains of linear and convolutional layers without normalization, dropout and pooling.
        m1_high: Its upper end.
    """

    m1: float = math.nan
    ratio: float = math.nan
    s_max: float = math.nan
    status: str = ""
    m1_low: float = math.nan
    m1_high: float = math.nan


@dataclass(frozen=True)
class Jacobian:
    """Spectrum of J = d end / d start in a few numbers; with J J^T of eigenvalues lambda. As a string, to read.

    Attributes:
        start: Layer whose output is differentiated by; ``input`` for the input of the model.
        end: Layer whose output is differentiated; ``output`` for that of the model.
        mode: ``train`` or ``eval``: the mode of the copy that was looked at.
        rows: Entries of one sample at the end.
        columns: Entries of one sample at the start.
        samples: How many matrices the numbers stand for, one for each sample.
        joint: Whether samples meet (batch normalization in training): there is one matrix then, of the whole batch.
        probes: Random vectors that the moments come from; 0 where they are exact, from all singular values.
        m1: tr(J J^T) / rows, the mean of lambda over the samples. 1: a random error signal keeps its length from end to
            start, where both are of one size. 0: nothing arrives.
        m1_error: Its standard error; 0 where it is exact.
        m2: tr((J J^T)^2) / rows.
        m2_error: Its standard error.
        ratio: m2 / m1^2; 1 where all lambda are equal (dynamical isometry). NaN where J is zero.
        ratio_error: Its standard error.
        s_max: Largest singular value of any sample.
        s_max_error: A singular value lies within that distance of ``s_max``; 0 where it is exact.
        s_min: Smallest of the min(rows, columns) singular values of any sample; 0 where it is below the rounding of the
            largest. NaN without all singular values: no few products show the smallest one.
        theory: What theory predicts.
        singular_values: All of them, largest first, a row for each sample; None where they were not computed.
    """

    start: str
    end: str
    mode: str
    rows: int
    columns: int
    samples: int
    joint: bool
    probes: int
    m1: float
    m1_error: float
    m2: float
    m2_error: float
    ratio: float
    ratio_error: float
    s_max: float
    s_max_error: float
    s_min: float
    theory: JacobianTheory = field(default_factory=JacobianTheory)
    singular_values: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        rows = [("", "measured", "theory"), *self._rows()]
        widths = [max(len(row[place]) for row in rows) for place in range(3)]
        table = ["  ".join(f"{one:<{width}}" for one, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        said = [f"theory: {self.theory.status}"] if self.theory.status else []
        return "\n".join([self._title(), "", *(f"  {one}" for one in table), *(["", *said] if said else [])])

    def _title(self) -> str:
        whose = "of the whole batch, whose samples meet" if self.joint else f"mean of {self.samples} samples"
        whose = "of one sample" if self.samples == 1 and not self.joint else whose
        how = f"from {self.probes} random vectors" if self.probes else "from all singular values"
        return (
            f"Jacobian of {self.end} by {self.start} ({self.rows} x {self.columns}), {self.mode} mode, {whose}, {how}"
        )

    def _rows(self) -> list[tuple[str, str, str]]:
        found = [
            (f"m1 = tr(J J^T) / {self.rows}", self.m1, self.m1_error, self.theory.m1, self._band()),
            ("m2 / m1^2", self.ratio, self.ratio_error, self.theory.ratio, ""),
            ("largest singular value", self.s_max, self.s_max_error, self.theory.s_max, ""),
            ("smallest singular value", self.s_min, 0.0, math.nan, ""),
        ]
        return [
            (what, _with_error(value, error), "" if math.isnan(theory) else f"{theory:.4g}{band}")
            for what, value, error, theory, band in found
        ]

    def _band(self) -> str:
        known = self.theory.m1_low < self.theory.m1_high
        return f" ({self.theory.m1_low:.4g} to {self.theory.m1_high:.4g})" if known else ""


def _with_error(value: float, error: float) -> str:
    """Write a number with its error, the error to two digits.

    >>> _with_error(1.23456, 0.0321), _with_error(2.0, 0.0), _with_error(float("nan"), 0.0)
    ('1.235 +- 0.032', '2', 'not known')
    """
    if math.isnan(value):
        return "not known"
    return f"{value:.4g} +- {error:.2g}" if error else f"{value:.4g}"
