"""``jacobian``: the spectrum of a network's Jacobian, by products."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gradscope.at_rest.copies import call_model
from gradscope.at_rest.given import check_batch, check_finite
from gradscope.at_rest.jacobians.products import Moments, Products, hutchinson, lanczos, moments_of, singular_values
from gradscope.at_rest.jacobians.report import Jacobian
from gradscope.at_rest.jacobians.theory import Between, theory_of
from gradscope.at_rest.reading_copy import copy_input, copy_model, undisturbed
from gradscope.errors import InvalidTypeError, InvalidValueError, unknown_name
from gradscope.probe.layers import named_layers
from gradscope.runs.given import whole

LARGEST_SIDE = 1024
# Entries of all dense matrices together: half a gigabyte.
MOST_ENTRIES = 2**26


def jacobian(
    model: nn.Module,
    x: Any,
    *,
    between: Between = (None, None),
    train: bool | None = None,
    samples: int = 8,
    probes: int = 64,
    exact: bool | None = None,
    seed: int = 0,
) -> Jacobian:
    """Measure the spectrum of the input-output Jacobian J, or of the one between two layers.

    m1 = tr(J J^T) / rows says how far random error signals shrink or grow on their way back, m2 / m1^2 how unequally
    directions fare. Every sample of ``x`` has a Jacobian of its own: moments are averaged over the first ``samples`` of
    them, extremes are those of any. Where samples meet, as by batch normalization in training, the whole batch has one.

    All singular values are computed where the smaller side of J has at most 1,024 entries (and all matrices together at
    most 2^26). Else no matrix is formed: the moments come from products with random vectors of signs (Hutchinson 1990),
    with standard errors; the largest singular value from at most 30 steps of Lanczos bidiagonalization (Golub and Kahan
    1965); the smallest is not known.

    Theory stands beside what was measured: m1 by the layer-wise recursion for all networks that ``predict`` can follow;
    m2 for chains of linear layers; the largest singular value for linear Gaussian networks of one width.

    One forward pass of a copy in float64 (in the model's own type where that fails), so that masks of a dropout are the
    same in all products. The model, its gradients and all random states stay as they are.

    Args:
        model: The model.
        x: Its input; a tensor (samples, ...), or, between two layers, anything that the model takes (a tuple as
            ``model(*x)``, a mapping as ``model(**x)``).
        between: Names of the layers whose outputs are start and end; None for the model's input or output. Of a layer
            that is called several times the last call counts.
        train: The mode of the copy, which decides on batch normalization and dropout; None for that of the model.
        samples: How many samples to look at.
        probes: How many random vectors.
        exact: True for all singular values, False for products, None for what is said above.
        seed: Of the random vectors.

    Raises:
        InvalidTypeError: The model is no module, or input or output is no tensor of numbers with a fraction.
        InvalidValueError: The model cannot be copied, x is empty, x or J holds NaN or infinity, nothing leads from
            start to end, a number is below 1, or all singular values are asked for where the smaller side exceeds
            1,024.
        UnknownNameError: No such layer; the message lists them.

    Sources: Hutchinson 1990; Golub & Kahan 1965; Pennington, Schoenholz & Ganguli 2017.

    >>> found = jacobian(torch.nn.Linear(3, 3, bias=False).requires_grad_(False), torch.ones(1, 3))
    >>> found.rows, found.columns, found.probes, found.m1_error
    (3, 3, 0, 0.0)
    """
    for name, value in (("samples", samples), ("probes", probes)):
        if whole(name, value) < 1:
            raise InvalidValueError(f"{name} is at least 1, not {value}")
    with undisturbed(), sdpa_kernel(SDPBackend.MATH):
        # Hooks and changes of type are the copy's.
        twin = copy_model(model, "jacobian", train)
        _check_names(twin, between)
        _check_input(x, between)
        check_batch(x)
        check_finite("x", x)
        try:
            start, end = _run(twin.double(), copy_input(x, torch.float64), between)
        except (RuntimeError, TypeError):
            twin = copy_model(model, "jacobian", train)
            start, end = _run(twin, copy_input(x), between)
        found = _measure(twin, Products(start, end, samples), between, probes, exact, seed)
        return replace(found, theory=theory_of(model, x, between, twin.training, found.samples))


def _measure(
    twin: nn.Module, products: Products, between: Between, probes: int, exact: bool | None, seed: int
) -> Jacobian:
    draw = torch.Generator().manual_seed(whole("seed", seed))
    singular: Tensor | None = None
    if not bool(torch.isfinite(products.back(products.zeros(products.rows) + 1.0)).all()):
        raise InvalidValueError("the Jacobian holds NaN or infinity: look at the weights and the outputs of the layers")
    if _is_dense(products, exact):
        singular = singular_values(products)
        moments: Moments = moments_of(singular, products.rows)
        s_max, s_max_error, s_min = float(singular.max()), 0.0, float(singular.min())
    else:
        moments, largest = hutchinson(products, probes, draw), lanczos(products, draw)
        s_max, s_max_error, s_min = largest.s_max, largest.error, math.nan
    return Jacobian(
        start=between[0] or "input",
        end=between[1] or "output",
        mode="train" if twin.training else "eval",
        rows=products.rows,
        columns=products.columns,
        samples=products.samples,
        joint=products.joint,
        probes=probes if singular is None else 0,
        m1=moments.m1,
        m1_error=moments.m1_error,
        m2=moments.m2,
        m2_error=moments.m2_error,
        ratio=moments.ratio,
        ratio_error=moments.ratio_error,
        s_max=s_max,
        s_max_error=s_max_error,
        s_min=s_min,
        singular_values=None if singular is None else singular.numpy(),
    )


def _is_dense(products: Products, exact: bool | None) -> bool:
    smaller = min(products.rows, products.columns)
    if exact and smaller > LARGEST_SIDE:
        raise InvalidValueError(
            f"exact=True forms J, whose smaller side has {smaller} entries, more than {LARGEST_SIDE}: leave it out"
        )
    entries = products.samples * products.rows * products.columns
    return exact if exact is not None else smaller <= LARGEST_SIDE and entries <= MOST_ENTRIES


def _check_names(twin: nn.Module, between: Between) -> None:
    if not isinstance(between, tuple | list) or len(between) != 2:
        raise InvalidTypeError(f"between is a pair of layer names, or None, not {between!r}")
    known = named_layers(twin)
    for name in between:
        if name is not None and name not in known:
            raise unknown_name("layer", name, known)


def _check_input(x: Any, between: Between) -> None:
    if between[0] is None and not (isinstance(x, Tensor) and x.is_floating_point()):
        given = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise InvalidTypeError(f"x is a tensor of floating-point numbers, not {given}; name a layer in between=")


def _run(twin: nn.Module, x: Any, between: Between) -> tuple[Tensor, Tensor]:
    twin.requires_grad_(False)
    kept: dict[str, Tensor] = {}
    layers = named_layers(twin)

    def start_at(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        kept["start"] = output.detach().requires_grad_()
        # What follows gets a clone: it may change it in place.
        return kept["start"].clone()

    def end_at(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        kept["end"] = output
        return output.clone()

    if between[0] is not None:
        layers[between[0]].register_forward_hook(start_at)
    else:
        kept["start"] = x.requires_grad_()
        x = x.clone()
    if between[1] is not None:
        layers[between[1]].register_forward_hook(end_at)
    return _check_ends(kept, call_model(twin, x), between)


def _check_ends(kept: dict[str, Tensor], output: Any, between: Between) -> tuple[Tensor, Tensor]:
    if between[1] is None:
        if not isinstance(output, Tensor):
            raise InvalidTypeError(
                f"the model returns {type(output).__name__}, not a tensor; name a layer in between=(..., 'layer')"
            )
        kept["end"] = output
    for name, layer in zip(("start", "end"), between, strict=True):
        if name not in kept:
            raise InvalidValueError(f"layer {layer!r} is not called")
    start, end = kept["start"], kept["end"]
    if not end.requires_grad:
        raise InvalidValueError(f"nothing leads from {between[0] or 'the input'} to {between[1] or 'the output'}")
    return start, end
