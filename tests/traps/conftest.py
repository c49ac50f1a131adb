"""Says at the end of a session how many kinds of traps were tried, and in how many cases."""

from __future__ import annotations

import pytest
from trap_kinds import kinds_of


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write one line, before pytest's own last one."""
    tried: set[str] = set()
    cases = skipped = 0
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.getreports(outcome):
            kinds = kinds_of(report.nodeid)
            if not kinds:
                continue
            tried.update(kinds)
            cases += outcome != "skipped"
            # A skipped test reports where and why.
            skipped += outcome == "skipped" and "no CUDA device" in str(report.longrepr)
    if tried:
        terminalreporter.write_line(f"traps: {len(tried)} kinds, {cases} cases, {skipped} skipped (no GPU)")
