"""The findings of a run, as the page shows them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import dash_mantine_components as dmc
from dash import dcc, html

from gradscope.checks import Finding, Findings, diagnose
from gradscope.dashboards.blocks import scrolled, table_of
from gradscope.dashboards.state import FlowState
from gradscope.errors import GradscopeError
from gradscope.figures.wording import number
from gradscope.runs import Run

_LOG = logging.getLogger(__name__)
COLOURS = {"critical": "red", "warning": "orange", "note": "blue"}


MOST_ROWS = 200
"""Layers whose numbers a finding lists; of more, it says how many there are."""


def findings_panel(run: Run, name: str) -> dmc.Paper:
    """Return the findings of a run, worst first, and which checks found nothing or could not be made.

    Args:
        run: The run.
        name: What the dashboard calls it, for the links to layers and steps.
    """
    title = dmc.Text("Findings", fw=600, size="sm")
    stack = dmc.Stack([title, *_body(run, name)], gap="xs")
    return dmc.Paper(scrolled("Findings", stack), withBorder=True, radius="md", className="findings")


def _body(run: Run, name: str) -> list[Any]:
    try:
        found = diagnose(run)
    except GradscopeError as error:
        return [dmc.Text(f"The checks could not be made: {error}", size="sm")]
    except Exception as error:
        _LOG.exception("the checks of run %r failed", run.name)
        return [dmc.Text(f"The checks could not be made: {type(error).__name__}: {error}", size="sm")]
    body: list[Any] = [dmc.Text(headline(found), size="sm"), *(_finding(one, name) for one in found)]
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
    >>> headline(Findings("a", (), unrecorded="call probe.step() after it"))
    'No layer was recorded, so none could be checked: call probe.step() after it'
    """
    if found.unrecorded:
        return f"No layer was recorded, so none could be checked: {found.unrecorded}"
    made = len({*found.codes, *found.healthy})
    total = made + len(found.not_applicable)
    if not made:
        return "No check could be made."
    if not found.not_applicable and not len(found):
        return "The checks found nothing wrong."
    result = {0: "nothing found", 1: "1 finding"}.get(len(found), f"{len(found)} findings")
    checks = "check" if total == 1 else "checks"
    return f"{total} {checks} made, {result}." if made == total else f"{made} of {total} {checks} made, {result}."


def _finding(finding: Finding, name: str) -> dmc.Alert:
    numbers = ", ".join(f"{name} = {number(value)}" for name, value in finding.evidence.items())
    badge = dmc.Badge(finding.severity, color=COLOURS.get(finding.severity, "gray"), variant="filled", size="sm")
    head = dmc.Group(
        [badge, dmc.Text(f"{finding.title[:1].upper()}{finding.title[1:]} [{finding.code}]", fw=600)], gap=8
    )
    lines = [
        _where(finding, name),
        dmc.Text(finding.cause, size="sm"),
        dmc.Text(f"Remedy: {finding.remedy}", size="sm", fw=500) if finding.remedy else None,
        dmc.Text(numbers, size="xs", c="dimmed") if numbers else None,
        _evidence(finding),
        dmc.Text(f"Source: {finding.source}", size="xs", c="dimmed") if finding.source else None,
    ]
    return dmc.Alert(
        dmc.Stack([head, *(line for line in lines if line is not None)], gap=4),
        color=COLOURS.get(finding.severity, "gray"),
        variant="light",
        className="finding",
    )


def _where(finding: Finding, name: str) -> html.Div | None:
    """Return links to the layers and the first and last step of a finding; None where it names none."""
    layers = (finding.layers[0], finding.layers[-1]) if finding.layers else None
    ends = dict.fromkeys((*finding.steps[:1], *finding.steps[-1:]))
    step = finding.steps[0] if finding.steps else None
    links: list[Any] = []
    if layers is not None:
        href = FlowState(name, step=step, layers=layers).href()
        links.append(dcc.Link(numbered("layer", finding.layers), href=href, className="run"))
    for place, one in enumerate(ends):
        label = f"step {one:,}" if len(ends) == 1 else f"{('first', 'last')[place]} step {one:,}"
        links.append(dcc.Link(label, href=FlowState(name, step=one, layers=layers).href(), className="run"))
    if not links:
        return None
    parts = [part for link in links for part in (link, " · ")][:-1]
    return html.Div(["Where: ", *parts], className="where")


def numbered(what: str, numbers: Sequence[int]) -> str:
    """Say which layers a link leads to.

    >>> numbered("layer", [3]), numbered("layer", [1, 2, 3]), numbered("layer", [1, 4, 9])
    ('layer 3', 'layers 1 to 3', '3 layers from 1 to 9')
    """
    if len(numbers) == 1:
        return f"{what} {numbers[0]}"
    whole = len(numbers) == numbers[-1] - numbers[0] + 1
    between = f"{numbers[0]} to {numbers[-1]}"
    return f"{what}s {between}" if whole else f"{len(numbers)} {what}s from {between}"


def _evidence(finding: Finding) -> html.Details | None:
    """Return the numbers of layers as a table to unfold; None where there are none."""
    frame = finding.frame()
    if frame.empty:
        return None
    listed = frame.head(MOST_ROWS).reset_index()
    rest = f", the first {MOST_ROWS} of {len(frame)}" if len(frame) > MOST_ROWS else ""
    for column in listed.columns[1:]:
        listed[column] = ["—" if math.isnan(value) else number(value) for value in listed[column]]
    return html.Details(
        [html.Summary(f"Evidence by layer{rest}"), scrolled(f"Evidence of {finding.code}", table_of(listed))],
        className="evidence",
    )
