"""Reports for continuous integration, read back by the libraries that others read them with."""

from __future__ import annotations

import json
import math

import pytest
from junitparser import Failure, JUnitXml, Skipped
from sarif_pydantic import Sarif

from gradscope.checks import Finding, Findings, NotApplicable
from gradscope.cli import reports
from gradscope.cli.check import Examined


def finding(severity: str = "critical", code: str = "vanishing") -> Finding:
    return Finding(
        code=code,
        title="the gradient vanishes towards the input",
        severity=severity,  # type: ignore[arg-type]
        layers=(1, 2),
        steps=(0,),
        evidence={"decades": -math.inf, "rate": 0.25},
        cause="a < b\x1b[31m",
        remedy="shorten the path",
        source="Hochreiter 1991",
    )


def examined(*findings: Finding) -> list[Examined]:
    letter = Findings("net", findings, ("exploding", "non_finite"), {"stalled": NotApplicable("no scalar loss")})
    return [Examined("train.py:net", "train.py", 7, letter)]


@pytest.mark.parametrize(
    ("least", "failed"),
    [("critical", ["vanishing"]), ("warning", ["vanishing", "dead"]), ("note", ["vanishing", "dead"]), ("never", [])],
)
def test_junit_fails_the_cases_that_are_bad_enough(least: str, failed: list[str]) -> None:
    text = reports.junit(examined(finding(), finding("warning", "dead")), least)
    (suite,) = JUnitXml.fromstring(text.encode())
    cases = {case.name: case for case in suite}
    assert list(cases) == ["vanishing", "dead", "exploding", "non_finite", "stalled"]
    assert [name for name, case in cases.items() if any(isinstance(one, Failure) for one in case.result)] == failed
    assert (suite.name, suite.tests, suite.failures, suite.skipped) == ("train.py:net", 5, len(failed), 1)
    (skipped,) = cases["stalled"].result
    assert isinstance(skipped, Skipped)
    assert skipped.message == "no scalar loss"
    told = cases["vanishing"].result[0].text if "vanishing" in failed else cases["vanishing"].system_out
    assert "CRITICAL: the gradient vanishes towards the input [vanishing]" in told
    assert "a < b" in told


def test_sarif_is_of_the_standard_and_points_at_the_function() -> None:
    log = Sarif.model_validate_json(reports.sarif(examined(finding(), finding("note", "dead")), "warning"))
    (run,) = log.runs
    assert [(one.rule_id, str(one.level.value)) for one in run.results] == [("vanishing", "error"), ("dead", "note")]
    (place,) = run.results[0].locations
    assert place.physical_location.artifact_location.uri == "train.py"
    assert place.physical_location.region.start_line == 7
    assert {rule.id for rule in run.tool.driver.rules} == {"vanishing", "dead"}
    assert run.results[0].message.text == ("the gradient vanishes towards the input. a < b\x1b[31m. shorten the path.")


def test_json_holds_everything_and_no_nan() -> None:
    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    (one,) = json.loads(reports.as_json(examined(finding()), "warning"), parse_constant=refuse)
    assert one["findings"][0]["evidence"] == {"decades": "-inf", "rate": 0.25}
    assert one["findings"][0]["fails"] is True
    assert one["healthy"] == ["exploding", "non_finite"]
    assert one["not_applicable"] == {"stalled": "no scalar loss"}


def test_the_letter_is_that_of_the_findings() -> None:
    (one,) = examined(finding())
    assert reports.text([one, one], "warning") == f"{one.findings}\n\n{one.findings}"
