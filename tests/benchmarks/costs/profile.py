"""Where the time of a watched step goes."""

from __future__ import annotations

import cProfile
import pstats
from pathlib import Path

from costs.contenders import Contender
from costs.workloads import Training, Workload

import gradscope

SHOWN = 25
OURS = str(Path(gradscope.__file__).parent)


def profile(workload: Workload, contenders: list[Contender], folder: Path, steps: int) -> str:
    """Profile the first contender of gradscope: its functions, and what torch does for them, by own time per step."""
    contender = next((one for one in contenders if one.key == "every-1"), contenders[0])
    session = contender.start(Training(workload), folder)
    for _ in range(5):
        session.step()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(steps):
        session.step()
    profiler.disable()
    session.close()
    return _table(f"{workload.name}, {contender.text}", pstats.Stats(profiler), steps)


def _table(title: str, stats: pstats.Stats, steps: int) -> str:
    rows = []
    for (file, line, name), (_, calls, own, total, callers) in stats.stats.items():  # type: ignore[attr-defined]
        if file.startswith(OURS):
            rows.append((own, total, calls, f"{Path(file).relative_to(OURS)}:{line} {name}"))
        elif file == "~":
            # A builtin: the part of it that functions of ours have called.
            part = [found for caller, found in callers.items() if caller[0].startswith(OURS)]
            if part:
                rows.append(
                    (sum(one[2] for one in part), sum(one[3] for one in part), sum(one[1] for one in part), name)
                )
    rows.sort(reverse=True)
    everything = 1e6 * stats.total_tt / steps  # type: ignore[attr-defined]
    ours = 1e6 * sum(row[0] for row in rows) / steps
    lines = [
        f"{title}: {ours:.0f} of {everything:.0f} us per profiled step are its own (the profiler slows Python calls)",
        "",
        "| own us/step | with callees | calls/step | function |",
        "|---|---|---|---|",
    ]
    for own, total, calls, name in rows[:SHOWN]:
        lines.append(f"| {1e6 * own / steps:.1f} | {1e6 * total / steps:.1f} | {calls / steps:.1f} | {name} |")
    return "\n".join(lines)
