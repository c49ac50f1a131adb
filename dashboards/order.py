"""Order and numbers of the table as people read them."""

from __future__ import annotations

import math
import re

from gradscope.figures.wording import number, superscript

_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", re.ASCII)


def natural(name: str) -> tuple[tuple[str | float, ...], str]:
    """Return the key that sorts names by the numbers in them, not by their digits.

    >>> sorted(["depth=12", "depth=2", "lr=0.5", "lr=0.25", "lr=1e-3"], key=natural)
    ['depth=2', 'depth=12', 'lr=1e-3', 'lr=0.25', 'lr=0.5']
    """
    parts = _NUMBER.split(name)
    return tuple(float(part) if place % 2 else part for place, part in enumerate(parts)), name


def fixed(value: float) -> str:
    """Write a number with three significant digits, trailing zeros included, so that a column lines up.

    >>> fixed(0.5), fixed(1.1), fixed(-12.0), fixed(123.4), fixed(2e-12), fixed(0.0), fixed(float("inf"))
    ('0.500', '1.10', '−12.0', '123', '2.00×10⁻¹²', '0', '∞')
    """
    if not math.isfinite(value) or value == 0:
        return number(value)
    mantissa, exponent = f"{value:.2e}".split("e")
    power = int(exponent)
    text = f"{value:.{max(0, 2 - power)}f}" if -3 <= power < 5 else f"{mantissa}×10{superscript(power)}"
    return text.replace("-", "−")
