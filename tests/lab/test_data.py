"""Data sets and batches."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from gradscope.errors import GradscopeError
from gradscope.lab.data import Data, batches, load


@pytest.fixture(scope="module")
def digits() -> Data:
    return load("digits")


def test_digits_are_real_pictures_with_values_from_0_to_1(digits: Data) -> None:
    assert digits.x_train.shape == (1347, 1, 8, 8)
    assert digits.x_test.shape == (450, 1, 8, 8)
    assert (digits.x_train.dtype, digits.y_train.dtype) == (torch.float32, torch.int64)
    assert (digits.x_train.min().item(), digits.x_train.max().item()) == (0.0, 1.0)
    assert (digits.classes, digits.inputs, digits.shape) == (10, 64, (1, 8, 8))


def test_the_split_is_stratified_and_loses_nothing(digits: Data) -> None:
    train, held = digits.y_train.bincount(), digits.y_test.bincount()
    assert (train + held).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert bool(((held / (train + held) - 0.25).abs() < 0.005).all())


def test_the_split_follows_its_seed(digits: Data) -> None:
    assert torch.equal(digits.x_train, load("digits").x_train)
    assert not torch.equal(digits.x_train, load("digits", seed=1).x_train)
    assert len(load("digits", test=0.5).y_test) == 899


def test_batches_follow_their_seed_and_leave_the_global_state(digits: Data) -> None:
    state = torch.random.get_rng_state()
    one, same, other = ([y for _, y in batches(digits, 64, 30, seed)] for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(one) == 30
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(torch.cat(one), torch.cat(other))


def test_an_epoch_holds_no_sample_twice(digits: Data) -> None:
    size = 100
    numbered = Data("n", torch.arange(1347), torch.arange(1347), digits.x_test, digits.y_test, 10)
    labels = torch.cat([y for _, y in batches(numbered, size, 26)])
    for epoch in labels.reshape(2, 1300):
        assert len(epoch.unique()) == 1300
    assert not torch.equal(labels[:1300], labels[1300:])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _: load("digitz"), "no data set 'digitz'; there are: digits (did you mean 'digits'?)"),
        (lambda _: load(test=1.0), "test must be below 1, not 1"),
        (lambda _: load(test=0), "test must be above 0, not 0"),
        (
            lambda data: batches(data, 2000, 1),
            "batch_size 2000 is more than the 1347 training samples of digits",
        ),
        (lambda data: batches(data, 0, 1), "batch_size must be at least 1, not 0"),
        (lambda data: batches(data, 1, -1), "steps must be at least 0, not -1"),
    ],
)
def test_a_wrong_argument_is_named(digits: Data, call: Any, message: str) -> None:
    with pytest.raises(GradscopeError, match=f"^{re.escape(message)}$"):
        call(digits)
