"""How figures write numbers and names."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence


def distinct(names: Sequence[str]) -> list[str]:
    """Drop from several names the parts, between commas and slashes, that all of them share.

    Of a part such as ``init=xavier`` the word alone says enough; numbers keep their key.

    >>> distinct(["depth=8,init=xavier,seed=0", "depth=9,init=kaiming,seed=0"])
    ['depth=8, xavier', 'depth=9, kaiming']
    >>> distinct(["a"])
    ['a']
    """
    parts = [re.split(r"[,/]", name) for name in names]
    shared = set.intersection(*map(set, parts)) if len(names) > 1 else set()
    if not shared:
        return list(names)
    own = [[re.sub(r"^\w+=(?=[A-Za-z])", "", part) for part in one if part not in shared] for one in parts]
    return [", ".join(one) or name for one, name in zip(own, names, strict=True)]


def short(text: str, limit: int = 34) -> str:
    """Shorten a long name in its middle, where names of a sweep differ least, and escape it for plotly.

    >>> short("depth=32,activation=sigmoid,init=xavier_uniform,seed=2", 30)
    'depth=32,activa…r_uniform,seed=2'
    >>> short("<b>")
    '&lt;b&gt;'
    """
    half = limit // 2
    return html.escape(text if len(text) <= limit else f"{text[:half]}…{text[-half - 1 :]}", quote=False)


def label(text: str, limit: int = 44) -> str:
    """Shorten the label of a metric at its end and escape it for plotly, which reads markup.

    >>> label("Rate <b>"), label("A very long label", 10)
    ('Rate &lt;b&gt;', 'A very lo…')
    """
    return html.escape(shorten(text, limit), quote=False)


def shorten(text: str, limit: int) -> str:
    """Cut a long text at its end.

    >>> shorten("A very long label", 10)
    'A very lo…'
    """
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def number(value: float, figures: int = 3) -> str:
    """Write a number for people: three figures (or as many as asked for), powers of ten as such.

    >>> number(0.23512), number(4.02e-12), number(0.0), number(float("nan")), number(1.0)
    ('0.235', '4.02×10⁻¹²', '0', 'not a number', '1')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(figures, 3)}g}".replace("-", "−")
    mantissa, exponent = f"{value:.{max(figures, 3) - 1}e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}×10{superscript(int(exponent))}".replace("-", "−")


def superscript(value: int) -> str:
    """Write an integer in superscript digits.

    >>> superscript(-12)
    '⁻¹²'
    """
    return str(value).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def wrap(text: str, width: int = 60) -> list[str]:
    """Break a text into lines of at most ``width`` characters, at spaces.

    >>> wrap("one two three", 8)
    ['one two', 'three']
    """
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def cell_text(rate: float) -> str:
    """Write a rate into a cell.

    >>> cell_text(0.2349), cell_text(1.0), cell_text(3e-7)
    ('0.235', '1.00', '3×10⁻⁷')
    """
    if not 0.001 <= rate < 100:
        return number(rate)
    return f"{rate:.3f}" if rate < 0.9995 else f"{rate:.2f}"


def power_text(power: int) -> str:
    """Write a power of ten for an axis.

    >>> power_text(-4), power_text(0)
    ('10<sup>−4</sup>', '1')
    """
    return "1" if power == 0 else f"10<sup>{power}</sup>".replace("-", "−")
