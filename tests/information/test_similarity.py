"""CKA of all pairs at once, against that of one pair, closed forms and invariances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from gradscope import information
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((200, 4))
ROTATION = np.linalg.qr(RANDOM.standard_normal((4, 4)))[0]


def values(*layers: np.ndarray, **options: int) -> np.ndarray:
    named = {str(place): one for place, one in enumerate(layers)}
    frame = information.similarity(named, **options)
    return frame.pivot(index="layer", columns="other", values="value").to_numpy()


def test_every_pair_is_what_the_estimator_of_one_pair_says() -> None:
    layers = [RANDOM.standard_normal((120, size)) for size in (3, 40, 300)]
    layers.append(np.tanh(layers[1] @ RANDOM.standard_normal((40, 20))))
    frame = information.similarity({str(place): one for place, one in enumerate(layers)})
    for row in frame.to_dict("records"):
        one = information.cka(layers[int(row["layer"])], layers[int(row["other"])])
        assert (row["value"], row["low"], row["high"]) == pytest.approx((one.value, one.low, one.high), abs=1e-9)


def test_rotations_and_multiples_are_the_same_and_independent_features_unrelated() -> None:
    wide = np.random.default_rng(1).standard_normal((256, 512)), np.random.default_rng(2).standard_normal((256, 512))
    assert values(X, -3.0 * X @ ROTATION + 7.0) == pytest.approx(np.ones((2, 2)), abs=1e-9)
    assert values(*wide)[0, 1] == pytest.approx(0.0, abs=0.02)


def test_stretching_one_direction_gives_what_the_closed_form_says() -> None:
    """CKA of X with X diag(3, 1, 1, 1) is 12 / (2 sqrt(84))."""
    x = np.random.default_rng(3).standard_normal((4000, 4))
    found = values(x, x * [3.0, 1.0, 1.0, 1.0], rows=1500)
    assert found[0, 1] == pytest.approx(12 / (2 * 84**0.5), abs=0.02)


def test_rows_are_a_random_choice_that_the_seed_repeats() -> None:
    other = np.tanh(X)
    frame = information.similarity({"a": X, "b": other}, rows=50, seed=4)
    assert frame["n"].unique().tolist() == [50]
    again, another = (values(X, other, rows=50, seed=seed)[0, 1] for seed in (4, 5))
    assert again == frame["value"][1] != another


def test_few_rows_have_no_interval() -> None:
    frame = information.similarity({"a": X, "b": np.tanh(X)}, rows=39)
    assert frame[["low", "high"]].isna().all(axis=None)
    assert frame["value"].notna().all()


def test_what_is_constant_is_not_known_and_rounding_is_warned_of() -> None:
    rounding = (0.5 + 3e-8 * RANDOM.standard_normal((200, 4))).astype(np.float32)
    frame = information.similarity({"x": X, "flat": np.full((200, 3), 0.25), "rounding": rounding})
    said = frame.set_index(["layer", "other"])
    assert pd.isna(said["value"].loc[("x", "flat")])
    assert said.loc[("x", "flat"), "warning"] == "a side is constant"
    assert said.loc[("rounding", "x"), "warning"] == "a side is constant but for rounding"
    assert said.loc[("x", "x"), "warning"] == ""


@pytest.mark.parametrize(
    ("layers", "kind", "message"),
    [
        ({}, InvalidValueError, "layers is empty"),
        ({"a": X, "b": X[:9]}, InvalidValueError, "layer 'b' has 9 samples and layer 'a' has 200"),
        ({"a": X[:3]}, InvalidValueError, "layer 'a' has 3 samples, and at least 4 are needed"),
        ({"a": X * np.inf}, InvalidValueError, "layer 'a' holds NaN or infinity in 800 of 800 entries"),
        ({"a": ["x"] * 9}, InvalidTypeError, "layer 'a' is an array of real numbers, not of <U1"),
    ],
)
def test_bad_input_is_named(layers: dict[str, np.ndarray], kind: type[GradscopeError], message: str) -> None:
    with pytest.raises(kind) as no:
        information.similarity(layers)
    assert str(no.value) == message
