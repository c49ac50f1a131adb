"""Blocks of steps: how they are planned and timed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from costs.sessions import Session

SAMPLED = 2  # of the unrecorded steps of a long period so many are run, beside the one right after the recorded one
LONG = 2.0  # seconds; a longer period is sampled


@dataclass(frozen=True)
class Times:
    """Seconds of a stretch of steps: on the clock, and of the processor in this process."""

    wall: float
    cpu: float

    def __add__(self, other: Times) -> Times:
        return Times(self.wall + other.wall, self.cpu + other.cpu)

    def __mul__(self, factor: float) -> Times:
        return Times(self.wall * factor, self.cpu * factor)


@dataclass(frozen=True)
class Chunk:
    """So many steps in a row, standing for ``weight`` times as many; weight 0: counted, not run."""

    steps: int
    weight: float


def chunks(period: int, seconds: float, block: float, whole: bool = False) -> tuple[Chunk, ...]:
    """Plan a block of whole periods; unless ``whole``, a few unrecorded steps stand for the others of a long period.

    >>> chunks(1, 0.1, 0.5), chunks(10, 0.1, 0.5)
    ((Chunk(steps=5, weight=1.0),), (Chunk(steps=10, weight=1.0),))
    """
    if period * seconds > LONG and period > 2 + SAMPLED and not whole:
        rest = period - 2
        return (
            Chunk(1, 1.0),
            Chunk(1, 1.0),
            *[Chunk(1, rest / SAMPLED)] * SAMPLED,
            Chunk(rest - SAMPLED, 0.0),
        )
    periods = max(1, math.ceil(block / (seconds * period)))
    return (Chunk(periods * period, 1.0),)


def timed(session: Session, steps: int, device: str) -> Times:
    step = session.step
    _settle(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    _settle(device)
    return Times(time.perf_counter() - wall, time.process_time() - cpu)


def _settle(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
