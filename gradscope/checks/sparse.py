"""Error signals with ever more exact zeros towards the input."""

from __future__ import annotations

import math

from gradscope.checks.course import course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, hidden, last_steps, late, seen
from gradscope.runs import Run
from gradscope.runs.decay import LEAST, decay

CODE = "sparse-gradients"
METRIC = "output_grad_zero_fraction"
_SOURCE = (
    "the rule of vanishing, of the share of entries that are not zero; Zhang et al. 2021 (AUTOTRAINER) calls 70 % "
    "zeros dying"
)


def sparse_gradients(run: Run) -> list[Finding] | NotApplicable:
    """Find error signals whose entries become exact zeros, more of them layer by layer towards the input.

    A relu lets half of the entries through in every layer, which is no illness: what counts is that the share
    1 - output_grad_zero_fraction falls towards the input. It holds as for vanishing: the 95 % interval of its factor
    per layer, over the hidden layers of the trunk, lies wholly below 1 and the total is more than a decade, at the
    median of the last recorded steps. A share of zero is another check's business (no-gradient).

    Severity: warning; note where the training makes progress.
    """
    frame = seen(run, METRIC)
    if isinstance(frame, NotApplicable):
        return frame
    layers = [depth for depth in hidden(run) if depth in frame]
    if len(layers) <= LEAST:
        return NotApplicable(f"too shallow: at least {LEAST + 1} hidden layers in a chain are needed")
    zeros = late(frame[layers])
    live = (1.0 - zeros).dropna()
    found = decay([depth for depth in layers if float(live.get(depth, 0.0)) > 0.0], live)
    if math.isnan(found.low):
        return NotApplicable("too few layers have entries of the output gradient that are not zero")
    if not (found.high < 1.0 and found.decades < -1.0):
        return []
    going = course(run)
    return [
        Finding(
            code=CODE,
            title="the error signal becomes sparse towards the input",
            severity=going.judge("warning"),
            layers=tuple(layers),
            steps=last_steps(frame),
            evidence={"rate": found.rate, "low": found.low, "high": found.high, "decades": found.decades},
            cause=" ".join(
                [
                    f"The share of entries of the output gradient that are not exactly zero falls by {found.rate:.3g} "
                    f"per layer towards the input (95 % interval {found.low:.3g} to {found.high:.3g}), to "
                    f"{float(live.iloc[0]):.2g} in layer {int(layers[0])}.",
                    *going.said,
                ]
            ),
            remedy=(
                "where units die, lower the learning rate or take leaky_relu; where numbers underflow, scale the loss "
                "or train in bfloat16"
            ),
            source=_SOURCE,
            remedies=("lower_learning_rate", "change_activation", "scale_loss"),
            by_layer={METRIC: by_depth(zeros)},
        )
    ]
