"""The verdicts of all tools side by side, as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from zoo.causes import TOOLS, named
from zoo.judging import Judged

Halves = Mapping[str, Sequence[Judged]]


def markdown(halves: Halves) -> str:
    """The table, then which rule fired how often, then what each half got wrong."""
    return "\n\n".join([summary(halves), rules(halves), *(mistakes(name, half) for name, half in halves.items())])


def summary(halves: Halves) -> str:
    """Recall, causes and false alarms of every tool, a group of columns for each half."""
    heads = [f"{name}: {what}" for name in halves for what in ("sick, found", "cause named", "healthy, false alarms")]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for tool in TOOLS:
        cells = [cell for half in halves.values() for cell in _cells(tool, half)]
        lines.append(f"| {tool} | {' | '.join(cells)} |")
    unclear = "; ".join(f"{name}: {len(_of(half, 'unclear'))}" for name, half in halves.items())
    leading = "; ".join(f"{name}: {_leading(half)}" for name, half in halves.items())
    lines += ["", f"gradscope names the cause in its first finding: {leading}."]
    return "\n".join([*lines, f"Neither sick nor healthy, and not judged: {unclear}."])


def _cells(tool: str, half: Sequence[Judged]) -> list[str]:
    sick, healthy = _of(half, "sick"), _of(half, "healthy")
    stated = [one for one in sick if one.case.cause]
    return [
        f"{sum(bool(one.alarms[tool]) for one in sick)} of {len(sick)}",
        f"{sum(one.right(tool) for one in stated)} of {len(stated)}",
        f"{sum(bool(one.alarms[tool]) for one in healthy)} of {len(healthy)}",
    ]


def _leading(half: Sequence[Judged]) -> str:
    stated = [one for one in _of(half, "sick") if one.case.cause]
    worst = [named(TOOLS[0], one.case.cause, one.alarms[TOOLS[0]][:1]) for one in stated]
    return f"{sum(worst)} of {len(worst)}"


def rules(halves: Halves) -> str:
    """How often each rule fired on the sick and on the healthy, both halves together."""
    everyone = [one for half in halves.values() for one in half]
    sick, healthy = _of(everyone, "sick"), _of(everyone, "healthy")
    lines = ["| rule | sick | healthy |", "|---|---|---|"]
    for tool in TOOLS:
        if tool == TOOLS[1]:
            continue  # the next one contains it
        fired = [Counter(code for one in group for code in set(one.alarms[tool])) for group in (sick, healthy)]
        codes = sorted({*fired[0], *fired[1]}, key=lambda code: (-fired[0][code], code))
        lines += [f"| {tool.split(',')[0]}: {code} | {fired[0][code]} | {fired[1][code]} |" for code in codes]
    lines.append(f"| networks | {len(sick)} | {len(healthy)} |")
    return "\n".join(lines)


def mistakes(name: str, half: Sequence[Judged]) -> str:
    """What gradscope missed, named wrong or raised without need; of the others, by name only."""
    lines = [f"{name}, mistakes of gradscope:"]
    for one in half:
        fault = _mistake(one, TOOLS[0])
        if fault:
            said = ", ".join(one.alarms[TOOLS[0]]) or "nothing"
            lines.append(f"- {one.case.name}: {fault} (said {said}; accuracy {one.accuracy:.2f}; {one.case.text})")
    if len(lines) == 1:
        lines = [f"{name}, mistakes of gradscope: none."]
    for tool in TOOLS[1:]:
        for fault in ("missed", "false alarm"):
            names = [one.case.name for one in half if _mistake(one, tool) == fault]
            if names:
                lines.append(f"\n{name}, {tool}, {fault}: {'; '.join(names)}.")
    return "\n".join(lines)


def _mistake(one: Judged, tool: str) -> str:
    if one.label == "sick" and not one.alarms[tool]:
        return "missed"
    if one.label == "sick" and one.case.cause and not one.right(tool):
        return f"cause not named, {one.case.cause}"
    return "false alarm" if one.label == "healthy" and one.alarms[tool] else ""


def _of(half: Sequence[Judged], label: str) -> list[Judged]:
    return [one for one in half if one.label == label]
