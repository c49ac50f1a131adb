"""What estimators refuse, and how an estimate reads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gradscope import information
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError
from gradscope.information import Estimate

X = np.random.default_rng(0).standard_normal((50, 2))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: information.ksg(X, X[:40]), InvalidValueError, "x has 50 samples and y has 40"),
        (lambda: information.ksg(X, X, k=50), InvalidValueError, "k is below the number of samples, 50, not 50"),
        (lambda: information.ksg(X, X, variant=3), InvalidValueError, "variant is 1 or 2, not 3"),
        (lambda: information.ksg(["a", "b"], X), InvalidTypeError, "x is an array of real numbers, not of <U1"),
        (lambda: information.effective_rank([[1.0]]), InvalidValueError, "x has 1 samples, and at least 2 are needed"),
        (
            lambda: information.effective_rank([[1.0], [math.nan]]),
            InvalidValueError,
            "x holds NaN or infinity in 1 of 2 entries",
        ),
        (
            lambda: information.effective_rank(np.zeros((3, 0))),
            InvalidValueError,
            "x has no features: its shape is (3, 0)",
        ),
        (
            lambda: information.probe_accuracy(X, np.where(X[:, 0] > 2, math.inf, math.nan)),
            InvalidValueError,
            "y holds NaN or infinity in 50 of 50 labels",
        ),
        (lambda: information.binning(X, bins=1), InvalidValueError, "bins is a whole number from 2 on, not 1"),
        (lambda: information.binning(X, [1, 2]), InvalidValueError, "y has 2 labels for 50 samples"),
        (
            lambda: information.binning(X, bounds=(1.0, -1.0)),
            InvalidValueError,
            "bounds are a pair (lowest, highest) of numbers in order, not (1.0, -1.0)",
        ),
        (
            lambda: information.binning(X, bounds=5.0),  # type: ignore[arg-type]
            InvalidValueError,
            "bounds are a pair (lowest, highest) of numbers in order, not 5.0",
        ),
        (
            lambda: information.binning(X, bounds=(1.0, 2.0, 3.0)),  # type: ignore[arg-type]
            InvalidValueError,
            "bounds are a pair (lowest, highest) of numbers in order, not (1.0, 2.0, 3.0)",
        ),
        (
            lambda: information.kde_bounds(X, noise_var=0.0),
            InvalidValueError,
            "noise_var is a positive number, not 0.0",
        ),
        (lambda: information.renyi(X, X, sigma=-1), InvalidValueError, "sigma is a positive number, not -1"),
        (
            lambda: information.matrix_entropy(np.zeros((2, 3))),
            InvalidValueError,
            "a kernel matrix is square and has a positive trace; given is one of (2, 3)",
        ),
        (lambda: information.cka(X, X, batch=51), InvalidValueError, "batch is at most the 50 samples, not 51"),
        (
            lambda: information.cka(X, X, batch=10, debiased=False),
            InvalidValueError,
            "batches take the unbiased HSIC: debiased=False goes with batch=None",
        ),
        (
            lambda: information.info_nce(X, X, batch=30),
            InvalidValueError,
            "batch is at most the 25 samples that there are for the bound, not 30",
        ),
        (
            lambda: information.info_nce(X, X, batch=10, critic=lambda x, y: x),
            InvalidValueError,
            "critic returns a matrix of shape (10, 10), not (10, 2)",
        ),
        (
            lambda: information.pca_saturation(X, share=0.0),
            InvalidValueError,
            "share is above 0 and at most 1, not 0.0",
        ),
        (
            lambda: information.probe_accuracy(X, np.zeros(50)),
            InvalidValueError,
            "y holds one label only: there is nothing to tell apart",
        ),
        (
            lambda: information.probe_accuracy(X, [0] * 48 + [1] * 2),
            InvalidValueError,
            "a label of y has 2 samples, fewer than the 5 folds",
        ),
        (
            lambda: information.reconstruction(X, X, folds=51),
            InvalidValueError,
            "folds is at most the number of samples, 50, not 51",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], Any], kind: type[GradscopeError], message: str) -> None:
    with pytest.raises(kind) as no:
        call()
    assert str(no.value) == message


def test_an_estimate_says_how_it_came_about() -> None:
    found = Estimate(0.83037, 0.75, 0.91, "ksg", 1000, {"k": 3}, warning="10 features in all")
    assert str(found) == "ksg: 0.8304 nats [0.75, 0.91], n = 1000, k = 3 (warning: 10 features in all)"
    assert str(found.in_bits()).startswith("ksg: 1.198 bits [1.082, 1.313], n = 1000")
    rank = Estimate(3.0, math.nan, math.nan, "effective_rank", 10, unit="1")
    assert str(rank) == "effective_rank: 3, n = 10"
    assert rank.in_bits() is rank
    assert float(found) == 0.83037
    told = information.binning(X[:, 0], (X[:, 0] > 0).astype(int), bins=4)
    assert told.parameters["bias"] == 3 / 100
    assert told.in_bits().parameters["bias"] == pytest.approx(0.03 / math.log(2))
    assert told.in_bits().parameters["bins"] == 4


def test_both_ends_are_the_interval() -> None:
    found = information.gaussian(X[:, :1], X[:, 1:])
    assert found.interval == (found.low, found.high)


def tensors(x: np.ndarray) -> list[Any]:
    """Return an array in the forms in which torch and Python hand it on; values that bfloat16 can hold."""
    tensor = torch.tensor(x)
    strided = torch.empty(len(x), 2 * x.shape[1], dtype=torch.float64)[:, ::2].copy_(tensor)
    return [
        tensor.clone().requires_grad_(),
        tensor.bfloat16().requires_grad_(),
        tensor.half(),
        strided,
        list(tensor.clone().requires_grad_()),
        x.tolist(),
        x.astype(np.float16),
        np.asfortranarray(x),
    ]


def test_tensors_and_lists_are_arrays() -> None:
    """Whatever their precision, and where they require a gradient; so are labels."""
    x = np.round(16.0 * X) / 16.0
    x = torch.tensor(x).bfloat16().double().numpy()
    y = (x[:, 0] > 0).astype(int)
    expected: list[Any] = [
        information.ksg(x, x[:, ::-1]).value,
        information.effective_rank(x),
        information.probe_accuracy(x, y),
        information.reconstruction(x, x[:, :1]),
    ]
    for one in tensors(x):
        flipped = torch.as_tensor(x[:, ::-1].copy())
        assert information.ksg(one, flipped).value == expected[0]
        assert information.effective_rank(one) == expected[1]
        assert information.probe_accuracy(one, torch.tensor(y)) == expected[2]
        assert information.reconstruction(one, x[:, :1]) == expected[3]


@pytest.mark.parametrize("scale", [1e-160, 1e-30, 1e-8, 1e8, 1e150])
def test_what_looks_at_ratios_does_not_see_scale(scale: float) -> None:
    for estimator in (information.effective_rank, information.participation_ratio, information.pca_saturation):
        assert estimator(scale * X).value == pytest.approx(estimator(X).value, rel=1e-9)
    target = X[:, :1] + X[:, 1:] ** 2
    for pair in (information.cka, information.gaussian):
        assert pair(scale * X, target).value == pytest.approx(pair(X, target).value, rel=1e-9)
    if scale < 1e100:
        assert information.reconstruction(scale * X, target).value == pytest.approx(
            information.reconstruction(X, target).value, rel=1e-5
        )


def test_what_is_constant_is_constant_though_its_mean_is_rounded() -> None:
    """The mean of fifty times 0.1 is not 0.1: what is left of them is rounding, not a direction."""
    flat = np.full((50, 3), 0.1)
    for estimator in (information.effective_rank, information.participation_ratio, information.pca_saturation):
        assert estimator(flat).value == 0.0
        assert estimator(flat).warning == "the features are constant"
    for debiased in (True, False):
        found = information.cka(flat, X, debiased=debiased)
        assert (math.isnan(found.value), found.warning) == (True, "a side is constant")
    assert math.isnan(information.reconstruction(X, flat).value)
    assert information.reconstruction(flat, X).value == pytest.approx(0.0, abs=0.1)


def test_rounding_of_single_precision_is_no_rank() -> None:
    """A layer that collapsed keeps only the noise of its last digits, which uses all directions."""
    collapsed = (0.5 + 3e-8 * np.random.default_rng(1).standard_normal((500, 20))).astype(np.float32)
    found = information.effective_rank(collapsed)
    assert found.value > 10
    assert found.warning == "the features are constant but for rounding"
    assert information.effective_rank(0.5 + 3e-8 * np.random.default_rng(1).standard_normal((500, 20))).warning == ""
    frame = information.panel({"a": collapsed}, np.random.default_rng(2).standard_normal((500, 4)))
    said = frame.set_index("metric")["warning"]
    assert said["participation_ratio"] == "the features are constant but for rounding"
    assert said["cka_input"] == "a side is constant but for rounding"


def test_more_dimensions_are_features() -> None:
    images = np.random.default_rng(0).standard_normal((40, 2, 3, 3))
    assert information.participation_ratio(images) == information.participation_ratio(images.reshape(40, -1))


@pytest.mark.parametrize("given", [torch.zeros(50, 2), X, [X, X], None, 3])
def test_layers_without_names_are_named_by_their_kind(given: Any) -> None:
    message = f"layers are arrays by name, such as {{'fc1': activations}}, not {type(given).__name__}"
    for call in (
        lambda: information.panel(given, X),
        lambda: information.planes(given, np.zeros(50)),
        lambda: information.similarity(given),
    ):
        with pytest.raises(InvalidTypeError) as no:
            call()
        assert str(no.value) == message
