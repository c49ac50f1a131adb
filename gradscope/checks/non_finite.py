"""NaN or infinity in the network or in the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from gradscope.checks.finding import Finding, NotApplicable
from gradscope.runs import Run

CODE = "non-finite"
FORWARD = ("forward", "activation")
"""Groups of metrics that see the forward pass; weights may have gone bad earlier, gradients later."""
_SOURCE = "Wardat, Le and Rajan 2021 (DeepLocalize): NaN or infinity in outputs, loss, weights or gradients"


@dataclass(frozen=True)
class Origin:
    """Where NaN or infinity shows first: step, depths, metrics, and whether the forward pass has it."""

    step: int
    depths: tuple[int, ...]
    metrics: tuple[str, ...]
    forward: bool

    @property
    def depth(self) -> int:
        """Return where it enters: the lowest layer of a forward pass, the highest of a backward pass."""
        return self.depths[0] if self.forward else self.depths[-1]


def non_finite(run: Run) -> list[Finding] | NotApplicable:
    """Find the first step, and within it the layer, where any metric or the loss is NaN or infinite.

    Every value that is not finite counts; no threshold is involved. The layer named is the lowest one whose
    forward metrics show it, since what follows inherits it; where only gradients show it, the highest one.
    Steps that the optimizer skipped (a gradient scaler probing its scale) are counted, and are only a note.

    Severity: critical; note where only skipped steps show it.
    """
    if not run.steps() and run.scalars.empty:
        return NotApplicable("nothing has been recorded yet")
    rows = run.nonfinite
    taken = rows[~rows["skipped"].to_numpy(bool)]
    losses, skipped = _bad_losses(run), set(run.skipped())
    loss = next((step for step in losses if step not in skipped), None)
    if len(taken) or loss is not None:
        return [_finding(run, taken, loss)]
    return [_skipped(rows, losses)] if len(rows) or losses else []


def _bad_losses(run: Run) -> list[int]:
    """Return the steps whose loss is NaN or infinite."""
    scalars = run.scalars
    losses = scalars[scalars["name"] == "loss"]
    return [int(one) for one in losses.loc[~np.isfinite(losses["value"].to_numpy(np.float64)), "step"]]


def _finding(run: Run, rows: pd.DataFrame, loss: int | None) -> Finding:
    origin = _origin(run, rows) if len(rows) else None
    steps = [one for one in (origin.step if origin else None, loss) if one is not None]
    evidence = {
        "first_step": float(min(steps)),
        "rows": float(len(rows)),
        "values": float(rows["nonfinite"].sum()),
    }
    if loss is not None:
        evidence["first_step_of_loss"] = float(loss)
    return Finding(
        code=CODE,
        title=f"NaN or infinity since step {min(steps)}",
        severity="critical",
        layers=origin.depths if origin else (),
        steps=tuple(sorted(set(steps))),
        evidence=evidence,
        cause=_cause(run, origin, loss),
        remedy=_remedy(origin, loss),
        source=_SOURCE,
    )


def _skipped(rows: pd.DataFrame, losses: list[int]) -> Finding:
    steps = tuple(sorted({int(one) for one in rows["step"]} | set(losses)))
    return Finding(
        code=CODE,
        title="NaN or infinity, only in steps that the optimizer skipped",
        severity="note",
        layers=tuple(sorted(int(one) for one in rows["depth"].unique())),
        steps=steps,
        evidence={"skipped_steps": float(len(steps)), "rows": float(len(rows))},
        cause="A gradient scaler tries a loss scale, sees the overflow, skips the step and lowers the scale.",
        remedy="none is needed unless it goes on: then lower the initial scale, or train in bfloat16",
        source=_SOURCE,
    )


def _origin(run: Run, rows: pd.DataFrame) -> Origin:
    step = int(rows["step"].iloc[0])
    bad = rows[rows["step"] == step]
    rank = int(bad["rank"].iloc[0])
    by_metric = {name: _bad_depths(run, name, step, rank) for name in run.metrics}
    found = {name: depths for name, depths in by_metric.items() if depths}
    seen = {name: depths for name, depths in found.items() if run.metrics[name].group in FORWARD}
    depths = sorted({depth for one in (seen or found).values() for depth in one})
    return Origin(step, tuple(depths), tuple(found), forward=bool(seen))


def _bad_depths(run: Run, metric: str, step: int, rank: int) -> list[int]:
    if step not in run.steps(metric, rank=rank):
        return []
    profile = run.profile(metric, step, rank=rank)
    return [int(depth) for depth in profile.index[~np.isfinite(profile.to_numpy(np.float64))]]


def _cause(run: Run, origin: Origin | None, loss: int | None) -> str:
    said = []
    if origin is not None:
        names = {one.depth: one.layer for one in run.specs}
        where = f"layer {origin.depth} ({names[origin.depth]})"
        metrics = ", ".join(origin.metrics[:6]) + (" and others" if len(origin.metrics) > 6 else "")
        passes = "In the forward pass" if origin.forward else "In the backward pass"
        said.append(f"{passes} of step {origin.step} it shows first in {where}; metrics: {metrics}.")
    if loss is not None:
        said.append(f"The loss is not finite at step {loss}.")
    elif not run.scalars["name"].eq("loss").any():
        said.append("No loss was logged.")
    return " ".join(said)


def _remedy(origin: Origin | None, loss: int | None) -> str:
    if origin is None:
        return "look at the loss function: every recorded metric of the layers is finite"
    if origin.forward and origin.step == 0:
        return "look at the input data and the initial weights: the first forward pass has it already"
    if origin.forward:
        return "lower the learning rate or clip the gradient: an earlier update made the weights too large"
    if loss is not None and loss <= origin.step:
        return "look at the loss function and its input: the gradient is lost before it enters the network"
    return "scale the loss down or train in bfloat16: the forward pass is finite, its gradient is not"
