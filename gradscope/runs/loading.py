"""Open a run or a folder of runs."""

from __future__ import annotations

import os

from gradscope.errors import RunFormatError
from gradscope.runs.collection import LEVELS, Runs, find, read_all
from gradscope.runs.description import only_other_ranks
from gradscope.runs.format import DESCRIPTION
from gradscope.runs.run import Run
from gradscope.runs.store import Store


def load(path: str | os.PathLike[str]) -> Run | Runs:
    """Open a run, or all runs below a folder.

    Args:
        path: Folder of a run (it holds run.json) gives a `Run`; a folder with runs in it, at most 3 levels
            down, gives `Runs`. On disk or anywhere fsspec reaches.

    Raises:
        InvalidTypeError: The path is neither a string nor a path.
        RunFormatError: There is no such folder, no run in it, or its run.json cannot be read; it is named. So is a
            folder into which other ranks of a distributed training have recorded, but not rank 0.
    """
    store = Store(path)
    if store.is_file(DESCRIPTION):
        return Run(store.path)
    if store.is_file():
        raise RunFormatError(f"{store.shown()!r} is a file; a run is a folder with a {DESCRIPTION}")
    if not store.is_folder():
        raise RunFormatError(f"there is no folder {store.shown()!r}")
    names = find(store)
    if not names:
        alone = only_other_ranks(store)
        raise RunFormatError(
            alone or f"{store.shown()!r} holds no run: no {DESCRIPTION} in it or in {LEVELS} levels below"
        )
    return Runs(store.path, *read_all(store.path, names))
