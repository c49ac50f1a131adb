"""Configurations of a sweep: product, names, hashes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradscope.errors import GradscopeError
from gradscope.lab.grid import LONGEST_NAME, Configuration, configurations


def test_the_product_keeps_the_order_of_names_and_values() -> None:
    found = configurations({"depth": (8, 2), "lr": 0.1, "seed": range(2), "init": ["a"]})
    assert [one.name for one in found] == [
        "depth=8,seed=0,init=a",
        "depth=8,seed=1,init=a",
        "depth=2,seed=0,init=a",
        "depth=2,seed=1,init=a",
    ]
    assert found[0].values == {"depth": 8, "lr": 0.1, "seed": 0, "init": "a"}


def test_one_value_for_all_makes_one_run() -> None:
    (only,) = configurations({"depth": 3})
    assert (only.name, only.values) == ("run", {"depth": 3})
    assert [one.values for one in configurations({})] == [{}]


def test_numpy_values_are_the_same_configuration_as_plain_ones() -> None:
    of_array, of_list = (configurations({"depth": values}) for values in (np.array([2, 8]), [2, 8]))
    assert [one.digest for one in of_array] == [one.digest for one in of_list]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": None}, {"a": "None"}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
    ],
)
def test_different_values_have_different_hashes(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert Configuration(one).digest != Configuration(other).digest


def test_a_hash_does_not_change_between_versions() -> None:
    digest = Configuration({"depth": 8, "activation": "sigmoid", "lr": 0.1}).digest
    assert digest == "0d52d24b8be90634acefe0c581d970d92f88536ae8806448808f4710ff49e3a3"


def test_functions_and_paths_have_a_lasting_text() -> None:
    config = Configuration({"loss": test_functions_and_paths_have_a_lasting_text, "at": Path("a")}).config
    assert config["loss"].endswith(":test_functions_and_paths_have_a_lasting_text")
    assert config["at"] == "PosixPath('a')"


def test_a_name_suits_every_file_system() -> None:
    (one,) = configurations({"path": ["C:\\x/é?"], "shape": [(1, 2)]})
    assert one.name == "path=C__x___,shape=_1,2_"


def test_a_long_name_is_cut_and_told_apart_by_its_hash() -> None:
    one, other = configurations({"text": ["x" * 300 + "a", "x" * 300 + "b"]})
    assert len(one.name) == LONGEST_NAME + 9
    assert one.name != other.name


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"depth": []}, "depth= has no values"),
        ({"depth": [2, 8, 2]}, "depth= has the value 2 twice"),
    ],
)
def test_a_wrong_grid_is_named(grid: dict[str, Any], message: str) -> None:
    with pytest.raises(GradscopeError, match=f"^{re.escape(message)}$"):
        configurations(grid)


def test_a_value_without_a_lasting_text_is_named() -> None:
    with pytest.raises(GradscopeError, match=r"^model=<object object at 0x[0-9a-f]+> cannot be recognised"):
        _ = Configuration({"model": object()}).digest
