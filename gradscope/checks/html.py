"""What a notebook shows of findings: plain HTML without scripts, legible on light and dark."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradscope.checks.finding import Finding, Findings

COLOURS = {"critical": "#c92a2a", "warning": "#D55E00", "note": "#1971c2"}


def of_finding(finding: Finding) -> str:
    """Return a finding as a card: severity and title, where, since when, the numbers, why, and what to do."""
    numbers = ", ".join(f"{escape(name)} = {value:.4g}" for name, value in finding.evidence.items())
    lines = [
        ("Where", escape(finding.where)),
        ("Numbers", numbers),
        ("Cause", escape(finding.cause)),
        ("Remedy", escape(finding.remedy)),
        ("Source", escape(finding.source)),
    ]
    rows = "".join(
        f'<tr><th style="text-align:left;vertical-align:top">{name}</th><td style="text-align:left">{text}</td></tr>'
        for name, text in lines
        if text
    )
    colour = COLOURS[finding.severity]
    head = f'<b style="color:{colour}">{finding.severity}</b> <b>{escape(finding.title)}</b> [{escape(finding.code)}]'
    return (
        f'<div style="border-left:4px solid {colour};padding-left:8px;margin:8px 0">{head}<table>{rows}</table></div>'
    )


def of_findings(findings: Findings) -> str:
    """Return the letter: its result, a card for each finding, and what was examined and what could not be."""
    parts = [f"<b>{escape(findings.headline)}</b>", *(of_finding(one) for one in findings)]
    if findings.healthy:
        parts.append(f"<div>Examined, and nothing found: {escape(', '.join(findings.healthy))}.</div>")
    if findings.not_applicable:
        reasons = "".join(
            f"<li>{escape(code)}: {escape(one.reason)}</li>" for code, one in findings.not_applicable.items()
        )
        count = len(findings.not_applicable)
        parts.append(f"<details><summary>Could not be examined: {count}</summary><ul>{reasons}</ul></details>")
    return f"<div>{''.join(parts)}</div>"
