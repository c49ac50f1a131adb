"""Representations that shrink to a single direction."""

from __future__ import annotations

from gradscope.checks.course import course
from gradscope.checks.finding import Finding, NotApplicable
from gradscope.checks.recent import by_depth, hidden, last_steps, late, seen
from gradscope.runs import Run

CODE = "rank-collapse"
METRIC = "effective_rank"
FEWEST = 2.0
_SOURCE = "Daneshmand et al. 2020 (rank collapse); Roy and Vetterli 2007 (effective rank)"


def rank_collapse(run: Run) -> list[Finding] | NotApplicable:
    """Find representations that lose all but one direction on their way up.

    It needs the metric effective_rank, exp of the entropy of the singular values: 1 where all samples lie on a line.
    It holds where that of the last hidden layer is below 2 at most of the last recorded steps, while some layer below
    has at least twice as much: it is not the data that have one direction only.

    Severity: warning; note where the training makes progress.
    """
    frame = seen(run, METRIC)
    if isinstance(frame, NotApplicable):
        return frame
    layers = [depth for depth in hidden(run) if depth in frame]
    if len(layers) < 2:
        return NotApplicable(f"the metric {METRIC} is known of fewer than two hidden layers")
    frame = frame[layers].dropna(how="all")
    rank, top = late(frame), layers[-1]
    most = float(rank.max())
    if not (float(rank[top]) < FEWEST and most >= FEWEST * float(rank[top])):
        return []
    going = course(run)
    collapsed = tuple(depth for depth in layers if float(rank[depth]) < FEWEST)
    return [
        Finding(
            code=CODE,
            title="the representations collapse to one direction",
            severity=going.judge("warning"),
            layers=collapsed,
            steps=last_steps(frame),
            evidence={"effective_rank": float(rank[top]), "highest": most},
            cause=" ".join(
                [
                    f"The effective rank falls from {most:.3g} to {float(rank[top]):.3g} in layer {top}, the last "
                    "hidden one: what reaches the head varies along one direction.",
                    *going.said,
                ]
            ),
            remedy="normalize (batch normalization keeps the rank), add skip connections, or take fewer layers",
            source=_SOURCE,
            remedies=("normalize", "add_skips", "shallower", "critical_init"),
            by_layer={METRIC: by_depth(rank)},
        )
    ]
