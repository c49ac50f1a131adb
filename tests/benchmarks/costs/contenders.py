"""Who is timed, in the order of the table, and what gradscope has promised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from costs.others import naive, tensorboard, weights_and_biases
from costs.sessions import Session, Start, bare
from costs.workloads import Training

import gradscope as gs


@dataclass(frozen=True)
class Contender:
    """Who is timed.

    Attributes:
        key: What the command line calls it.
        text: Its row of the table.
        period: Steps after which its work repeats; it is timed over whole periods.
        start: Attach it to a training, with a folder of its own to write into.
        target: Overhead in percent that it must not exceed, by workload.
    """

    key: str
    text: str
    period: int
    start: Start
    target: dict[str, float] | None = None


def watching(**options: Any) -> Start:
    def start(training: Training, folder: Path) -> Session:
        probe = gs.watch(training.model, training.optimizer, out=folder / "run", **options)
        pace = (lambda: probe.run.every) if options["every"] == "auto" else None
        return Session(training.step, training.skip, probe.close, pace)

    return start


def _targets(*percent: float) -> dict[str, float]:
    return dict(zip(("W1", "W2", "W3", "W4", "W5"), percent, strict=True))


NORMS = ["output_grad_norm", "weight_grad_norm"]
WITH_HISTOGRAMS = ["default", "histograms"]
IDLE = 10**9

CONTENDERS = (
    Contender("aa", "bare against bare (noise)", 1, bare),
    Contender(
        "norms",
        "gradscope, gradient norms only, every step",
        1,
        watching(metrics=NORMS, every=1),
        _targets(6, 2, 1, 1, 16),
    ),
    Contender("every-1", "gradscope, default, every step", 1, watching(every=1), _targets(10, 3, 4, 1.5, 45)),
    Contender("every-10", "gradscope, default, every 10th", 10, watching(every=10), _targets(1.3, 0.5, 0.5, 0.3, 7)),
    Contender("every-100", "gradscope, default, every 100th", 100, watching(every=100)),
    Contender(
        "histograms-10",
        "gradscope, default + histograms, every 10th",
        10,
        watching(metrics=WITH_HISTOGRAMS, every=10),
        _targets(2.5, 0.8, 0.7, 0.4, 15),
    ),
    Contender("idle", "gradscope, attached, idle", 1, watching(every=IDLE), _targets(1, 0.5, 0.5, 0.5, 1)),
    Contender("auto", 'gradscope, default, every="auto" (it chose)', 1, watching(every="auto")),
    Contender("naive", "naive .item() hooks", 1, naive),
    Contender("wandb", 'wandb.watch(log="gradients", log_freq=1)', 1, weights_and_biases("gradients")),
    Contender("wandb-all", 'wandb.watch(log="all", log_freq=1)', 1, weights_and_biases("all")),
    Contender("tensorboard", "TensorBoard, gradient histograms, every step", 1, tensorboard(1)),
    Contender("tensorboard-10", "TensorBoard, gradient histograms, every 10th", 10, tensorboard(10)),
)
