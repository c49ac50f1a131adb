"""Real data that needs no network, as tensors, and batches that a seed fixes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradscope.errors import InvalidValueError
from gradscope.lab.validation import choice, number, whole
from gradscope.loading import undrawn


@dataclass(frozen=True)
class Data:
    """A classification data set, split.

    Attributes:
        name: Its name.
        x_train: Inputs, float32, shape (samples, channels, height, width), values from 0 to 1.
        y_train: Class of each, int64, shape (samples,).
        x_test: The same for testing.
        y_test: The same for testing.
        classes: Number of classes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.x_train.shape[1:])

    @property
    def inputs(self) -> int:
        """Entries of one input."""
        return self.x_train[0].numel()


def load(name: str = "digits", *, seed: int = 0, test: float = 0.25) -> Data:
    """Load a data set by name and split it, class by class, under a seed.

    ``digits``: 1,797 handwritten digits of 8 x 8 pixels in 10 classes, which come with scikit-learn (UCI
    "Optical Recognition of Handwritten Digits"); grey values from 0 to 16 are divided by 16.

    Args:
        name: Name of the data set.
        seed: Which samples go into which part.
        test: Share of the samples kept for testing, above 0 and below 1.

    Raises:
        UnknownNameError: No such data set.
        InvalidValueError: ``test`` is out of range.

    >>> digits = load("digits")
    >>> digits.shape, digits.classes, len(digits.y_train), len(digits.y_test)
    ((1, 8, 8), 10, 1347, 450)
    """
    source = _SOURCES[choice("data set", name, _SOURCES)]
    share, seed = number("test", test, least=0, above=True), whole("seed", seed, 0)
    if share >= 1:
        raise InvalidValueError(f"test must be below 1, not {share:g}")
    with undrawn():
        from sklearn.model_selection import train_test_split

    inputs, labels = source()
    train, held = train_test_split(range(len(labels)), test_size=share, stratify=labels, random_state=seed)
    return Data(
        name=name,
        x_train=inputs[train],
        y_train=labels[train],
        x_test=inputs[held],
        y_test=labels[held],
        classes=int(labels.max()) + 1,
    )


def batches(data: Data, batch_size: int, steps: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``steps`` batches of inputs and labels from the training part, in an order that the seed fixes.

    Every epoch is shuffled anew; what is left of it when it cannot fill a batch is passed over, so that every
    batch has ``batch_size`` samples. The global random state is not touched.

    Raises:
        InvalidValueError: A batch needs more samples than there are, or a number is below its least value.

    >>> digits = load("digits")
    >>> [x.shape[0] for x, y in batches(digits, 100, 2)]
    [100, 100]
    """
    size, steps, seed = whole("batch_size", batch_size), whole("steps", steps, 0), whole("seed", seed, 0)
    samples = len(data.y_train)
    if size > samples:
        raise InvalidValueError(f"batch_size {size} is more than the {samples} training samples of {data.name}")
    return _batches(data, size, steps, seed)


def _batches(data: Data, size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    samples, order, start = len(data.y_train), torch.empty(0, dtype=torch.int64), 0
    for _ in range(steps):
        if start + size > len(order):
            order, start = torch.randperm(samples, generator=generator), 0
        chosen = order[start : start + size]
        start += size
        yield data.x_train[chosen], data.y_train[chosen]


def _digits() -> tuple[Tensor, Tensor]:
    with undrawn():
        from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = torch.as_tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    return pictures, torch.as_tensor(bunch.target, dtype=torch.int64)


_SOURCES: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {"digits": _digits}
