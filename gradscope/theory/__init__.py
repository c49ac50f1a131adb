"""Mean-field theory of signal propagation: what depth does to activations and gradients at initialization."""

from gradscope.theory.functions import ACTIVATIONS, Activation, activation_of
from gradscope.theory.recursion import propagate
from gradscope.theory.stages import Convolution, Level, Pool, Residual, Stage, Start

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Convolution",
    "Level",
    "Pool",
    "Residual",
    "Stage",
    "Start",
    "activation_of",
    "propagate",
]
