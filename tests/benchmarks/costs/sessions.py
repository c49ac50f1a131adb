"""A contender at work on its own copy of a training; the bare training is one too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from costs.workloads import Training


class Absent(Exception):
    """A contender that cannot take part; the message says why."""


@dataclass(frozen=True)
class Session:
    """A contender at work on its own copy of a training.

    Attributes:
        step: Train for a step.
        skip: Count a step without training.
        close: End.
        pace: Every how many steps it works, where it chooses that itself.
    """

    step: Callable[[], object]
    skip: Callable[[], None]
    close: Callable[[], object]
    pace: Callable[[], int] | None = None


Start = Callable[[Training, Path], Session]


def nothing() -> None:
    pass


def bare(training: Training, _: Path) -> Session:
    return Session(training.step, training.skip, nothing)
