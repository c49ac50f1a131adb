"""How one configuration of a sweep is carried out, and where: here, in worker processes, or elsewhere."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import cloudpickle
from fsspec.core import url_to_fs

from gradscope.errors import GradscopeError, InvalidTypeError
from gradscope.lab.grid import Configuration
from gradscope.runs.description import read_description
from gradscope.runs.format import DESCRIPTION
from gradscope.runs.store import Store
from gradscope.runs.writer import Writer

T = TypeVar("T")
CONFIGURATION = "configuration.json"
# Set before the worker imports numpy or torch, whose thread pools read them once.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

# How Python passes filters of warnings to a process it starts.
FILTERS = "PYTHONWARNINGS"
OF_TRACKER = "ignore:resource_tracker"


class Executor(Protocol):
    """What a sweep needs of the machinery that carries its configurations out.

    Every ``concurrent.futures.Executor`` is one; so is what a cluster engine offers in that shape (Dask's
    ``client.get_executor()``, an ``MPIPoolExecutor``). The processes behind it must reach the folder of the
    sweep under the same path, and be able to unpickle the training function. The caller shuts it down.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Carry out ``fn(*args)`` some time and return its future."""
        ...


class HereExecutor:
    """Carries out in this process, at once."""

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Call ``fn`` now; the future returned is done. A KeyboardInterrupt passes through."""
        future: Future[T] = Future()
        future.set_result(fn(*args))
        return future


@dataclass(frozen=True)
class Job:
    """A configuration and the folder its run goes to."""

    train: Callable[..., Any]
    folder: str
    configuration: Configuration

    def record(self) -> dict[str, Any]:
        """Return what stands in the folder beside the run, so that a later sweep recognises it."""
        return {
            "digest": self.configuration.digest,
            "config": self.configuration.config,
            "train": name_of(self.train),
        }


@dataclass(frozen=True)
class Outcome:
    """How a job ended: ``finished``, or ``failed`` with the traceback."""

    status: str
    error: str | None = None


class Processes:
    """A pool of worker processes that Ctrl-C does not reach, not even while they start."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def submit(self, fn: Callable[..., T], /, *args: Any) -> Future[T]:
        """Hand a call to a worker process, which is started where none is free."""
        if not hasattr(signal, "pthread_sigmask"):  # Windows
            return self._pool.submit(fn, *args)  # type: ignore[no-any-return]
        # A process inherits what is blocked; what comes meanwhile is delivered here, right after.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._pool.submit(fn, *args)  # type: ignore[no-any-return]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def shutdown(self, *, kill_workers: bool) -> None:
        """End the processes, at once or after what they are at."""
        self._pool.shutdown(wait=True, kill_workers=kill_workers)


def processes(workers: int) -> Processes:
    """Return a pool of worker processes, one computing thread each; they start with the first call."""
    from loky import ProcessPoolExecutor

    _start_trackers()
    return Processes(ProcessPoolExecutor(max_workers=workers, initializer=_ignore_interrupts, env=ONE_THREAD))


def check_sendable(train: Callable[..., Any]) -> None:
    """Raise InvalidTypeError if a training function cannot be sent to worker processes."""
    try:
        cloudpickle.dumps(train)
    except Exception as error:  # pickling runs the code of whatever the function refers to
        raise InvalidTypeError(
            f"{name_of(train)} cannot be sent to worker processes ({error}); workers=1 runs it in this one"
        ) from None


def name_of(train: Callable[..., Any]) -> str:
    """Return module and name of a function."""
    return f"{getattr(train, '__module__', '?')}:{getattr(train, '__qualname__', type(train).__name__)}"


def carry_out(job: Job) -> Outcome:
    """Train one configuration into its own fresh folder; an exception becomes the outcome, kept there."""
    clear(job.folder)
    store = Store(job.folder)
    store.write(CONFIGURATION, json.dumps(job.record(), indent=1).encode())
    try:
        job.train(out=job.folder, **job.configuration.values)
        return _completed(job, store)
    except (Exception, SystemExit) as error:
        # The first frame is this one, which tells nobody anything.
        inner = error.__traceback__.tb_next if error.__traceback__ else None
        return failed(job, "".join(traceback.format_exception(type(error), error, inner)))


def failed(job: Job, error: str) -> Outcome:
    """Record a failure in the folder of the job: in the run that is there, or in one made for it."""
    store = Store(job.folder)
    config = job.configuration.config
    try:
        description = read_description(store)
    except GradscopeError:
        store.remove(DESCRIPTION)
        Writer(job.folder, metrics=(), config=config).close("failed", error=error)
    else:
        config |= description.config
        store.write(DESCRIPTION, replace(description, status="failed", error=error, config=config).to_bytes())
    return Outcome("failed", error)


def clear(folder: str) -> None:
    """Remove a folder and what it holds; an absent one is no error."""
    filesystem, root = url_to_fs(folder)
    if filesystem.exists(root):
        filesystem.rm(root, recursive=True)


def _completed(job: Job, store: Store) -> Outcome:
    """Check that a run is there and closed, and complete its config by the values of the grid."""
    description = read_description(store)
    if description.status == "running":
        return failed(job, "the training function left its run open; close the probe, or use it in a with block")
    config = job.configuration.config | dict(description.config)
    if config != description.config:
        store.write(DESCRIPTION, replace(description, config=config).to_bytes())
    return Outcome("finished" if description.status == "finished" else "failed", description.error)


def _start_trackers() -> None:
    """Start the process that removes what killed workers leave, without its warnings about that.

    The one of the standard library is started too: when loky does it, between two workers, it unblocks Ctrl-C.
    """
    from loky.backend import resource_tracker

    if os.name == "posix":
        from multiprocessing.resource_tracker import ensure_running

        ensure_running()

    before = os.environ.get(FILTERS)
    os.environ[FILTERS] = f"{before},{OF_TRACKER}" if before else OF_TRACKER
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ[FILTERS]
        else:
            os.environ[FILTERS] = before


def _ignore_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the process that runs the sweep."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.update(ONE_THREAD)
