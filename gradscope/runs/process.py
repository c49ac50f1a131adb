"""Which process writes a run, and whether it still lives."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process of this host: its number, and when it started, which tells it from a later namesake.

    Attributes:
        pid: Process number.
        started: Clock ticks from boot to its start; None where the system does not tell (no /proc).
    """

    pid: int
    started: int | None

    @classmethod
    def this(cls) -> Process:
        """Return the calling process."""
        pid = os.getpid()
        return cls(pid, _stat(pid)[1])

    def alive(self) -> bool | None:
        """Tell whether it still runs; a zombie does not; None where this system offers no way to know."""
        if os.name == "nt":  # os.kill(pid, 0) would interrupt the process there
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it is another user's, hence it is
        state, started = _stat(self.pid)
        if state in ("Z", "X"):
            return False
        return self.started is None or started is None or started == self.started


def _stat(pid: int) -> tuple[str | None, int | None]:
    """Return state and start time from /proc, which counts the fields after the name in brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])
