"""The ledger against gradients computed by hand, with numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gradscope.errors import UnknownNameError
from gradscope.runs import Run
from gradscope.runs.ledger import ledger, needed

positive = st.floats(1e-30, 1e30)
Array = NDArray[np.float64]


def profiles(output: Any, own: Any, total: Any) -> dict[str, pd.Series[float]]:
    names = ("output_grad_norm", "input_grad_norm", "next_input_grad_norm")
    built = {}
    for name, values in zip(names, (output, own, total), strict=True):
        series = pd.Series(values, index=range(1, len(values) + 1), dtype=np.float64)
        built[name] = series.dropna()
    return built


def chain_gradients(rng: np.random.Generator, widths: list[int]) -> tuple[list[float], list[float], list[float]]:
    """Back-propagate through tanh layers; return the norms of dL/dz, of W^T dL/dz, and of dL/da."""
    weights = [rng.normal(0, 1 / math.sqrt(fan), (out, fan)) for fan, out in pairwise(widths)]
    a, z = [rng.normal(size=widths[0])], []
    for place, weight in enumerate(weights):
        z.append(weight @ a[-1])
        a.append(np.tanh(z[-1]) if place < len(weights) - 1 else z[-1])
    delta = rng.normal(size=widths[-1])
    output, own, total = [float(np.linalg.norm(delta))], [], [math.nan]
    for place in range(len(weights) - 1, 0, -1):
        back = weights[place].T @ delta
        own.append(float(np.linalg.norm(back)))
        total.append(own[-1])
        delta = back * (1 - np.tanh(z[place - 1]) ** 2)
        output.append(float(np.linalg.norm(delta)))
    return output[::-1], [math.nan, *own[::-1]], total[::-1]


@given(seed=st.integers(0, 10**6), widths=st.lists(st.integers(1, 8), min_size=2, max_size=12))
def test_the_products_of_a_chain_are_the_measured_ratio(seed: int, widths: list[int]) -> None:
    output, own, total = chain_gradients(np.random.default_rng(seed), widths)
    book = ledger(range(1, len(output) + 1), profiles(output, own, total))
    product = book["weight_gain"].iloc[1:].prod() * book["activation_gain"].iloc[:-1].prod()
    assert product == pytest.approx(output[0] / output[-1], rel=1e-9)
    np.testing.assert_allclose(book["path_gain"].iloc[1:], 1.0, rtol=1e-12)
    np.testing.assert_allclose(10 ** book["cumulative"], np.array(output) / output[-1], rtol=1e-9)


def residual_gradients(rng: np.random.Generator, blocks: int, width: int) -> tuple[list[float], ...]:
    """Back-propagate through x + tanh(W x) blocks and a linear head; each block is one layer of the trunk."""
    weights = [rng.normal(0, 1 / math.sqrt(width), (width, width)) for _ in range(blocks + 1)]
    x, z = rng.normal(size=width), []
    for weight in weights[:-1]:
        z.append(weight @ x)
        x = x + np.tanh(z[-1])
    delta = rng.normal(size=width)
    output, own, total = [float(np.linalg.norm(delta))], [float(np.linalg.norm(weights[-1].T @ delta))], [math.nan]
    g = weights[-1].T @ delta  # of the input of the head
    shares = [1.0]
    for place in range(blocks - 1, -1, -1):
        total.append(float(np.linalg.norm(g)))  # of what the block's activation gives to the sum
        delta = g * (1 - np.tanh(z[place]) ** 2)
        output.append(float(np.linalg.norm(delta)))
        mine = weights[place].T @ delta
        own.append(float(np.linalg.norm(mine)))
        g = g + mine
        shares.append(float(mine @ g / (g @ g)))
    return output[::-1], own[::-1], total[::-1], shares[::-1]


@given(seed=st.integers(0, 10**6), blocks=st.integers(1, 10), width=st.integers(2, 8))
def test_with_the_path_gain_the_identity_holds_on_residual_nets(seed: int, blocks: int, width: int) -> None:
    output, own, total, shares = residual_gradients(np.random.default_rng(seed), blocks, width)
    given_profiles = profiles(output, own, total)
    given_profiles["input_share"] = pd.Series(shares, index=range(1, blocks + 2))
    book = ledger(range(1, blocks + 2), given_profiles)
    np.testing.assert_allclose(10 ** book["cumulative"], np.array(output) / output[-1], rtol=1e-9)
    gains = book["weight_gain"].iloc[1:] * book["path_gain"].iloc[1:]
    assert gains.prod() * book["activation_gain"].iloc[:-1].prod() == pytest.approx(output[0] / output[-1], rel=1e-9)
    np.testing.assert_allclose(book["share"] + book["other_share"], 1.0, rtol=1e-15)
    np.testing.assert_array_equal(book["share"], shares)


@given(st.lists(st.tuples(positive, positive, positive), min_size=1, max_size=20))
def test_the_cumulative_product_telescopes_for_any_norms(norms: list[tuple[float, float, float]]) -> None:
    output, own, total = (list(one) for one in zip(*norms, strict=True))
    book = ledger(range(1, len(output) + 1), profiles(output, own, total))
    expected = np.log10(np.array(output)) - math.log10(output[-1])
    np.testing.assert_allclose(book["cumulative"], expected, atol=1e-9)


def test_the_columns_and_what_is_undefined(recorded: Callable[..., Run]) -> None:
    nan = math.nan
    run = recorded([4.0, 2.0, 1.0], [nan, 8.0, 4.0], [8.0, 4.0, nan])
    book = run.ledger(step=0)
    assert book.columns.tolist() == [
        *(gains := ["weight_gain", "activation_gain", "path_gain", "norm_gain", "phi_gain", "pool_gain", "join_gain"]),
        *["share", "other_share", *(f"log10_{gain}" for gain in gains), "cumulative"],
    ]
    assert (book.index.name, book.index.tolist()) == ("depth", [1, 2, 3])
    np.testing.assert_array_equal(book["weight_gain"], [nan, 4.0, 4.0])
    np.testing.assert_array_equal(book["activation_gain"], [0.5, 0.5, nan])
    np.testing.assert_array_equal(book["path_gain"], [nan, 1.0, 1.0])
    assert book[["share", "other_share", "norm_gain", "phi_gain", "pool_gain", "join_gain"]].isna().all(axis=None)
    np.testing.assert_allclose(book["cumulative"], np.log10([4.0, 2.0, 1.0]), atol=1e-15)
    pd.testing.assert_frame_equal(run.ledger(), book)


def test_zeros_are_infinitely_many_decades_and_0_by_0_is_undefined() -> None:
    book = ledger([1, 2, 3], profiles([0.0, 0.0, 1.0], [math.nan, 0.0, 0.0], [0.0, 0.0, math.nan]))
    np.testing.assert_array_equal(book["weight_gain"], [math.nan, math.nan, 0.0])
    np.testing.assert_array_equal(book["log10_weight_gain"], [math.nan, math.nan, -math.inf])
    np.testing.assert_array_equal(book["cumulative"], [math.nan, math.nan, 0.0])


@pytest.mark.parametrize("head", [0.0, math.nan, math.inf])
def test_nothing_is_relative_to_a_head_without_a_gradient(head: float) -> None:
    norms = profiles([1.0, 1.0, 0.0], [math.nan, 1.0, 1.0], [1.0, 1.0, math.nan])
    norms["output_grad_norm"].loc[3] = head
    assert ledger([1, 2, 3], norms)["cumulative"].isna().all()


@pytest.mark.parametrize(
    ("recorded", "missing"),
    [
        (["weight_rms"], "output_grad_norm, input_grad_norm and input_grad_total_norm"),
        (["input_grad_total_norm", "weight_rms"], "output_grad_norm and input_grad_norm"),
        (["output_grad_norm", "next_input_grad_norm"], "input_grad_norm"),
    ],
)
def test_what_it_lacks_is_named(recorded: list[str], missing: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        needed(recorded)
    assert str(error.value) == (
        f"the ledger needs {missing}, which this run did not record; watch with metrics='backward'"
    )


def test_the_ledger_runs_along_the_trunk_only(recorded: Callable[..., Run]) -> None:
    parents = [(), (0,), (0,), (1, 2)]
    run = recorded([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, math.nan], parents)
    assert run.ledger().index.tolist() == [1, 3, 4]


def test_an_empty_trunk_gives_an_empty_ledger() -> None:
    assert ledger([], profiles([], [], [])).empty
