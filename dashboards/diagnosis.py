"""The findings of a run, as the page shows them."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc

from gradscope.checks import Finding, diagnose
from gradscope.errors import GradscopeError
from gradscope.runs import Run

COLOURS = {"critical": "red", "warning": "orange", "note": "blue"}


def findings_panel(run: Run) -> dmc.Paper:
    """Return the findings of a run, worst first, and which checks found nothing or could not be made."""
    try:
        found = diagnose(run)
    except GradscopeError as error:
        body: list[Any] = [dmc.Text(f"The checks could not be made: {error}", size="sm", c="dimmed")]
    else:
        body = [_finding(one) for one in found] or [dmc.Text("The checks found nothing wrong.", size="sm")]
        if found.healthy:
            body.append(dmc.Text(f"Found nothing: {', '.join(found.healthy)}", size="xs", c="dimmed"))
        for code, why in found.not_applicable.items():
            body.append(dmc.Text(f"Not made: {code} ({why.reason})", size="xs", c="dimmed"))
    title = dmc.Text("Findings", fw=600, size="sm")
    return dmc.Paper(dmc.Stack([title, *body], gap="xs"), withBorder=True, radius="md", className="findings")


def _finding(finding: Finding) -> dmc.Alert:
    numbers = ", ".join(f"{name} = {value:.3g}" for name, value in finding.evidence.items())
    lines = [
        dmc.Text(finding.cause, size="sm"),
        dmc.Text(f"Remedy: {finding.remedy}", size="sm", fw=500) if finding.remedy else None,
        dmc.Text(numbers, size="xs", c="dimmed") if numbers else None,
        dmc.Text(f"Source: {finding.source}", size="xs", c="dimmed") if finding.source else None,
    ]
    return dmc.Alert(
        dmc.Stack([line for line in lines if line is not None], gap=4),
        title=f"{finding.title[:1].upper()}{finding.title[1:]} [{finding.code}]",
        color=COLOURS.get(finding.severity, "gray"),
        variant="light",
        className="finding",
    )
