"""Times bare and watched steps in turn, in one process, and compares the two of each turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from costs.blocks import Chunk, Times, chunks, timed
from costs.contenders import Contender
from costs.sessions import Absent, Session, bare
from costs.workloads import Training, Workload

SETTLING = 12  # steps after which a contender that chooses its own pace has done so


@dataclass
class Rival:
    """A contender at work, and the pairs of times (bare, contender) per step of each block."""

    contender: Contender
    session: Session
    chunks: tuple[Chunk, ...]
    pairs: list[tuple[Times, Times]] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """Everything measured on one workload."""

    workload: Workload
    blocks: dict[str, list[tuple[Times, Times]]]
    absent: dict[str, str]
    paces: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Effort:
    """How long to measure: blocks of at least ``block`` seconds, ``blocks`` of them, less if ``seconds`` are over."""

    blocks: int
    block: float
    seconds: float


def measure(
    workload: Workload,
    contenders: list[Contender],
    effort: Effort,
    folder: Path,
    device: str,
    progress: Callable[[str], None],
) -> Result:
    start = time.perf_counter()
    progress(f"{workload.name}: warming up")
    plain = bare(Training(workload, device), folder)
    seconds = _warm_up(plain, 1, device)
    steps = max(1, round(effort.block / seconds))
    rivals, absent = _enter(workload, contenders, effort, folder, device, seconds)
    for turn in range(effort.blocks):
        if turn >= 3 and time.perf_counter() - start > effort.seconds:
            break
        for place in range(len(rivals)):
            rival = rivals[(place + turn) % len(rivals)]
            progress(f"{workload.name}: block {turn + 1} of {effort.blocks}, {rival.contender.text}")
            rival.pairs.append(_pair(plain, steps, rival, turn, device))
    paces = {one.contender.key: one.session.pace() for one in rivals if one.session.pace is not None}
    for rival in rivals:
        rival.session.close()
    return Result(workload, {one.contender.key: one.pairs for one in rivals}, absent, paces)


def _enter(
    workload: Workload, contenders: list[Contender], effort: Effort, folder: Path, device: str, bare_seconds: float
) -> tuple[list[Rival], dict[str, str]]:
    rivals, absent = [], {}
    for contender in contenders:
        own = folder / contender.key
        own.mkdir(parents=True)
        try:
            session = contender.start(Training(workload, device), own)
        except Absent as reason:
            absent[contender.key] = str(reason)
            continue
        seconds = _warm_up(session, contender.period, device)
        if session.pace is not None:
            plan = chunks(_settled(session), bare_seconds, effort.block, whole=True)
        else:
            plan = chunks(contender.period, bare_seconds if contender.period > 1 else seconds, effort.block)
        rivals.append(Rival(contender, session, plan))
    return rivals, absent


def _settled(session: Session) -> int:
    """Run until it has measured itself and chosen its pace."""
    assert session.pace is not None
    for _ in range(SETTLING):
        session.step()
    return session.pace()


def _warm_up(session: Session, period: int, device: str) -> float:
    """Run into two periods, recorded steps included, and tell how long a step takes."""
    for _ in range(2):
        for _ in range(min(2, period)):
            session.step()
        for _ in range(period - 2):
            session.skip()
    return timed(session, 2 if period == 1 else 0, device).wall / 2


def _pair(plain: Session, steps: int, rival: Rival, turn: int, device: str) -> tuple[Times, Times]:
    """Time a block of a contender with bare steps before or after each of its chunks; the order alternates."""
    without = within = Times(0.0, 0.0)
    weights = 0.0
    gc.collect()
    for place, chunk in enumerate(rival.chunks):
        if chunk.weight == 0:
            for _ in range(chunk.steps):
                rival.session.skip()
            continue
        first = (place + turn) % 2 == 0
        before = timed(plain, steps, device) if first else None
        own = timed(rival.session, chunk.steps, device)
        beside = before or timed(plain, steps, device)
        within += own * (chunk.weight / chunk.steps)
        without += beside * (chunk.weight / steps)
        weights += chunk.weight
    return without * (1 / weights), within * (1 / weights)


def ratios(pairs: list[tuple[Times, Times]], clock: str) -> Iterator[float]:
    """Time of a watched step over that of a bare one, block by block."""
    for without, within in pairs:
        yield getattr(within, clock) / getattr(without, clock)
