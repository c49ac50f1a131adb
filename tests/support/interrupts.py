"""Processes that Ctrl-C reaches, wherever the tests run."""

from __future__ import annotations

import signal


def heed_interrupts() -> None:
    """Undo that a shell lets its background jobs ignore Ctrl-C; for ``preexec_fn`` of ``subprocess.Popen``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
