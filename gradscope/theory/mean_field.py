"""The fixed point of signal propagation: where q and correlation settle, and what a layer does to a gradient there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gradscope.errors import InvalidValueError, unknown_name
from gradscope.theory.correlation import depth_scale, fixed_correlation
from gradscope.theory.expectations import moments, pair_moment
from gradscope.theory.functions import Activation, Function, activation_of
from gradscope.theory.length import LARGEST, FixedPoint, fixed_points_of, reached, table
from gradscope.theory.stages import NORMS

_NAN = math.nan


@dataclass(frozen=True)
class MeanField:
    """The fixed point of an infinitely wide network of like layers.

    Attributes:
        q: Mean square of the layer outputs z; NaN where there is no fixed point or every q is one.
        chi: Factor per layer of the mean square of the gradient's norm, going towards the input; its root is the factor
            of norms. Given without q where it is the same at every q.
        c: Correlation that two inputs come to; 1 iff chi <= 1.
        xi_q: Layers over which a deviation of q falls by e; negative where it grows.
        xi_c: The same for the correlation; infinite at chi = 1.
        xi_grad: Layers over which a mean square gradient falls by e: -1 / ln chi; negative where it grows.
        status: Empty; or why values are NaN; or which other fixed points there are.
    """

    q: float
    chi: float
    c: float
    xi_q: float
    xi_c: float
    xi_grad: float
    status: str = ""


def mean_field(
    activation: str | Function | Activation,
    weight_var: float,
    bias_var: float = 0.0,
    *,
    q0: float = 1.0,
    norm: str = "none",
    derivative: Function | None = None,
    kinks: tuple[float, ...] | None = None,
) -> MeanField:
    """Return the fixed point that signal and gradient reach from `q0` in a deep, wide network at initialization.

    With u normal of variance q, and u, u' of correlation c::

        q    = sigma_w^2 E[phi(u)^2] + sigma_b^2                    chi = sigma_w^2 E[phi'(u)^2]
        c q  = sigma_w^2 E[phi(u) phi(u')] + sigma_b^2              xi_grad = -1 / ln chi
        xi_q = -1 / ln(dq_l+1 / dq_l)                               xi_c = -1 / ln(sigma_w^2 E[phi'(u) phi'(u')])

    Args:
        activation: One of `ACTIVATIONS`, a function on arrays, or an `Activation`.
        weight_var: sigma_w^2: weights have variance sigma_w^2 / fan_in.
        bias_var: sigma_b^2, the variance of the biases.
        q0: Where the recursion starts, which matters where there are several fixed points. An unstable one is reached
            from within 5 % only.
        norm: ``none``; ``layer``: layer norm before phi; ``batch``: batch norm before phi, in training mode and over
            a large batch. With a norm, u has variance 1 and q is the mean square of z before it.
        derivative: Derivative of a function that is given; None differentiates numerically.
        kinks: Where that derivative jumps; None looks for them.

    Raises:
        UnknownNameError: No such activation or norm.
        InvalidValueError: A variance below zero or not finite, `q0` not above zero, or a function that jumps.

    Sources: Poole et al. 2016; Schoenholz et al. 2017; for batch norm Yang et al. 2019.

    >>> found = mean_field("tanh", weight_var=2.5, bias_var=0.05)
    >>> round(found.q, 6), round(found.chi, 6), round(found.c, 6)
    (1.063958, 1.133516, 0.446804)
    >>> mean_field("relu", weight_var=2.0).status
    'every q is a fixed point: q keeps its value from layer to layer'
    """
    weight_var, bias_var = checked("weight_var", weight_var), checked("bias_var", bias_var)
    if checked("q0", q0) == 0.0:
        raise InvalidValueError(f"q0 is a number above 0, not {q0!r}")
    q0 = float(q0)
    if norm not in NORMS:
        raise unknown_name("norm", norm, NORMS)
    phi = activation_of(activation, derivative, kinks)
    if norm != "none":
        return _normalized(phi, weight_var, bias_var, norm)
    points = fixed_points_of(phi, weight_var, bias_var)
    point = reached(phi, weight_var, bias_var, q0, points)
    if isinstance(point, FixedPoint):
        return _at(phi, weight_var, bias_var, point, _others(points, point, q0))
    return _nowhere(phi, weight_var, point, q0, points)


def fixed_points(
    activation: str | Function | Activation,
    weight_var: float,
    bias_var: float = 0.0,
    *,
    derivative: Function | None = None,
    kinks: tuple[float, ...] | None = None,
) -> tuple[FixedPoint, ...]:
    """Return all fixed points of the length map above 0, ascending, stable or not; arguments as of `mean_field`.

    >>> [(round(one.q, 3), one.kind) for one in fixed_points("gelu", weight_var=2.0, bias_var=0.1)]
    [(0.341, 'stable'), (11.298, 'unstable')]
    """
    phi = activation_of(activation, derivative, kinks)
    return fixed_points_of(phi, checked("weight_var", weight_var), checked("bias_var", bias_var))


def checked(name: str, value: float) -> float:
    """Return a variance; InvalidValueError where it is below zero or not finite."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise InvalidValueError(f"{name} is a finite number not below 0, not {value!r}")
    return number


def _at(phi: Activation, weight_var: float, bias_var: float, point: FixedPoint, status: str) -> MeanField:
    chi = weight_var * float(moments(phi, point.q).slope_square)
    c = fixed_correlation(_correlation_map(phi, weight_var, bias_var, point.q), _snapped(chi))
    slope = chi if c == 1.0 else weight_var * pair_moment(phi, point.q, c, slope=True)
    return MeanField(point.q, chi, c, depth_scale(point.slope), depth_scale(slope), depth_scale(chi), status)


def _correlation_map(phi: Activation, weight_var: float, bias_var: float, q: float) -> Callable[[float], float]:
    def correlate(c: float) -> float:
        return (weight_var * pair_moment(phi, q, c, slope=False) + bias_var) / q

    return correlate


def _snapped(chi: float) -> float:
    """Return 1 for what differs from 1 by rounding."""
    return 1.0 if abs(chi - 1.0) < 1e-9 else chi


def _others(points: tuple[FixedPoint, ...], point: FixedPoint, q0: float) -> str:
    own = "" if point.kind == "stable" else f"; this one is {point.kind}"
    if len(points) < 2:
        return own.removeprefix("; ")
    return f"{len(points)} fixed points: {_listed(points)}; reached from q0 = {q0:.6g}: {point.q:.6g}{own}"


def _listed(points: tuple[FixedPoint, ...]) -> str:
    return ", ".join(f"{one.q:.6g} ({one.kind})" for one in points)


def _nowhere(phi: Activation, weight_var: float, end: float, q0: float, points: tuple[FixedPoint, ...]) -> MeanField:
    """Say where q goes where it reaches no fixed point; chi is given where it is the same at every q."""
    chi = _NAN
    if phi.sides is not None:
        chi = weight_var * (phi.sides[0] ** 2 + phi.sides[1] ** 2) / 2.0
    if math.isnan(end):
        status = f"q comes to no rest from q0 = {q0:.6g}"
        if chi == chi:
            status = "every q is a fixed point: q keeps its value from layer to layer"
    elif end == 0.0:
        limit = weight_var * float(moments(phi, 0.0).slope_square)
        slowly = ", ever more slowly" if abs(limit - 1.0) < 1e-9 else ""
        status = f"no fixed point above 0: q falls towards 0 from q0 = {q0:.6g}{slowly}, where chi = {limit:.6g}"
    elif table(phi).levels:
        status = (
            f"no fixed point below {LARGEST:.0e}, up to which they are looked for: q grows beyond from q0 = {q0:.6g}"
        )
    else:
        status = f"no fixed point: q grows without bound from q0 = {q0:.6g}"
    if points:
        status = f"{status}; fixed points: {_listed(points)}"
    return MeanField(_NAN, chi, _NAN, _NAN, _NAN, depth_scale(chi), status)


def _normalized(phi: Activation, weight_var: float, bias_var: float, norm: str) -> MeanField:
    """Return what a normalization to variance 1 leaves: q is there after one layer."""
    one = moments(phi, 1.0)
    q = weight_var * float(one.square) + bias_var
    common = float(one.mean) ** 2 * weight_var + bias_var if norm == "batch" else 0.0
    left = q - common
    if not left > 0.0:
        return MeanField(q, _NAN, _NAN, _NAN, _NAN, _NAN, "nothing varies that a normalization could divide by")
    chi = weight_var * float(one.slope_square) / left

    def correlate(c: float) -> float:
        return (weight_var * pair_moment(phi, 1.0, c, slope=False) + bias_var - common) / left

    # Batch norm takes away what samples have in common, so that correlations below 1 fall to 0.
    c = 0.0 if norm == "batch" else fixed_correlation(correlate, _snapped(chi))
    slope = chi if c == 1.0 else weight_var * pair_moment(phi, 1.0, c, slope=True) / left
    return MeanField(q, chi, c, 0.0, depth_scale(slope), depth_scale(chi))
