"""The report: as text, as a table of a notebook, as a frame."""

from __future__ import annotations

import pandas as pd
from trainings import mlp, trained, vectors

import gradscope as gs
from gradscope.at_rest import Difference, Report

CHANGED = Difference("gradients", "a<b>.weight", 1, 3, 6, 0.5)
FLAG = Difference("training flags", "head", 2, 1, 1, 1.0, "True and False")
CHECKED = {"losses": 3, "gradients": 6, "training flags": 6}


def report(*differences: Difference, **changes: object) -> Report:
    settings = {"model": "MLP", "steps": 3, "every": 2, "metrics": ("output_rms",), "checked": CHECKED, **changes}
    return Report(differences=differences, **settings)  # type: ignore[arg-type]


def test_the_report_of_an_innocent_probe() -> None:
    one = trained(mlp(), vectors())
    found = gs.verify(one.model, one.optimizer, None, one.batch, steps=2, metrics="backward")
    assert (found.identical, found.reproducible, found.differences) == (True, True, ())
    assert found.checked["losses"] == 2
    assert found.checked["gradients"] == 2 * 8
    assert found.frame().empty
    assert str(found).splitlines()[0] == (
        f"Watching changes nothing: 2 steps of MLP, recorded at every step with {len(found.metrics)} metrics, "
        f"{sum(found.checked.values())} comparisons, all identical bit for bit."
    )


def test_the_letter() -> None:
    assert str(report()) == (
        "Watching changes nothing: 3 steps of MLP, recorded at every 2nd step with 1 metric, 15 comparisons, all "
        "identical bit for bit.\n"
        "\n"
        "  losses          3  identical\n"
        "  gradients       6  identical\n"
        "  training flags  6  identical"
    )
    assert str(report(CHANGED, FLAG, suspects=("mine",))) == (
        "Watching changes this training (3 steps of MLP, recorded at every 2nd step with 1 metric), first at step 1 in "
        "gradients, a<b>.weight: 3 of 6 entries, by up to 0.5. This metric does it alone: 'mine'.\n"
        "\n"
        "  losses          3  identical\n"
        "  gradients       6  1 differs\n"
        "  training flags  6  1 differs\n"
        "\n"
        "  step 1: gradients, a<b>.weight: 3 of 6 entries, by up to 0.5\n"
        "  step 2: training flags, head: True and False"
    )


def test_a_training_that_does_not_repeat_itself() -> None:
    verdict = report(CHANGED, unstable=(FLAG,)).verdict()
    assert verdict == (
        "The training itself is not reproducible: two copies of MLP that nobody watches differ, first at step 2 in "
        "training flags, head: True and False. Whether watching changes anything cannot be told."
    )


def test_a_long_list_is_cut() -> None:
    lines = str(report(*[CHANGED] * 25)).splitlines()
    assert lines[-1] == "  and 5 more"
    assert sum("step 1: " in line for line in lines[1:]) == 20


def test_the_frame() -> None:
    frame = report(CHANGED, FLAG).frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["what", "where", "step", "entries", "of", "greatest", "detail"]
    assert frame["where"].tolist() == ["a<b>.weight", "head"]


def test_a_notebook_shows_text_as_text() -> None:
    page = report(CHANGED)._repr_html_()
    assert "a&lt;b&gt;.weight: 3 of 6 entries" in page
    assert "<b>" not in page
    assert "<td>losses</td><td>3</td><td>identical</td>" in page
