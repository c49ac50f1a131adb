"""The runs a dashboard shows: found, kept open, and asked for news."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, TypeVar

from gradscope.dashboards.listed import Listed
from gradscope.dashboards.order import natural
from gradscope.errors import GradscopeError, RunFormatError, UnknownNameError, unknown_name
from gradscope.runs import Run, Runs
from gradscope.runs.collection import find
from gradscope.runs.format import DESCRIPTION
from gradscope.runs.store import Store

T = TypeVar("T")
MOST_NAMED = 12
"""Runs that a message lists; of more, it says how many there are."""


class Source:
    """Runs by name, in natural order of name; those that cannot be read are kept apart with their error.

    A folder is searched again at every `poll`, so that runs begun later appear. Callbacks come in threads: they
    hold `lock` while they read.

    Args:
        given: Folder of a run or of runs (it may be empty still), a Run, or Runs.

    Raises:
        RunFormatError: There is no such folder.
    """

    def __init__(self, given: str | os.PathLike[str] | Run | Runs) -> None:
        self.lock = threading.RLock()
        self.runs: dict[str, Run] = {}
        self.broken: dict[str, str] = {}
        self._versions: Counter[str] = Counter()
        self._held: dict[tuple[str, str], tuple[int, Any]] = {}
        self._folder: str | None = None
        if isinstance(given, Run):
            self.runs = {given.name: given}
        elif isinstance(given, Runs):
            self.runs = {name: given[name] for name in sorted(given.names, key=natural)}
            for name, run in given.items():
                if run.name != name:
                    self._try(name, run.path)
            self.broken |= {name: str(error) for name, error in given.broken.items()}
            self._folder = given.path
        else:
            self._open(os.fspath(given))

    def _open(self, path: str) -> None:
        store = Store(path)
        if store.is_file(DESCRIPTION):
            run = Run(path)
            self.runs = {run.name: run}
            return
        if not store.is_folder():
            raise RunFormatError(f"there is no folder {store.shown()!r}")
        self._folder = path
        self._search()

    @property
    def where(self) -> str:
        """The folder, for people."""
        return self._folder or next((run.path for run in self.runs.values()), "")

    def run(self, name: str) -> Run:
        """Return a run by name; UnknownNameError lists the names, RunFormatError says why it cannot be read."""
        if name in self.broken:
            raise RunFormatError(self.broken[name])
        if name not in self.runs:
            raise self._unknown(name)
        return self.runs[name]

    def _unknown(self, name: str) -> UnknownNameError:
        # Of those that cannot be read there is a reason to show: they are choices, and the table counts them.
        listed = [*self.runs, *self.broken]
        if len(listed) <= MOST_NAMED:
            return unknown_name("run", name, listed)
        near = get_close_matches(name, listed, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return UnknownNameError(f"no run {name!r} among the {len(listed)} runs in {self.where}{hint}")

    def version(self, names: Iterable[str] | None = None) -> str:
        """Return a word that changes whenever one of the runs does; without names, also when runs come or go."""
        if names is None:
            listed = [*self.runs, *self.broken]
            return f"{len(listed)}.{sum(self._versions.values())}"
        return ".".join(str(self._versions[name]) for name in names)

    def kept(self, what: str, name: str, make: Callable[[Run], T]) -> T:
        """Return what ``make`` says of a run, made anew only when the run has changed since."""
        version = self._versions[name]
        held = self._held.get((what, name))
        if held is None or held[0] != version:
            held = (version, make(self.run(name)))
            self._held[what, name] = held
        value: T = held[1]
        return value

    def poll(self, names: Iterable[str] | None = None) -> None:
        """Ask for news of the runs; without names of all of them, and whether there are new ones."""
        for name in list(self.runs if names is None else names):
            if name in self.runs:
                self._refresh(name)
        if names is None and self._folder is not None:
            self._search()

    def _refresh(self, name: str) -> None:
        try:
            new = self.runs[name].refresh()
        except (GradscopeError, OSError) as error:
            self._break(name, str(error))
            return
        self._versions[name] += new

    def _search(self) -> None:
        """Open runs not known yet, and try again those that could not be read."""
        store = Store(self._folder or "")
        for name in find(store):
            if name not in self.runs:
                self._try(name, store.shown(name))
        self.runs = {name: self.runs[name] for name in sorted(self.runs, key=natural)}

    def _try(self, name: str, path: str) -> None:
        try:
            self.runs[name] = Listed(path, name)
        except (GradscopeError, OSError) as error:
            self._break(name, str(error))
            return
        self.broken.pop(name, None)
        self._versions[name] += 1

    def _break(self, name: str, error: str) -> None:
        self.runs.pop(name, None)
        if self.broken.get(name) != error:
            self.broken[name] = error
            self._versions[name] += 1
