"""The theory page: the plane of variances, numbers beside what was measured, the map of a sweep."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradscope.dashboards.pages import theory
from gradscope.dashboards.source import Source
from gradscope.dashboards.state import TheoryState
from gradscope.dashboards.theory_numbers import numbers_frame
from gradscope.errors import InvalidValueError, UnknownNameError
from gradscope.runs import Run, Writer
from gradscope.spec import LayerSpec, MetricSpec

METRICS = tuple(MetricSpec(name, name, scale="log") for name in ("weight_rms", "output_rms", "output_grad_norm"))
HIDDEN = 4


def write(path: Path, weight_var: float = 2.5, norm: str = "none", activation: str = "tanh", **config: Any) -> Run:
    """Write a chain of that weight variance, in its second recorded step of twice as much."""
    specs = [
        LayerSpec(id=place, layer=f"hidden.{place}", call=1, depth=place + 1, parents=(place - 1,) if place else (),
                  activation="identity" if place == HIDDEN else activation, norm=norm, fan_in=50, fan_out=50)
        for place in range(HIDDEN + 1)
    ]  # fmt: skip
    given = {"weight_var": weight_var, "bias_var": 0.05, "depth": HIDDEN, "activation": activation} | config
    writer = Writer(str(path), metrics=METRICS, config=given, name=path.name)
    writer.describe(specs)
    for step in (0, 10):
        root = (weight_var * (2 if step else 1) / 50) ** 0.5
        values = np.tile([root, 0.9, 1.0], (HIDDEN + 1, 1))
        values[:, 2] = 0.8 ** np.arange(HIDDEN, -1, -1.0)
        writer.rows(step, np.arange(HIDDEN + 1, dtype=np.int32), values, np.ones(values.shape, np.bool_))
    writer.scalars(10, {"test_accuracy": 1.0 / given["depth"]})
    writer.close()
    return Run(str(path))


def test_numbers_of_theory_stand_beside_what_was_measured(tmp_path: Path) -> None:
    rows = numbers_frame(write(tmp_path / "a")).set_index("quantity")
    assert rows["theory"].to_dict() == {
        "activation": "tanh",
        "weight variance": "",
        "weight variance of the edge of chaos": "1.76",
        "bias variance": "",
        "phase": "chaotic",
        "mean square q of a layer's output": "1.06",
        "gradient's factor per layer, √χ": "1.06",
        "depth scale ξ of the correlation, in layers": "11.8",
        "hidden layers that can train, about 6 ξ": "70.8",
        "hidden layers": "",
    }
    assert rows["measured"].tolist() == ["", "2.5", "", "0.05", "", "0.81", "0.8", "", "", "4"]
    late = numbers_frame(write(tmp_path / "b"), 10).set_index("quantity")
    assert late["measured"].iloc[1] == "5"


def test_layers_behind_a_norm_have_a_fixed_point_of_their_own(tmp_path: Path) -> None:
    rows = numbers_frame(write(tmp_path / "a", norm="layer")).set_index("quantity")
    assert rows["theory"]["activation, after layer norm"] == "tanh"
    with pytest.raises(InvalidValueError) as caught:
        numbers_frame(write(tmp_path / "b", norm="group"))
    assert str(caught.value) == "theory has no fixed point for layers with activation 'tanh' and norm 'group'"


def test_the_page_shows_the_first_run(tmp_path: Path) -> None:
    write(tmp_path / "a")
    page = theory.answer(Source(str(tmp_path)), TheoryState(), "light")
    assert (page["run"], page["activation"], page["at"], page["hidden"], page["no_map"]) == (
        "a",
        "own",
        "first",
        False,
        True,
    )
    assert page["phases"].layout.title.subtitle.text == "a, first step; tanh, chains without normalization"
    last = theory.answer(Source(str(tmp_path)), TheoryState("a", "relu", last=True), "dark")
    assert (last["activation"], last["at"]) == ("relu", "last")
    assert last["phases"].layout.title.subtitle.text.startswith("a, step 10; relu")


def test_a_sweep_over_depth_and_variance_has_its_map(tmp_path: Path) -> None:
    for depth in (2, 4):
        for variance in (1.0, 3.0):
            write(tmp_path / f"{depth},{variance}", variance, depth=depth)
    page = theory.answer(Source(str(tmp_path)), TheoryState(), "light")
    assert not page["no_map"]
    assert page["map"].layout.title.text == "How deep a network learns"


def test_what_cannot_be_shown_is_said(tmp_path: Path, source: Source) -> None:
    page = theory.answer(source, TheoryState("nobody"), "light")
    assert page["hidden"]
    assert "no run 'nobody'" in str(page["head"])
    empty = theory.answer(Source(str(tmp_path)), TheoryState(), "light")
    assert empty["hidden"]
    # These runs hold no weights: the panels say so.
    page = theory.answer(source, TheoryState("plain"), "light")
    assert "no metric 'weight_rms'" in page["phases"].layout.annotations[0].text
    assert "no metric 'weight_rms'" in str(page["numbers"])
    with pytest.raises(UnknownNameError):
        numbers_frame(source.runs["plain"])


@pytest.mark.parametrize(
    ("moved", "wanted"),
    [
        ({"run": "b"}, TheoryState("b", "relu")),
        ({"activation": "own"}, TheoryState("a")),
        ({"activation": "gelu"}, TheoryState("a", "gelu")),
        ({"at": "last"}, TheoryState("a", "relu", last=True)),
    ],
)
def test_a_moved_control_changes_the_state(moved: dict[str, str], wanted: TheoryState) -> None:
    shown = {"run": "a", "activation": "relu", "at": "first"}
    assert theory.chosen(TheoryState("a", "relu"), shown | moved, shown) == wanted
