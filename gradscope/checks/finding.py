"""What a check returns, and the letter they make together."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

import pandas as pd

from gradscope.checks import html

Severity = Literal["critical", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "note")
SYMPTOMS = ("sparse-gradients", "stalled")
"""Checks of what other findings bring about."""
WIDTH = 100
_WRAP: dict[str, Any] = {"subsequent_indent": "  ", "break_on_hyphens": False, "break_long_words": False}


@dataclass(frozen=True)
class Finding:
    """Something wrong with the flow of gradients, with the numbers that show it.

    Attributes:
        code: Name of the check, such as ``vanishing``.
        title: The finding in a few words.
        severity: ``critical``, ``warning`` or ``note``.
        layers: Depths concerned, ascending; none where it concerns no layer.
        steps: The steps that show it.
        evidence: The numbers, by name.
        cause: What is seen, and what brings it about.
        remedy: What to try.
        source: Where threshold and remedy come from.
        remedies: Codes of what to try, best guess first: ``critical_init``, ``centered_lsuv``, ``change_activation``,
            ``normalize``, ``add_skips``, ``shallower``, ``scale_branches``, ``scale_loss``, ``lower_learning_rate``,
            ``raise_learning_rate``, ``clip_gradients``; none where nothing of the kind helps.
        by_layer: The numbers of layers, by name and depth; what is not known has no entry.
    """

    code: str
    title: str
    severity: Severity
    layers: tuple[int, ...]
    steps: tuple[int, ...]
    evidence: Mapping[str, float]
    cause: str
    remedy: str
    source: str
    remedies: tuple[str, ...] = ()
    by_layer: Mapping[str, Mapping[int, float]] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """Return the numbers of layers: index `depth`, one column per name, NaN where not known.

        >>> one = Finding("a", "A", "note", (1, 2), (0,), {}, "", "", "", (), {"spread": {1: 0.5, 2: 0.25}})
        >>> one.frame()["spread"].to_dict()
        {1: 0.5, 2: 0.25}
        """
        columns = {name: pd.Series(dict(values), dtype="float64") for name, values in self.by_layer.items()}
        found = pd.DataFrame(columns)
        found.index = pd.Index(found.index, dtype="int64", name="depth")
        return found.sort_index()

    def _repr_html_(self) -> str:
        return html.of_finding(self)

    @property
    def where(self) -> str:
        """Layers and steps in words."""
        return f"{_span('layer', self.layers)}; {_span('step', self.steps)}"

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} = {value:.4g}" for name, value in self.evidence.items())
        lines = {
            "Where": self.where,
            "Numbers": numbers,
            "Cause": self.cause,
            "Remedy": self.remedy,
            "Source": self.source,
        }
        head = f"{self.severity.upper()}: {self.title} [{self.code}]"
        return "\n".join([head, *(_paragraph(name, text) for name, text in lines.items() if text)])


@dataclass(frozen=True)
class NotApplicable:
    """A check that could not be made, and why: silence is no clean bill of health."""

    reason: str


@dataclass(frozen=True)
class Findings:
    """The findings of a diagnosis, worst first; as a string, a letter.

    Attributes:
        run: Name of the run.
        findings: Worst first.
        healthy: Codes of the checks that were made and found nothing.
        not_applicable: Codes of the checks that could not be made, with the reason.
        unrecorded: Why the run holds no rows of layers, as far as it tells; empty where it holds some.
    """

    run: str
    findings: tuple[Finding, ...]
    healthy: tuple[str, ...] = ()
    not_applicable: Mapping[str, NotApplicable] = field(default_factory=dict)
    unrecorded: str = ""

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, place: int) -> Finding:
        return self.findings[place]

    @property
    def codes(self) -> tuple[str, ...]:
        """Codes of the findings, worst first."""
        return tuple(one.code for one in self.findings)

    def frame(self) -> pd.DataFrame:
        """Return one row per finding, worst first; the columns are the fields of `Finding`."""
        names = [one.name for one in fields(Finding)]
        return pd.DataFrame([asdict(one) for one in self.findings], columns=pd.Index(names))

    def _repr_html_(self) -> str:
        return html.of_findings(self)

    @property
    def headline(self) -> str:
        """What was diagnosed, and how many findings there are."""
        return f"Diagnosis of run {self.run!r}: {self._result()}"

    def __str__(self) -> str:
        parts = [self.headline]
        parts += [f"{place}. {one}" for place, one in enumerate(self.findings, start=1)]
        if self.healthy:
            parts.append(textwrap.fill(f"Examined, and nothing found: {', '.join(self.healthy)}.", WIDTH, **_WRAP))
        if self.not_applicable:
            reasons = [f"  {code}: {one.reason}" for code, one in self.not_applicable.items()]
            parts.append("\n".join(["Could not be examined:", *reasons]))
        return "\n\n".join(parts)

    def _result(self) -> str:
        """Say what was found, and where that is nothing, whether every check was made."""
        count, made = len(self.findings), len(self.healthy)
        if count:
            return "1 finding" if count == 1 else f"{count} findings"
        if self.unrecorded:
            return f"no layer was recorded, so none could be checked: {self.unrecorded}"
        if not self.not_applicable:
            return "nothing found"
        checks = made + len(self.not_applicable)
        return f"{made} of {checks} checks made, nothing found" if made else "no check could be made"


def by_urgency(finding: Finding) -> tuple[int, bool, int]:
    """Return the key that sorts findings: worst first, symptoms last, and what was there before what came later.

    NaN stands before all: whatever else there is, nothing is learnt until it is gone.
    """
    onset = -1 if finding.code == "non-finite" else min(finding.steps, default=0)
    return SEVERITIES.index(finding.severity), finding.code in SYMPTOMS, onset


class Advice(NamedTuple):
    """What to try, in words and as codes of remedies, best guess first."""

    text: str
    codes: tuple[str, ...] = ()


def _span(what: str, numbers: tuple[int, ...]) -> str:
    if not numbers:
        return f"no {what}"
    if len(numbers) == 1:
        return f"{what} {numbers[0]}"
    if len(numbers) == 2:
        return f"{what}s {numbers[0]} and {numbers[1]}"
    if numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{what}s {numbers[0]} to {numbers[-1]}"
    return f"{len(numbers)} {what}s from {numbers[0]} to {numbers[-1]}"


def _paragraph(name: str, text: str) -> str:
    indent = " " * 12
    lines = textwrap.wrap(text, WIDTH - len(indent), break_on_hyphens=False)
    return f"   {name + ':':9}" + f"\n{indent}".join(lines)
