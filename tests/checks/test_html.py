"""What a notebook shows of findings."""

from __future__ import annotations

from xml.etree import ElementTree

from gradscope.checks import Finding, Findings, NotApplicable

FINDING = Finding(
    code="vanishing",
    title="the gradient vanishes towards the input",
    severity="critical",
    layers=(1, 2, 3),
    steps=(0,),
    evidence={"decades": -7.25},
    cause="a < b & c",
    remedy="shorten the path",
    source="Hochreiter 1991",
)


def test_findings_show_a_card_each_and_account_for_every_check() -> None:
    findings = Findings("a <run>", (FINDING,), ("exploding",), {"stalled": NotApplicable("no scalar <loss>")})
    root = ElementTree.fromstring(findings._repr_html_())
    text = [one.strip() for one in root.itertext() if one.strip()]
    assert text == [
        "Diagnosis of run 'a <run>': 1 finding",
        "critical",
        "the gradient vanishes towards the input",
        "[vanishing]",
        *("Where", "layers 1 to 3; step 0"),
        *("Numbers", "decades = -7.25"),
        *("Cause", "a < b & c"),
        *("Remedy", "shorten the path"),
        *("Source", "Hochreiter 1991"),
        "Examined, and nothing found: exploding.",
        "Could not be examined: 1",
        "stalled: no scalar <loss>",
    ]


def test_a_finding_shows_itself_as_it_does_among_others() -> None:
    assert FINDING._repr_html_() in Findings("run", (FINDING,))._repr_html_()


def test_nothing_found_is_said() -> None:
    assert Findings("run", (), ("vanishing",))._repr_html_() == (
        "<div><b>Diagnosis of run &#x27;run&#x27;: nothing found</b>"
        "<div>Examined, and nothing found: vanishing.</div></div>"
    )
