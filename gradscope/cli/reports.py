"""Findings as continuous integration reads them: a letter, JUnit XML, SARIF or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from gradscope import __version__
from gradscope.checks.finding import SEVERITIES, Finding

if TYPE_CHECKING:
    from gradscope.cli.check import Examined

LEVELS = {"critical": "error", "warning": "warning", "note": "note"}
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
HOME = "https://pypi.org/project/gradscope-torch/"


def failing(severity: str, least: str) -> bool:
    """Tell whether a finding makes the check fail: it is at least as bad as the least severity that does.

    >>> failing("critical", "warning"), failing("note", "warning"), failing("critical", "never")
    (True, False, False)
    """
    return least != "never" and SEVERITIES.index(severity) <= SEVERITIES.index(least)


def text(examined: Sequence[Examined], least: str) -> str:
    """Return the letters one below the other."""
    return "\n\n".join(str(one.findings) for one in examined)


def junit(examined: Sequence[Examined], least: str) -> str:
    """Return JUnit XML: a suite for each model or run, a case for each check.

    A finding bad enough is a failure, a milder one the output of a case that passes, a check that could not be made
    is skipped.
    """
    document = Element("testsuites", name="gradscope check")
    for one in examined:
        suite = SubElement(document, "testsuite", name=one.name)
        for finding in one.findings:
            _add_finding(_case(suite, finding.code, one), finding, least)
        for code in one.findings.healthy:
            _case(suite, code, one)
        for code, why in one.findings.not_applicable.items():
            SubElement(_case(suite, code, one), "skipped", message=_legal(why.reason))
        _count(suite)
    indent(document)
    return tostring(document, encoding="unicode", xml_declaration=True)


def _case(suite: Element, code: str, one: Examined) -> Element:
    place = {"file": one.file, "line": str(one.line)} if one.file else {}
    return SubElement(suite, "testcase", {"name": code, "classname": one.name, "time": "0", **place})


def _add_finding(case: Element, finding: Finding, least: str) -> None:
    if failing(finding.severity, least):
        inner = SubElement(case, "failure", message=_legal(finding.title), type=finding.severity)
    else:
        inner = SubElement(case, "system-out")
    inner.text = _legal(str(finding))


def _count(suite: Element) -> None:
    suite.set("tests", str(len(suite)))
    suite.set("errors", "0")
    for name, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))


def _legal(text: str) -> str:
    """Leave out what XML cannot hold, such as colours of an error message."""
    return "".join(one for one in text if one in "\t\n" or ord(one) >= 32)


def sarif(examined: Sequence[Examined], least: str) -> str:
    """Return SARIF 2.1.0, which code hosts show beside the line that makes the model."""
    results = [_result(finding, one) for one in examined for finding in one.findings]
    titles = {finding.code: finding.title for one in examined for finding in one.findings}
    rules = [{"id": code, "shortDescription": {"text": title}} for code, title in sorted(titles.items())]
    driver = {"name": "gradscope", "version": __version__, "informationUri": HOME, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results, "columnKind": "unicodeCodePoints"}
    return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _result(finding: Finding, one: Examined) -> dict[str, Any]:
    place = {"artifactLocation": {"uri": Path(one.file or one.name).as_posix()}, "region": {"startLine": one.line}}
    layers = [{"name": f"layer {depth}", "kind": "object"} for depth in finding.layers]
    message = ". ".join(part.rstrip(".") for part in (finding.title, finding.cause, finding.remedy) if part)
    return {
        "ruleId": finding.code,
        "level": LEVELS[finding.severity],
        "message": {"text": f"{message}."},
        "locations": [{"physicalLocation": place, **({"logicalLocations": layers} if layers else {})}],
        "properties": {"evidence": _plain(finding.evidence), "steps": list(finding.steps), "source": finding.source},
    }


def as_json(examined: Sequence[Examined], least: str) -> str:
    """Return everything as JSON; NaN and infinity as text."""
    return json.dumps(
        [
            {
                "name": one.name,
                "file": one.file,
                "findings": [_finding(finding, least) for finding in one.findings],
                "healthy": list(one.findings.healthy),
                "not_applicable": {code: why.reason for code, why in one.findings.not_applicable.items()},
            }
            for one in examined
        ],
        indent=2,
    )


def _finding(finding: Finding, least: str) -> dict[str, Any]:
    return {
        "code": finding.code,
        "title": finding.title,
        "severity": finding.severity,
        "fails": failing(finding.severity, least),
        "layers": list(finding.layers),
        "steps": list(finding.steps),
        "evidence": _plain(finding.evidence),
        "cause": finding.cause,
        "remedy": finding.remedy,
        "source": finding.source,
    }


def _plain(evidence: Any) -> dict[str, float | str]:
    """JSON knows neither NaN nor infinity."""
    return {name: float(value) if math.isfinite(value) else str(float(value)) for name, value in evidence.items()}


FORMATS: dict[str, Callable[[Sequence[Examined], str], str]] = {
    "text": text,
    "junit": junit,
    "sarif": sarif,
    "json": as_json,
}
