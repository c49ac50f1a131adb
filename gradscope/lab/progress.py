"""The progress bar of a sweep."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar


class Progress:
    """Shows how many runs are done and failed and how long the rest takes, on the error stream."""

    def __init__(self, total: int, *, done: int = 0, show: bool = True) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not show,
        )
        self._failed = 0
        self._before = f"{done} from before" if done else ""
        self._task = self._bar.add_task("runs", total=total, completed=done, note=self._before)

    def advance(self, status: str) -> None:
        """Count one more run, of this status."""
        self._failed += status == "failed"
        failures = f"[red]{self._failed} failed[/red]" if self._failed else ""
        note = ", ".join(one for one in (self._before, failures) if one)
        self._bar.update(self._task, advance=1, note=note)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
