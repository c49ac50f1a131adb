"""Plain networks whose every dimension can be chosen: depth, width, activation, normalization, skips."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, TypeVar, cast

import torch
from torch import nn

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.lab.blocks import POOLS, block
from gradscope.lab.initialization import initialize
from gradscope.lab.randomness import seeded
from gradscope.lab.validation import choice, whole

Model = TypeVar("Model", bound=nn.Module)


class MLP(nn.Sequential):
    """A fully connected network: ``flatten``, ``hidden`` (a block a layer) and ``head``; see ``mlp``."""


class CNN(nn.Sequential):
    """A convolutional network: ``features`` (a block a layer), ``flatten``, ``hidden``, ``head``."""


def mlp(
    depth: int = 8,
    width: int = 64,
    activation: str = "tanh",
    init: str = "default",
    *,
    inputs: int = 64,
    outputs: int = 10,
    norm: str = "none",
    residual: bool = False,
    bias: bool | float = True,
    weight_var: float | None = None,
    bias_var: float | None = None,
    gain: float | None = None,
    std: float = 0.01,
    seed: int | None = None,
    dtype: torch.dtype | str | None = None,
) -> MLP:
    """Build a fully connected network of ``depth`` hidden layers and a linear head.

    Layers are called ``hidden.0.linear``, ``hidden.1.linear``, ..., ``head``. Input of any shape
    (samples, ...) is flattened to (samples, inputs).

    Args:
        depth: Number of hidden layers; with the head the network has depth + 1 layers.
        width: Units of every hidden layer.
        activation: ``identity``, ``sigmoid``, ``tanh``, ``relu``, ``leaky_relu``, ``elu``, ``selu``,
            ``gelu``, ``silu`` or ``softsign``, after every hidden layer.
        init: Name of an initialization (``gradscope.lab.initialize``).
        inputs: Entries of one sample.
        outputs: Units of the head.
        norm: ``none``, ``batch`` or ``layer``, between layer and activation.
        residual: Whether x + phi(norm(W x)) takes the place of phi(norm(W x)) where widths match.
        bias: True for the biases of the initialization, False for none, a number for that constant in each.
        weight_var: Weights of variance weight_var / fan_in; see ``initialize``, as for the next three.
        bias_var: Variance of the biases.
        gain: Factor on the standard deviation of the weights.
        std: Standard deviation of the weights for init ``normal``.
        seed: Makes the weights reproducible and leaves the global random state alone.
        dtype: Such as ``torch.float64`` or ``"float64"``. One seed draws the same weights, up to rounding,
            in every dtype.

    Raises:
        UnknownNameError: No such activation, initialization, normalization or dtype.
        InvalidValueError: A size below 1, or arguments that contradict each other.

    >>> mlp(depth=2, width=5, inputs=8, outputs=3, seed=0)(torch.zeros(4, 2, 4)).shape
    torch.Size([4, 3])
    """
    depth, width = whole("depth", depth), whole("width", width)
    inputs, outputs = whole("inputs", inputs), whole("outputs", outputs)
    biased, constant = _read_bias(bias)

    def build() -> MLP:
        sizes = [inputs, *[width] * depth]
        hidden = [
            block(
                "linear",
                nn.Linear(before, after, bias=biased),
                activation,
                norm,
                (after,),
                residual=residual and before == after,
            )
            for before, after in itertools.pairwise(sizes)
        ]
        head = nn.Linear(width, outputs, bias=biased)
        return MLP(OrderedDict(flatten=nn.Flatten(), hidden=nn.Sequential(*hidden), head=head))

    options = {"weight_var": weight_var, "bias_var": bias_var, "gain": gain, "std": std, "bias": constant}
    return _finish(build, init, options, seed, dtype)


def cnn(
    depth: int = 3,
    width: int = 16,
    activation: str = "relu",
    init: str = "default",
    *,
    image: tuple[int, int, int] = (1, 8, 8),
    outputs: int = 10,
    kernel: int = 3,
    hidden: int = 64,
    pool: str = "max",
    padding: str = "zeros",
    norm: str = "none",
    residual: bool = False,
    bias: bool | float = True,
    weight_var: float | None = None,
    bias_var: float | None = None,
    gain: float | None = None,
    std: float = 0.01,
    seed: int | None = None,
    dtype: torch.dtype | str | None = None,
) -> CNN:
    """Build a convolutional network: conv, pool, conv, pool, ..., a hidden layer, a linear head.

    Layers are called ``features.0.conv``, ``features.1.conv``, ..., ``hidden.linear``, ``head``. A pooling
    halves the picture. A picture of 8 x 8 can be halved three times: up to depth 3 a pooling follows every
    convolution, in a deeper network the three poolings are spread evenly.

    Args:
        depth: Number of convolutional layers; with hidden layer and head the network has depth + 2 layers.
        width: Channels of every convolutional layer.
        activation: As of ``mlp``, after every layer but the head.
        init: Name of an initialization (``gradscope.lab.initialize``).
        image: Channels, height and width of the input.
        outputs: Units of the head.
        kernel: Height and width of the kernels, odd; pictures are padded so that they keep their size.
        hidden: Units of the hidden layer.
        pool: ``max`` or ``mean``.
        padding: ``zeros``, or ``circular``, which mean-field theory assumes.
        norm: ``none``, ``batch`` or ``layer`` (over channels and positions), between layer and activation.
        residual: Whether x + phi(norm(W x)) takes the place of phi(norm(W x)) where shapes match.
        bias: True for the biases of the initialization, False for none, a number for that constant in each.
        weight_var: Weights of variance weight_var / fan_in; see ``initialize``, as for the next three.
        bias_var: Variance of the biases.
        gain: Factor on the standard deviation of the weights.
        std: Standard deviation of the weights for init ``normal``.
        seed: Makes the weights reproducible and leaves the global random state alone.
        dtype: Such as ``torch.float64`` or ``"float64"``.

    Raises:
        UnknownNameError: No such activation, initialization, normalization, pooling, padding or dtype.
        InvalidValueError: A size below 1, an even kernel, or arguments that contradict each other.

    >>> cnn(depth=2, width=4, seed=0)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    depth, width = whole("depth", depth), whole("width", width)
    outputs, hidden, kernel = whole("outputs", outputs), whole("hidden", hidden), whole("kernel", kernel)
    channels, height, breadth = _read_image(image)
    if kernel % 2 == 0:
        raise InvalidValueError(f"kernel must be odd, so that a picture keeps its size, not {kernel}")
    choice("pooling", pool, POOLS)
    mode = cast(Literal["zeros", "circular"], choice("padding", padding, ("zeros", "circular")))
    biased, constant = _read_bias(bias)

    def build() -> CNN:
        features, size = nn.Sequential(), (height, breadth)
        for index, halve in enumerate(_poolings(depth, min(size))):
            before = width if index else channels
            conv = nn.Conv2d(before, width, kernel, padding=kernel // 2, padding_mode=mode, bias=biased)
            skip, follows = residual and before == width, pool if halve else None
            features.append(block("conv", conv, activation, norm, (width, *size), residual=skip, pool=follows))
            size = (size[0] // 2, size[1] // 2) if halve else size
        flat = width * size[0] * size[1]
        linear = nn.Linear(flat, hidden, bias=biased)
        middle = block("linear", linear, activation, norm, (hidden,), residual=residual and flat == hidden)
        head = nn.Linear(hidden, outputs, bias=biased)
        return CNN(OrderedDict(features=features, flatten=nn.Flatten(), hidden=middle, head=head))

    options = {"weight_var": weight_var, "bias_var": bias_var, "gain": gain, "std": std, "bias": constant}
    return _finish(build, init, options, seed, dtype)


def _finish(
    build: Callable[[], Model],
    init: str,
    options: dict[str, float | None],
    seed: int | None,
    dtype: torch.dtype | str | None,
) -> Model:
    """Build and initialize under one seed; the dtype comes last, so that it does not change the draw."""
    wanted = _read_dtype(dtype)
    with seeded(None if seed is None else whole("seed", seed, 0)):
        model = initialize(build(), init, **options)  # type: ignore[arg-type]
    return model if wanted is None else model.to(wanted)


def _poolings(depth: int, side: int) -> list[bool]:
    """Tell for each of ``depth`` layers whether a pooling follows it, spread evenly.

    >>> _poolings(2, 8), _poolings(5, 8)
    ([True, True], [False, True, False, True, True])
    """
    count = min(depth, side.bit_length() - 1)
    return [(index + 1) * count // depth > index * count // depth for index in range(depth)]


def _read_bias(bias: bool | float) -> tuple[bool, float | None]:
    """Split the two meanings of ``bias``: whether there are biases, and the constant they are set to."""
    if isinstance(bias, bool):
        return bias, None
    if not isinstance(bias, int | float):
        raise InvalidTypeError(f"bias must be True, False or a number, not {bias!r}")
    return True, float(bias)


def _read_image(image: tuple[int, int, int]) -> tuple[int, int, int]:
    if isinstance(image, str) or not hasattr(image, "__len__") or len(image) != 3:
        raise InvalidValueError(f"image must be (channels, height, width), not {image!r}")
    channels, height, width = (whole("image", one) for one in image)
    return channels, height, width


def _read_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    names = ("float16", "bfloat16", "float32", "float64")
    wanted = getattr(torch, choice("dtype", str(dtype).removeprefix("torch."), names))
    return wanted if isinstance(wanted, torch.dtype) else None
