"""Error signals too small for half precision."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gradscope.checks import rule
from gradscope.checks.course import course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, last_steps, late, of_depths, seen, since
from gradscope.runs import Run

CODE = "underflow"
METRIC = "fp16_underflow_fraction"
SMALLEST_NORMAL = 2.0**-14
KINKED = ("relu", "leaky_relu", "hardtanh", "identity", "?")
"""Functions behind which an exact zero may be of their own making; behind the others it is not."""
_SOURCE = "IEEE 754 binary16: smallest normal number 2^-14, smallest subnormal 2^-24; Micikevicius et al. 2018"


def underflow(run: Run) -> list[Finding] | NotApplicable:
    """Find error signals that half precision has rounded to zero.

    In a network of float16, or one whose loss is scaled for it, entries that underflow are zeros already. It holds
    where more than half of the entries of a layer's output gradient are exactly zero at most of the last recorded
    steps, and the activation function leaves no zeros of its own (all but relu and its kind), or the entries that are
    left have, in float16 without a loss scale, a root mean square below the smallest normal number, 2^-14. The same
    holds where more than half of the entries are at most 2^-25 (fp16_underflow_fraction), which the next product rounds
    to zero.

    Not applicable in float32, float64 and bfloat16, which has the exponents of float32: there nothing is lost, and how
    much float16 would lose is said.

    Severity: critical; note where the training makes progress.
    """
    small = seen(run, METRIC)
    if isinstance(small, NotApplicable):
        return small
    scaled, half = _precision(run)
    if not (scaled or half):
        return NotApplicable(f"the network does not compute in float16{_would_be_lost(small)}")
    zeros, sizes = seen(run, "output_grad_zero_fraction"), seen(run, "output_grad_rms")
    if isinstance(zeros, NotApplicable):
        return zeros
    share = late(zeros)
    smooth = {one.depth for one in of_depths(run, map(int, share.index)) if one.activation not in KINKED}
    lost = (share > rule.HALF) & share.index.isin(smooth)
    if half and not scaled and not isinstance(sizes, NotApplicable):
        lost |= (share > rule.HALF) & (_rest(share, late(sizes)) < SMALLEST_NORMAL)
    lost |= (late(small) > rule.HALF).reindex(share.index, fill_value=False)
    layers = tuple(int(depth) for depth in share.index[lost])
    return [_finding(run, zeros, layers)] if layers else []


def _finding(run: Run, zeros: pd.DataFrame, layers: tuple[int, ...]) -> Finding:
    going, share = course(run), late(zeros)
    began = since(zeros[list(layers)], lambda row: bool((row > rule.HALF).any()))
    most = float(share[list(layers)].max())
    return Finding(
        code=CODE,
        title="the error signal underflows in half precision",
        severity=going.judge("critical"),
        layers=layers,
        steps=tuple(sorted({began, *last_steps(zeros)[-1:]})),
        evidence={"zero_fraction": most, "layers": float(len(layers))},
        cause=" ".join(
            [
                f"The network computes in half precision. In {len(layers)} of {len(share)} layers most entries of the "
                f"output gradient are lost, up to {most:.0%} exactly zero: they are too small for float16.",
                *going.said,
            ]
        ),
        remedy="scale the loss (torch.amp.GradScaler), or train in bfloat16 or float32",
        source=_SOURCE,
        remedies=("scale_loss",),
        by_layer={"output_grad_zero_fraction": by_depth(share)},
    )


def _precision(run: Run) -> tuple[bool, bool]:
    """Tell whether the loss is scaled for half precision, and whether the parameters are of float16."""
    about = run.environment
    types = str(about.get("dtype", "")).replace("bfloat16", "")
    return bool(about.get("loss_scaled")), "float16" in types


def _would_be_lost(small: pd.DataFrame) -> str:
    most = late(small)
    if not (most > rule.HALF).any():
        return ""
    return f", which would round to zero up to {float(most.max()):.0%} of the entries of a layer's output gradient"


def _rest(share: pd.Series[float], size: pd.Series[float]) -> pd.Series[float]:
    """Return the root mean square of the entries that are not zero; 0 where all are."""
    live = 1.0 - share
    return (size / np.sqrt(live.where(live > 0.0))).fillna(0.0)
