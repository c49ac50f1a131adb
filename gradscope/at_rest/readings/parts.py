"""What lies between the layers of a network, as its autograd graph shows it: one description per node."""

from __future__ import annotations

from dataclasses import dataclass

from gradscope.theory.functions import Activation
from gradscope.theory.stages import Norm, Pool


@dataclass(frozen=True)
class Source:
    """Where everything starts: the input, or what is made of parameters and constants alone."""


@dataclass(frozen=True)
class Pass:
    """What changes shape, place or type only."""


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer, by its place among all calls."""

    place: int


@dataclass(frozen=True)
class Phi:
    """An activation function."""

    activation: Activation


@dataclass(frozen=True)
class Normalization:
    """A normalization without scale and shift of its own; these follow as `Affine`.

    Attributes:
        kind: ``batch`` or ``layer``; a group normalization is one of a part of the layer.
        eps: What it adds to the variance.
        shape: What of a sample is normalized together: channels, and positions if any; empty where that is not known.
    """

    kind: Norm
    eps: float
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scale:
    """A factor, the same for all entries."""

    factor: float


@dataclass(frozen=True)
class Affine:
    """A factor and a shift for each unit: their mean squares."""

    factor_square: float
    shift_square: float


@dataclass(frozen=True)
class Dropout:
    """Entries that are dropped, a fraction of all, while the others are scaled up."""

    fraction: float


@dataclass(frozen=True)
class Sum:
    """A sum of what the parents hold, each times its factor."""

    factors: tuple[float, ...]


@dataclass(frozen=True)
class Unknown:
    """What theory has no formula for, and why."""

    why: str


Part = Source | Pass | LayerCall | Phi | Normalization | Scale | Affine | Dropout | Sum | Pool | Unknown


@dataclass(frozen=True)
class Node:
    """One part and the places of what it is computed from, which come before it."""

    part: Part
    parents: tuple[int, ...]
