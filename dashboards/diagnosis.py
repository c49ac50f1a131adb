"""The findings of a run, as the page shows them."""

from __future__ import annotations

import logging
from typing import Any

import dash_mantine_components as dmc

from gradscope.checks import Finding, Findings, diagnose
from gradscope.dashboards.blocks import scrolled
from gradscope.errors import GradscopeError
from gradscope.runs import Run

_LOG = logging.getLogger(__name__)
COLOURS = {"critical": "red", "warning": "orange", "note": "blue"}


def findings_panel(run: Run) -> dmc.Paper:
    """Return the findings of a run, worst first, and which checks found nothing or could not be made."""
    title = dmc.Text("Findings", fw=600, size="sm")
    stack = dmc.Stack([title, *_body(run)], gap="xs")
    return dmc.Paper(scrolled("Findings", stack), withBorder=True, radius="md", className="findings")


def _body(run: Run) -> list[Any]:
    try:
        found = diagnose(run)
    except GradscopeError as error:
        return [dmc.Text(f"The checks could not be made: {error}", size="sm")]
    except Exception as error:
        _LOG.exception("the checks of run %r failed", run.name)
        return [dmc.Text(f"The checks could not be made: {type(error).__name__}: {error}", size="sm")]
    body: list[Any] = [dmc.Text(headline(found), size="sm"), *(_finding(one) for one in found)]
    if found.healthy:
        body.append(dmc.Text(f"Found nothing: {', '.join(found.healthy)}", size="xs", c="dimmed"))
    body += [dmc.Text(f"Not made: {code} ({why.reason})", size="sm") for code, why in found.not_applicable.items()]
    return body


def headline(found: Findings) -> str:
    """Return in a few words what the checks found, and how many of them could be made at all.

    >>> headline(Findings("a", (), healthy=("vanishing", "exploding")))
    'The checks found nothing wrong.'
    >>> from gradscope.checks.finding import NotApplicable
    >>> headline(Findings("a", (), (), {"vanishing": NotApplicable("no layer")}))
    'No check could be made.'
    """
    made = len({*found.codes, *found.healthy})
    total = made + len(found.not_applicable)
    if not made:
        return "No check could be made."
    if not found.not_applicable and not len(found):
        return "The checks found nothing wrong."
    result = {0: "nothing found", 1: "1 finding"}.get(len(found), f"{len(found)} findings")
    checks = "check" if total == 1 else "checks"
    return f"{total} {checks} made, {result}." if made == total else f"{made} of {total} {checks} made, {result}."


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
