"""One markdown table of everything measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from costs.blocks import Times
from costs.contenders import CONTENDERS, Contender
from costs.measure import Result, ratios

RAN = "ran"
BUSY = 1.03  # clock over processor time of the bare steps, above which the machine is called loaded


def clock_of(results: Sequence[Result], wanted: str) -> str:
    """Which clock to compare by: ``auto`` takes the processor time of this process where the machine is loaded."""
    if wanted != "auto":
        return wanted
    return "cpu" if any(_waiting(one) > BUSY for one in results) else "wall"


def _waiting(result: Result) -> float:
    bare = [without for pairs in result.blocks.values() for without, _ in pairs]
    return statistics.median(one.wall / one.cpu for one in bare)


def overhead(pairs: list[tuple[Times, Times]], clock: str) -> tuple[float, float, float]:
    """Median and quartiles, in percent of the bare step."""
    found = [100 * (ratio - 1) for ratio in ratios(pairs, clock)]
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return middle, low, high


def pooled(pairs: list[tuple[Times, Times]], clock: str) -> float:
    """Overhead of all blocks together, in percent: what happens rarely, such as writing a part, is in it."""
    totals = [sum(getattr(pair[side], clock) for pair in pairs) for side in (0, 1)]
    return float(100 * (totals[1] / totals[0] - 1))


def markdown(results: Sequence[Result], clock: str, figures: bool = True) -> str:
    """Rows are contenders, columns workloads, cells ``overhead % [quartiles]``; * marks a missed target.

    Without ``figures`` a cell says only that its contender ran: one block of a tiny model measures nothing.
    """
    names = [one.workload.name for one in results]
    lines = [
        f"| overhead over the bare step, % | {' | '.join(names)} | target {' / '.join(names)} |",
        f"|---|{'---|' * (len(names) + 1)}",
        f"| bare step, ms | {' | '.join(_milliseconds(one, clock) if figures else RAN for one in results)} | |",
    ]
    for contender in CONTENDERS:
        if any(contender.key in {*one.blocks, *one.absent} for one in results):
            cells = [_cell(contender, one, clock, figures) for one in results]
            lines.append(f"| {contender.text} | {' | '.join(cells)} | {_target(contender, names)} |")
    used = "processor time of this process (the machine was loaded)" if clock == "cpu" else "time on the clock"
    legend = f"Median of interleaved blocks [quartiles], {used}; * misses its target by more than the noise."
    lines += ["", legend if figures else "It runs. Nothing was measured: tiny models, one block each."]
    lines += [f"{text}: {reason}." for text, reason in _absent(results).items()]
    lines += [f"{one.workload.name}: {one.workload.text}." for one in results]
    return "\n".join(lines)


def record(results: Sequence[Result], clock: str) -> dict[str, Any]:
    """Everything measured, for JSON: percentages, and wall and cpu seconds per step of every block."""
    return {
        one.workload.name: {
            key: {
                "median": overhead(pairs, clock)[0],
                "quartiles": overhead(pairs, clock)[1:],
                "pooled": pooled(pairs, clock),
                "bare": [[without.wall, without.cpu] for without, _ in pairs],
                "watched": [[within.wall, within.cpu] for _, within in pairs],
            }
            for key, pairs in one.blocks.items()
        }
        for one in results
    }


def missed(contender: Contender, result: Result, clock: str) -> bool:
    """Whether the median lies above the target by more than the noise: what bare against bare shows."""
    target = (contender.target or {}).get(result.workload.name)
    if target is None or contender.key not in result.blocks:
        return False
    return overhead(result.blocks[contender.key], clock)[0] > target + _noise(result, clock)


def _noise(result: Result, clock: str) -> float:
    if "aa" not in result.blocks:
        return 0.0
    middle, low, high = overhead(result.blocks["aa"], clock)
    return max(abs(middle), (high - low) / 2)


def _cell(contender: Contender, result: Result, clock: str, figures: bool) -> str:
    if contender.key not in result.blocks:
        return "-"
    if not figures:
        return RAN
    found = overhead(result.blocks[contender.key], clock)
    middle, low, high = (f"{value:.0f}" if abs(value) >= 99.5 else f"{value:.1f}" for value in found)
    star = " *" if missed(contender, result, clock) else ""
    pace = result.paces.get(contender.key)
    chosen = f", every {pace}" if pace is not None else ""
    return f"{middle} [{low}, {high}]{chosen}{star}"


def _target(contender: Contender, names: Sequence[str]) -> str:
    return " / ".join(f"{contender.target[name]:g}" for name in names) if contender.target else ""


def _milliseconds(result: Result, clock: str) -> str:
    steps = [getattr(without, clock) for pairs in result.blocks.values() for without, _ in pairs]
    middle = 1e3 * statistics.median(steps)
    return f"{middle:.0f}" if middle >= 100 else f"{middle:.3g}"


def _absent(results: Sequence[Result]) -> dict[str, str]:
    texts = {one.key: one.text for one in CONTENDERS}
    return {texts[key]: reason for one in results for key, reason in one.absent.items()}
