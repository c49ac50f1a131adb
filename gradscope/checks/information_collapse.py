"""A fixed sample is told apart below, and no longer by what reaches the head.

**Derivation.** Let T be what the last hidden layer hands on, and Z Gaussian noise of the declared variance v per
feature: in its presence, what two samples differ by counts if it is larger than sqrt(v). Cross-entropy of any reader of
T + Z is at least H(Y | T + Z) = H(Y) - I(T + Z; Y). So its skill, 1 - L / ln K (`gradscope.checks.rule`), is at most

    I(T + Z; Y) / ln K  <=  min(upper bound of I(T + Z; Y), upper bound of I(X; T + Z)) / ln K

the last by the data-processing inequality. Both bounds are recorded (Kolchinsky and Tracey 2017). Where the smaller is
below `SKILL` ln K, no reader that withstands this noise has a skill above 1/10. An estimate that is too low cannot
bring this about: the bounds are from above.

**What a reader can make up for.** Where distances are small against the noise, the bound is S^2 / v, with S^2 the
variance of the sample over all features: behind weights a times as large there is a^2 as much. So too little at the
start is no illness yet. It is one where the weights would have to grow by a decade, which is `WORSE` = 100 times too
little. Measured (digits, sigmoid, Xavier, width 64): two and three hidden layers begin 1.5 and 30 times too low, and
learn; four begin 550 times too low and do not.

**Scale.** For the same reason a layer whose outputs are small has little of it, however well it tells samples apart. So
nothing is said where the outputs are below the noise: root mean square of z at most sqrt(v). A sigmoid hands on 1/2, a
normalized layer 1, whatever z.

**Severity.** Critical where it is 10,000 times too little in a training that makes no progress, else a warning; a note
where the training makes progress.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from gradscope.checks import rule
from gradscope.checks.course import Course, course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, hidden, last_steps, late, named, of_depths, seen
from gradscope.runs import Run

CODE = "information-collapse"
INPUT, LABEL = "input_information", "label_information"
_SOURCE = "Kolchinsky and Tracey 2017 (bounds for a declared noise); skill <= I(T;Y) / ln K: gradscope.checks"


@dataclass(frozen=True)
class _Bound:
    """The smaller upper bound by depth, late in the run; what a skill takes; the variance of the noise."""

    values: pd.Series[float]
    needed: float
    noise_var: float
    steps: tuple[int, ...]


def information_collapse(run: Run) -> list[Finding] | NotApplicable:
    """Find a network that cannot tell a fixed sample apart any more before the head, at a declared noise.

    It needs a run watched with ``sample=``. It holds where the upper bounds on information about input and label of the
    last hidden layer are, at most of the last measured steps, 100 times below a tenth of ln K. Below that tenth no
    reader that withstands the declared noise has a skill above 1/10, and 100 times below it not with weights ten times
    as large either (derivation: `gradscope.checks.information_collapse`).

    Severity: critical at 10,000 times in a training that makes no progress, else warning; note where it makes progress.
    """
    above = seen(run, INPUT)
    if isinstance(above, NotApplicable):
        return NotApplicable(f"{above.reason}: watch with sample=(x, y)") if INPUT not in run.metrics else above
    layers = [depth for depth in hidden(run) if depth in above]
    if not layers or layers[-1] != hidden(run)[-1]:
        return NotApplicable(f"the metric {INPUT} is not known of the last hidden layer")
    noise_var = float(run.metrics[INPUT].parameters.get("noise_var", math.nan))
    size = _size(run, layers[-1])
    if isinstance(size, NotApplicable):
        return size
    if not size**2 > noise_var:
        return NotApplicable(f"what the last hidden layer hands on is no larger than the noise of {noise_var:g}")
    classes = max(of_depths(run, run.trunk[-1:])[0].fan_out, 1)
    values = late(above[layers])
    of_label = seen(run, f"{LABEL}_high")
    if not isinstance(of_label, NotApplicable):
        values = values.combine(late(of_label).reindex(values.index), _smaller)
    return _judge(run, _Bound(values, rule.SKILL * rule.nats(classes), noise_var, last_steps(above)), course(run))


def _smaller(one: float, other: float) -> float:
    return one if math.isnan(other) else min(one, other)


def _size(run: Run, depth: int) -> float | NotApplicable:
    """Return the root mean square of what a layer hands on, as far as its output tells."""
    spec = of_depths(run, [depth])[0]
    if spec.activation == "sigmoid":
        return 0.5
    if spec.norm not in ("", "none"):
        return 1.0
    frame = seen(run, "output_rms")
    if isinstance(frame, NotApplicable):
        return frame
    if depth not in frame:
        return NotApplicable("the metric output_rms is not known of the last hidden layer")
    return float(late(frame)[depth])


def _judge(run: Run, bound: _Bound, going: Course) -> list[Finding]:
    top = int(bound.values.index[-1])
    left = float(bound.values[top])
    limit = bound.needed / rule.WORSE
    if not left < limit:
        return []
    failed = going.verdict in ("stalled", "diverged")
    lost = [int(depth) for depth in bound.values.index]
    kept = [depth for depth in lost if float(bound.values[depth]) >= bound.needed]
    lost = [depth for depth in lost if not kept or depth > kept[-1]]
    return [
        Finding(
            code=CODE,
            title="the sample can no longer be told apart before the head",
            severity=going.judge("critical" if failed and left < limit / rule.WORSE else "warning"),
            layers=tuple(lost),
            steps=bound.steps,
            evidence={
                "information_first_layer": float(bound.values.iloc[0]),
                "information_last_hidden": left,
                "information_needed": bound.needed,
                "noise_var": bound.noise_var,
            },
            cause=" ".join([_cause(run, bound, lost, left), *going.said]),
            remedy=(
                "keep samples apart: initialize at the edge of chaos, centre and scale each unit on a batch, normalize "
                "before the activation function, add skip connections, or take fewer layers"
            ),
            source=_SOURCE,
            remedies=("critical_init", "centered_lsuv", "normalize", "add_skips", "shallower", "change_activation"),
            by_layer={INPUT: by_depth(bound.values)},
        )
    ]


def _cause(run: Run, bound: _Bound, lost: list[int], left: float) -> str:
    most, already = float(bound.values[lost[0]]), "already " if lost[0] == int(bound.values.index[0]) else ""
    return (
        f"Under noise of variance {bound.noise_var:g}, at most {most:.2g} nats of the sample are left "
        f"{already}in {named(run, lost[:1])}, and {left:.2g} before the head; a skill of 1/10 takes {bound.needed:.2g}."
    )
