"""Two real processes of a gloo group that run functions of a file together and hand back what they return."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
import tempfile
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TIMEOUT = 240.0
"""Seconds after which processes that have not answered are taken for hung; far above what anything here needs."""


class RankFailedError(AssertionError):
    """A rank raised, died or hung; the message holds its traceback."""


class Ranks:
    """Processes that wait for functions to run; a failed one takes the others down, the next call starts fresh ones."""

    def __init__(self, world: int = 2, timeout: float = TIMEOUT) -> None:
        self.world = world
        self._timeout = timeout
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def run(self, file: str | Path, function: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Call ``function(rank, *args, **kwargs)`` of a file on every rank; return the results in order of rank."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((str(file), function, args, kwargs))
        try:
            return self._collect(function)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the processes."""
        if not self._processes:
            return
        for process in self._processes:
            process.kill()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join()
            pipe.close()
        self._processes, self._pipes = [], []
        self._meeting.cleanup()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._meeting = tempfile.TemporaryDirectory(prefix="ranks-")
        for rank in range(self.world):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.world, self._meeting.name, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(mine)

    def _collect(self, function: str) -> list[Any]:
        results: dict[int, Any] = {}
        while len(results) < self.world:
            ready = wait([pipe for rank, pipe in enumerate(self._pipes) if rank not in results], self._timeout)
            if not ready:
                hung = sorted(set(range(self.world)) - set(results))
                raise RankFailedError(f"{function}: no answer from ranks {hung} within {self._timeout:.0f} s")
            for rank, pipe in enumerate(self._pipes):
                if pipe in ready:
                    results[rank] = self._answer(rank, pipe, function)
        return [results[rank] for rank in range(self.world)]

    def _answer(self, rank: int, pipe: Connection, function: str) -> Any:
        try:
            good, answer = pipe.recv()
        except EOFError:
            raise RankFailedError(f"{function}: rank {rank} died") from None
        if not good:
            raise RankFailedError(f"{function}: rank {rank} raised\n{answer}")
        return answer


def _serve(rank: int, world: int, meeting: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if sys.platform == "linux":  # a host name that does not resolve is none of our business
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=TIMEOUT)
    )
    while True:
        try:
            file, function, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(load_file(file), function)(rank, *args, **kwargs)
        except BaseException:
            answer = False, traceback.format_exc()
        pipe.send(answer)


def load_file(file: str | Path) -> Any:
    """Import a file that lies in no package, once."""
    name = Path(file).stem
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
