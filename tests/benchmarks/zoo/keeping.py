"""Judge many networks in a pool of processes, each in a folder of its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import track
from zoo.cases import Case
from zoo.judging import Judged, judge


def judged(cases: Sequence[Case], folder: Path, workers: int) -> list[Judged]:
    """Judge every case, in the order given; what the folder holds already is not trained again."""
    console = Console(stderr=True, quiet=not sys.stderr.isatty())
    results = track(_results(cases, folder, workers), "networks", total=len(cases), console=console)
    found = {one.case.name: one for one in results}
    return [found[case.name] for case in cases]


def _results(cases: Sequence[Case], folder: Path, workers: int) -> Iterator[Judged]:
    if workers == 1:
        yield from (judge(case, place(folder, case)) for case in cases)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from (
            done.result() for done in as_completed([pool.submit(judge, one, place(folder, one)) for one in cases])
        )


def place(folder: Path, case: Case) -> Path:
    """The folder of a case.

    >>> place(Path("zoo"), Case("relu 4, lr 50", "huge steps")).name
    'relu-4-lr-50'
    """
    return folder / re.sub(r"\W+", "-", case.name).strip("-")
