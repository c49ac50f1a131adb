"""What the callbacks of all pages share."""

from __future__ import annotations

from dash import no_update

from gradscope.dashboards.callbacks import clicked_run, settled


def test_a_click_names_its_run() -> None:
    assert clicked_run({"points": [{"customdata": "a/b"}]}) == "a/b"
    assert clicked_run({"points": [{"customdata": ""}]}) is None
    assert clicked_run(None) is None


def test_controls_that_show_what_they_should_are_left_alone() -> None:
    """Somebody may be moving one while the answer travels; what it is to show is noted all the same."""
    page = {"run": "a", "metric": "loss", "step": 50, "head": "a"}
    answer = settled(page, {"run": "a", "metric": "other", "step": 50}, "key", zoom=None)
    assert answer == {
        "run": no_update,
        "metric": "loss",
        "step": no_update,
        "head": "a",
        "shown": {"key": "key", "set": {"run": "a", "metric": "loss", "step": 50}, "zoom": None},
    }


def test_what_an_answer_does_not_touch_is_not_noted() -> None:
    answer = settled({"run": "a", "metric": no_update}, {"run": "b", "metric": "loss"}, "key")
    assert answer == {"run": "a", "metric": no_update, "shown": {"key": "key", "set": {"run": "a"}}}
