"""The square of layer similarities: what it draws, writes and says, for few and for many layers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gradscope import figures
from gradscope.errors import InvalidTypeError, InvalidValueError


def frame(count: int, flat: int | None = None) -> pd.DataFrame:
    """Similarities that fall with the distance in depth, of depths 0 to count - 1; `flat` is a constant layer."""
    rows = []
    for depth in range(count):
        for other in range(count):
            value = np.nan if flat in (depth, other) else 1.0 - abs(depth - other) / count
            layer, beside = (f"layer.{one}" if one else "input" for one in (depth, other))
            warning = "a side is constant" if np.isnan(value) else ""
            rows.append((depth, layer, other, beside, value, value - 0.1, value + 0.1, "cka", 256, warning))
    names = ["depth", "layer", "other_depth", "other_layer", "value", "low", "high", "estimator", "n", "warning"]
    return pd.DataFrame(rows, columns=names)


def test_few_layers_have_their_numbers_in_the_cells() -> None:
    drawn = figures.layer_similarity(frame(3))
    (cells,) = drawn.data
    assert [list(row) for row in cells.text] == [
        ["1.00", "0.67", "0.33"],
        ["0.67", "1.00", "0.67"],
        ["0.33", "0.67", "1.00"],
    ]
    assert (cells.zmin, cells.zmax) == (0.0, 1.0)
    assert drawn.layout.xaxis.tickvals == drawn.layout.yaxis.tickvals == (0, 1, 2)
    assert drawn.layout.yaxis.scaleanchor == "x"
    assert drawn.layout.title.subtitle.text == "cka, n = 256 samples"
    assert list(cells.customdata[0, 2]) == ["input", "layer.2, depth 2", "0.333 [0.233, 0.433]"]


def test_many_layers_have_colours_alone_and_ticks_apart() -> None:
    drawn = figures.layer_similarity(frame(61), theme="dark")
    (cells,) = drawn.data
    assert cells.text is None
    assert np.shape(cells.z) == (61, 61)
    assert len(drawn.layout.xaxis.tickvals) <= 13
    assert drawn.layout.xaxis.tickvals[:2] == (0, 5)


def test_a_constant_layer_is_empty_and_named() -> None:
    drawn = figures.layer_similarity(frame(4, flat=2))
    assert np.isnan(drawn.data[0].z[2]).all()
    assert drawn.data[0].text[2][0] == ""
    assert drawn.layout.title.subtitle.text == "cka, n = 256 samples; depth 2: the same for every sample, left empty"


def test_a_negative_estimate_has_the_colour_of_zero_and_its_own_number() -> None:
    table = frame(2).assign(value=[1.0, -0.03, -0.03, 1.0])
    (cells,) = figures.layer_similarity(table).data
    assert cells.z[0, 1] == 0.0
    assert cells.text[0][1] == "−0.03"


def test_names_are_escaped() -> None:
    (cells,) = figures.layer_similarity(frame(2).assign(layer=["<b>", "<b>", "a", "a"])).data
    assert cells.customdata[0, 0][0] == "&lt;b&gt;"


def test_what_is_no_such_frame_is_named() -> None:
    with pytest.raises(InvalidTypeError) as no:
        figures.layer_similarity([1.0])  # type: ignore[arg-type]
    assert str(no.value) == "frame is a DataFrame of gradscope.similarity_of, not list"
    with pytest.raises(InvalidValueError) as lacks:
        figures.layer_similarity(frame(2).drop(columns="n"))
    assert str(lacks.value) == "a frame of gradscope.similarity_of has the column 'n'; this one has not"
    with pytest.raises(InvalidValueError) as empty:
        figures.layer_similarity(frame(2).head(0))
    assert str(empty.value) == "the frame has no rows"
