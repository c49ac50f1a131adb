"""Activation functions driven to where they are flat."""

from __future__ import annotations

from gradscope.checks import rule
from gradscope.checks.course import course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, early, last_steps, late, named, of_depths, seen, since
from gradscope.runs import Run

CODE = "saturation"
TWO_SIDED = ("sigmoid", "tanh", "softsign", "hardtanh")
"""Flat on both sides: what is flat on one side only (relu) is so for half of its inputs in health."""
_SOURCE = (
    "Glorot and Bengio 2010 (saturation); more than half of the entries: SageMaker Debugger, SaturatedActivation, here "
    "of entries with a slope below 1 % of the greatest (tanh: |u| > 2.99; sigmoid: 5.99)"
)


def saturation(run: Run) -> list[Finding] | NotApplicable:
    """Find layers where most entries of a two-sided activation function are flat.

    It holds where saturation, the share of entries with |phi'(u)| below 1 % of its maximum, is above 1/2 at most of
    the last recorded steps, or of the first ones of a training that makes no progress. Layers that put out what the
    network does are left out: outputs that are sure lie where sigmoid and tanh are flat.

    Severity: critical where less than 1/200 is left, else warning; note where the training makes progress.
    """
    frame = seen(run, CODE)
    if isinstance(frame, NotApplicable):
        return frame
    inner = {parent for one in run.specs for parent in one.parents}
    layers = [one for one in of_depths(run, map(int, frame.columns)) if one.id in inner]
    depths = [one.depth for one in layers if one.activation in TWO_SIDED]
    if not depths:
        return NotApplicable(f"no hidden layer has an activation function flat on both sides ({', '.join(TWO_SIDED)})")
    frame, going = frame[depths].dropna(how="all"), course(run)
    flat = late(frame)
    if going.verdict in ("stalled", "diverged"):
        flat = flat.combine(early(frame), max)
    worn = [int(depth) for depth in flat.index[flat > rule.HALF]]
    if not worn:
        return []
    worst = max(worn, key=lambda depth: float(flat[depth]))
    began = since(frame, lambda row: bool((row > rule.HALF).any()))
    hopeless = 1.0 - float(flat[worst]) < rule.HALF / rule.WORSE
    return [
        Finding(
            code=CODE,
            title="the activation function is saturated",
            severity=going.judge("critical" if hopeless else "warning"),
            layers=tuple(worn),
            steps=tuple(sorted({began, *last_steps(frame)[-1:]})),
            evidence={"saturation": float(flat[worst]), "layers": float(len(worn)), "since": float(began)},
            cause=" ".join(
                [
                    f"In {named(run, [worst])}, {float(flat[worst]):.0%} of the entries lie where the slope is below "
                    f"1 % of its maximum; more than half do so in {len(worn)} of {len(depths)} layers.",
                    *going.said,
                ]
            ),
            remedy=(
                "make what the activation function receives smaller: smaller weights at initialization, inputs of unit "
                "variance, a lower learning rate, or normalization before it"
            ),
            source=_SOURCE,
            remedies=("critical_init", "centered_lsuv", "normalize", "lower_learning_rate", "change_activation"),
            by_layer={"saturation": by_depth(flat)},
        )
    ]
