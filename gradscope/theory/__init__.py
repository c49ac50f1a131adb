"""Mean-field theory of signal propagation: what depth does to activations and gradients at initialization."""

from gradscope.theory.chain import of_layers
from gradscope.theory.criticality import Criticality, critical, stationary_criticality
from gradscope.theory.depth import DEPTH_SCALES, phase, trainable_depth
from gradscope.theory.diagram import PhaseDiagram, phase_diagram
from gradscope.theory.functions import ACTIVATIONS, Activation, activation_of
from gradscope.theory.length import FixedPoint
from gradscope.theory.mean_field import MeanField, fixed_points, mean_field
from gradscope.theory.recursion import propagate
from gradscope.theory.spectrum import finite_width_slope, isometry_ratio, kappa, largest_singular_value
from gradscope.theory.stages import Convolution, Level, Pool, Residual, Stage, Start

__all__ = [
    "ACTIVATIONS",
    "DEPTH_SCALES",
    "Activation",
    "Convolution",
    "Criticality",
    "FixedPoint",
    "Level",
    "MeanField",
    "PhaseDiagram",
    "Pool",
    "Residual",
    "Stage",
    "Start",
    "activation_of",
    "critical",
    "finite_width_slope",
    "fixed_points",
    "isometry_ratio",
    "kappa",
    "largest_singular_value",
    "mean_field",
    "of_layers",
    "phase",
    "phase_diagram",
    "propagate",
    "stationary_criticality",
    "trainable_depth",
]
