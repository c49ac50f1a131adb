"""Train every configuration of a grid, in parallel, so that it can be stopped and taken up again."""

from __future__ import annotations

import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import Any

from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError
from gradscope.lab.execution import (
    CONFIGURATION,
    Executor,
    HereExecutor,
    Job,
    Outcome,
    carry_out,
    check_sendable,
    failed,
    name_of,
    processes,
)
from gradscope.lab.grid import Configuration, check_names, configurations
from gradscope.lab.progress import Progress
from gradscope.lab.validation import whole
from gradscope.runs import Runs
from gradscope.runs.collection import read_all
from gradscope.runs.description import read_description
from gradscope.runs.format import DESCRIPTION
from gradscope.runs.store import Store

DIED = "the worker process died: it was killed (out of memory?), or its interpreter crashed"


def sweep(
    train: Callable[..., Any],
    out: str | os.PathLike[str] = "runs/sweep",
    *,
    workers: int = 2,
    progress: bool = True,
    executor: Executor | None = None,
    **grid: Any,
) -> Runs:
    """Call ``train(out=folder, **configuration)`` for every configuration of a grid and return the runs.

    Each configuration has a folder of its own in ``out``, named after what the grid varies. It is recognised
    by a hash of its values: one that has finished is not trained again, one that failed or was interrupted
    is trained anew in place of what it left. A failing one becomes a run of status ``failed`` with its
    traceback in ``run.error``, and stops no other; a warning at the end tells how many did, and why the first.
    The code of ``train`` is not part of the hash: after changing it, choose another ``out``.

    Args:
        train: ``train(*, out, **configuration)``; writes a run into the folder ``out``, with
            ``gradscope.watch`` or ``gradscope.lab.train``. A function of a notebook or script will do.
        out: Folder of the sweep.
        workers: Number of worker processes, with one computing thread each; 0 or 1 trains in this process.
        progress: Whether to show a progress bar.
        executor: Carries the configurations out instead of the worker processes; see ``Executor``.
        grid: A list, tuple, range or array gives the values of a name, which are combined in every way;
            anything else is one value for all. (One value that is a list: a list that holds it.)

    Raises:
        UnknownNameError: The signature of ``train`` shows that it does not take a name of the grid.
        InvalidTypeError: ``train`` cannot be called or sent to workers; a value cannot be recognised again.
        InvalidValueError: A name has no values, or ``out`` is a run or a file, or another process writes in it.
        KeyboardInterrupt: Ctrl-C. Nothing more is started, the workers end, finished runs stay.
    """
    if not callable(train):
        raise InvalidTypeError(f"train must be a function, not {train!r}")
    check_names(train, grid)
    workers, folder = whole("workers", workers, 0), os.fspath(out)
    Store(folder).check_folder()
    if Store(folder).is_file(DESCRIPTION):
        raise InvalidValueError(f"{folder!r} is a run itself; choose another folder for the sweep")
    jobs = place(train, folder, configurations(grid))
    waiting = [job for job in jobs if not _is_finished(job)]
    _warn_of_another_function(train, [job for job in jobs if job not in waiting])
    with Progress(len(jobs), done=len(jobs) - len(waiting), show=progress) as bar:
        try:
            _run(waiting, workers, executor, lambda job, outcome: bar.advance(outcome.status))
        except KeyboardInterrupt:
            kept = sum(map(_is_finished, jobs))
            raise KeyboardInterrupt(
                f"sweep stopped: {kept} of {len(jobs)} runs are finished and kept in {folder!r};"
                " the same sweep again goes on from there"
                if Store(folder).is_folder()
                else f"sweep stopped before any of {len(jobs)} runs began; nothing was written"
            ) from None
    runs = Runs(folder, *read_all(folder, [job.folder.rsplit("/", 1)[-1] for job in jobs]))
    _warn_of_failures(runs)
    return runs


def place(train: Callable[..., Any], out: str, wanted: Iterable[Configuration]) -> list[Job]:
    """Give every configuration its folder: the one that holds it already, else a new one of its name."""
    store = Store(out)
    folders = store.names(folders=True)
    known = {digest: name for name in folders if (digest := _record(store.child(name)).get("digest"))}
    taken, jobs = set(folders), []
    for configuration in wanted:
        name = known.get(configuration.digest)
        if name is None:
            name = configuration.name
            name = name if name not in taken else f"{name}-{configuration.digest[:8]}"
            taken.add(name)
        jobs.append(Job(train, store.shown(name), configuration))
    return jobs


Report = Callable[[Job, Outcome], None]


def _run(jobs: list[Job], workers: int, executor: Executor | None, report: Report) -> None:
    """Carry the jobs out where the arguments of the sweep say."""
    if not jobs:
        return
    if executor is not None:
        lost = _drain(jobs, executor, len(jobs), report)
    elif workers <= 1:
        lost = _drain(jobs, HereExecutor(), 1, report)
    else:
        check_sendable(jobs[0].train)
        lost = _in_processes(jobs, workers, report)
    for job in lost:
        report(job, failed(job, DIED))


def _in_processes(jobs: list[Job], workers: int, report: Report) -> list[Job]:
    """Carry jobs out in worker processes; return those that a process died of.

    A process that dies takes its pool and the jobs beside it with it. So these are tried again one by one,
    each in a pool of its own, which tells the guilty one from its neighbours.
    """
    queue, guilty = deque(jobs), []
    while queue:
        under_way = _in_pool(queue, min(workers, len(queue)), report)
        for job in under_way:
            guilty += _in_pool(deque([job]), 1, report)
    return guilty


def _in_pool(queue: deque[Job], workers: int, report: Report) -> list[Job]:
    pool = processes(workers)
    try:
        lost = _drain(queue, pool, workers, report)
    except BaseException:
        pool.shutdown(kill_workers=True)
        raise
    pool.shutdown(kill_workers=bool(lost))
    return lost


def _drain(jobs: Iterable[Job], executor: Executor, window: int, report: Report) -> list[Job]:
    """Carry jobs out, at most ``window`` at a time; return those under way when the executor broke.

    A deque is emptied as its jobs are submitted, so that what remains in it has not been tried.
    """
    queue = jobs if isinstance(jobs, deque) else deque(jobs)
    pending: dict[Future[Outcome], Job] = {}
    lost: list[Job] = []
    try:
        while pending or (queue and not lost):
            while queue and not lost and len(pending) < window:
                job = queue.popleft()
                try:
                    pending[executor.submit(carry_out, job)] = job
                except BrokenExecutor:
                    lost.append(job)
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                job = pending.pop(future)
                error = future.exception()
                if isinstance(error, BrokenExecutor):
                    lost.append(job)
                else:
                    report(job, future.result() if error is None else failed(job, repr(error)))
    finally:
        for future in pending:
            future.cancel()
    return lost


def _warn_of_failures(runs: Runs) -> None:
    failures = [run for run in runs if run.status == "failed"]
    if failures:
        first = failures[0].path.rstrip("/").rsplit("/", 1)[-1]
        reason = ((failures[0].error or "").strip() or "unknown").splitlines()[-1]
        warnings.warn(
            f"{len(failures)} of {len(runs)} runs failed; the first, {first!r}: {reason}"
            f" (the traceback is in runs[{first!r}].error)",
            stacklevel=3,
        )


def _is_finished(job: Job) -> bool:
    """Tell whether a job is done; an InvalidValueError if another process is at it."""
    store = Store(job.folder)
    if _record(store).get("digest") != job.configuration.digest:
        return False
    try:
        description = read_description(store)
    except GradscopeError:
        return False
    if description.judged() == "running" and description.pid != os.getpid():
        raise InvalidValueError(f"{job.folder!r} is being written by process {description.pid}; wait, or stop it")
    return description.status == "finished"


def _record(store: Store) -> dict[str, Any]:
    """Return what a sweep left beside a run; empty where it left nothing."""
    try:
        content = json.loads(store.read(CONFIGURATION))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _warn_of_another_function(train: Callable[..., Any], finished: list[Job]) -> None:
    makers = {str(_record(Store(job.folder)).get("train")) for job in finished} - {name_of(train)}
    if makers:
        warnings.warn(
            f"finished configurations are kept, though made by {', '.join(sorted(makers))}"
            f" and not by {name_of(train)}; choose another out= to train them anew",
            stacklevel=3,
        )
