"""A network deeper than theory says its initialization can carry."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pandas as pd

from gradscope.checks.course import course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, hidden, of_depths, seen
from gradscope.runs import Run
from gradscope.spec import LayerSpec
from gradscope.theory import ACTIVATIONS, activation_of
from gradscope.theory.depth import DEPTH_SCALES
from gradscope.theory.expectations import moments
from gradscope.theory.mean_field import mean_field

CODE = "depth-scale"
FEWEST = 3
_SOURCE = "Schoenholz et al. 2017: networks train down to about 6 xi_c; xi from mean-field theory at the first step"


def depth_scale(run: Run) -> list[Finding] | NotApplicable:
    """Find a network with more hidden layers than six depth scales of its initialization.

    sigma_w^2 = fan_in weight_rms^2 at the first step, the median of the layers above the first; biases taken as zero.
    xi is the lesser of xi_c and |xi_grad| of the fixed point; where there is none, of chi = sigma_w^2 E[phi'(u)^2] at
    the measured q of the outputs, over the layers. Beyond 6 xi samples have become alike and gradients have vanished
    (ordered phase), or neighbours have parted and gradients exploded (chaotic phase).

    Not applicable to skips, to layers of several kinds, and to activation functions that theory does not know.

    Severity: warning where the training makes no progress; note where it is too early to tell, for 6 is an observation
    and no bound: a training that makes progress has refuted it.
    """
    weights = seen(run, "weight_rms")
    if isinstance(weights, NotApplicable):
        return weights
    layers = of_depths(run, hidden(run))
    plain = _plain(run, layers)
    if isinstance(plain, NotApplicable):
        return plain
    activation, norm = plain
    first = weights.iloc[0]
    variances = pd.Series({one.depth: float(first.get(one.depth, math.nan)) ** 2 * one.fan_in for one in layers})
    weight_var = float(variances.iloc[1:].median())
    if not math.isfinite(weight_var) or weight_var <= 0.0:
        return NotApplicable("the size of the weights is not known, or zero")
    scale, chi = _scale(run, activation, norm, weight_var)
    if math.isnan(scale):
        outputs = seen(run, "output_rms")
        if isinstance(outputs, NotApplicable):
            return NotApplicable(f"theory has no fixed point here, and {outputs.reason}")
        return NotApplicable(f"theory knows no depth scale of {activation} at weight variance {weight_var:.3g}")
    deepest = DEPTH_SCALES * scale
    if len(layers) <= deepest:
        return []
    going = course(run)
    if going.verdict == "learning":
        return []
    numbers = {"depth_scale": scale, "deepest": deepest, "layers": float(len(layers)), "weight_var": weight_var}
    return [
        Finding(
            code=CODE,
            title="the network is deeper than its initialization can carry",
            severity="warning" if going.verdict in ("stalled", "diverged") else "note",
            layers=tuple(one.depth for one in layers),
            steps=(int(weights.index[0]),),
            evidence=numbers | {"chi": chi},
            cause=" ".join(
                [
                    f"With {activation} and weights of variance {weight_var:.3g} / fan_in, theory gives a depth scale "
                    f"of {scale:.2g} layers: about {deepest:.2g} can be trained; there are {len(layers)} hidden ones.",
                    *going.said,
                ]
            ),
            remedy="take the weight variance of the edge of chaos, fewer layers, skip connections, or normalize",
            source=_SOURCE,
            remedies=("critical_init", "shallower", "add_skips", "normalize"),
            by_layer={"weight_var": by_depth(variances)},
        )
    ]


def _plain(run: Run, layers: list[LayerSpec]) -> tuple[str, str] | NotApplicable:
    """Return activation function and normalization of a chain of like layers."""
    if len(layers) < FEWEST:
        return NotApplicable(f"too shallow: {FEWEST} hidden layers in a chain are needed, there are {len(layers)}")
    ids = {one.id for one in layers}
    if len(run.trunk) != len(run.specs) or any(len(set(one.parents) & ids) > 1 for one in run.specs):
        return NotApplicable("not a chain: skips or branches")
    if not all(one.resolved for one in layers[1:]):
        return NotApplicable("what lies between the layers is not known")
    kinds = Counter((one.activation, one.norm) for one in layers).most_common()
    (activation, norm), _ = kinds[0]
    if len(kinds) > 1:
        return NotApplicable("the layers are not all alike: activation functions or normalizations differ")
    if activation not in ACTIVATIONS or norm not in ("none", "batch", "layer"):
        return NotApplicable(f"theory does not know {activation} with normalization {norm!r}")
    return activation, norm


def _scale(run: Run, activation: str, norm: str, weight_var: float) -> tuple[float, float]:
    """Return the depth scale and chi; NaN where neither fixed point nor measured outputs give them."""
    found = mean_field(activation, weight_var, norm=norm)
    scales = [abs(one) for one in (found.xi_c, found.xi_grad) if not math.isnan(one)]
    if scales:
        return min(scales), found.chi
    outputs = seen(run, "output_rms")
    if isinstance(outputs, NotApplicable):
        return math.nan, math.nan
    q = outputs.iloc[0].reindex(list(hidden(run))).to_numpy(np.float64) ** 2
    chi = weight_var * moments(activation_of(activation), q).slope_square
    mean = float(np.mean(np.log(chi[np.isfinite(chi) & (chi > 0.0)]))) if np.isfinite(chi).any() else math.nan
    return (math.inf if mean == 0.0 else abs(1.0 / mean)), math.exp(mean)
