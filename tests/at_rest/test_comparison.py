"""Bit for bit: what counts as the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gradscope.at_rest.verification.comparison import Difference, compare

NAN = torch.tensor([math.nan, 1.0])


def sparse(places: list[int], values: list[float]) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([places]), torch.tensor(values), (4,), check_invariants=True)


SPARSE = sparse([0, 2], [1.0, 2.0])


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor([]),
        torch.tensor(1.0),
        NAN,
        torch.tensor([math.inf, -0.0]),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor([True, False]),
        torch.tensor([1 + 2j]),
        torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
        torch.tensor([1.0], dtype=torch.float8_e4m3fn),
        SPARSE,
        math.nan,
        1 + 2j,
        np.array([1.0, math.nan]),
        ("a", "b"),
        None,
    ],
    ids=repr,
)
def test_the_same(value: Any) -> None:
    twin = value.clone() if isinstance(value, Tensor) else value
    assert compare("gradients", "0.weight", 1, value, twin) is None


@pytest.mark.parametrize(
    ("first", "second", "entries", "of", "greatest"),
    [
        (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.5, 2.0]), 2, 3, 1.0),
        (torch.tensor([0.0]), torch.tensor([-0.0]), 1, 1, 0.0),
        (NAN, torch.tensor([1.0, 1.0]), 1, 2, math.nan),
        (torch.tensor([math.inf]), torch.tensor([1.0]), 1, 1, math.inf),
        (torch.tensor([3 + 4j]), torch.tensor([0j]), 1, 1, 5.0),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1, 2, 1.0),
        (torch.tensor([255], dtype=torch.uint8), torch.tensor([0], dtype=torch.uint8), 1, 1, 255.0),
        (SPARSE, sparse([0, 2], [3.0, 6.0]), 2, 4, 4.0),
        (torch.ones(2, 2).T, torch.zeros(2, 2), 4, 4, 1.0),
    ],
)
def test_numbers_that_differ(first: Tensor, second: Tensor, entries: int, of: int, greatest: float) -> None:
    found = compare("gradients", "0.weight", 1, first, second)
    assert found is not None
    assert (found.entries, found.of) == (entries, of)
    assert found.greatest == pytest.approx(greatest, nan_ok=True)
    assert str(found) == f"gradients, 0.weight: {entries} of {of} entries, by up to {greatest:.3g}"


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (torch.ones(2), torch.ones(3), "(2,) and (3,)"),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), "torch.float32 and torch.float64"),
        (SPARSE, torch.ones(4), "torch.sparse_coo and torch.strided"),
        (SPARSE, sparse([0], [1.0]), "2 and 1 stored entries"),
        (None, torch.ones(2), "none and Tensor"),
        (("a",), (), "a and none"),
        (1, 2, "1 and 2"),
        (True, False, "True and False"),
        (0.0, -0.0, "0.0 and -0.0"),
        ("high", "highest", "high and highest"),
        (b"a", b"b", "not the same"),
        (np.array([1.0]), np.array([2.0]), "not the same"),
    ],
    ids=repr,
)
def test_what_differs_in_words(first: object, second: object, text: str) -> None:
    found = compare("parameters", "head", 2, first, second)
    assert isinstance(found, Difference)
    assert str(found) == f"parameters, head: {text}"


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_compressed_sparse_tensors() -> None:
    rows = torch.tensor([0, 1, 2]), torch.tensor([0, 1])
    first, second = (
        torch.sparse_csr_tensor(*rows, torch.tensor(values), (2, 2), check_invariants=True)
        for values in ([1.0, math.nan], [2.0, math.nan])
    )
    assert compare("gradients", "0.weight", 0, first, first.clone()) is None
    assert compare("gradients", "0.weight", 0, first, second) == Difference("gradients", "0.weight", 0, 1, 7, 1.0)
