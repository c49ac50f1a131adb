"""A run under the name that its folder has in the list of runs, the same on every page and in every figure."""

from __future__ import annotations

import os

from gradscope.runs import Run


class Listed(Run):
    """A run that is called as it is listed.

    Args:
        path: Folder of the run.
        listed: Its name in the list.
    """

    def __init__(self, path: str | os.PathLike[str], listed: str) -> None:
        super().__init__(path)
        self._listed = listed

    @property
    def name(self) -> str:
        """The name in the list."""
        return self._listed

    @property
    def given(self) -> str:
        """The name that was given to the run itself."""
        return super().name


def given_to(run: Run) -> str:
    """Return the name that was given to a run itself."""
    return run.given if isinstance(run, Listed) else run.name
