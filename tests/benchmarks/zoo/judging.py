"""What each tool says of a trained network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from zoo.cases import Case
from zoo.causes import TOOLS, named
from zoo.peers import all_rules, autotrainer, tensor_rules
from zoo.training import trained

import gradscope as gs

ALARMS = ("critical", "warning")


@dataclass(frozen=True)
class Judged:
    """A network, its label, and the alarms of every tool; of gradscope the worst finding first."""

    case: Case
    label: str
    accuracy: float
    seconds: float
    alarms: dict[str, tuple[str, ...]]
    letter: str

    def right(self, tool: str) -> bool:
        """Whether an alarm of the tool names the cause."""
        return named(tool, self.case.cause, self.alarms[tool])


def judge(case: Case, folder: Path) -> Judged:
    """Train a network, unless the folder holds it already, and ask every tool."""
    torch.set_num_threads(1)
    record = trained(case, folder)
    run = gs.load(folder / "run")
    assert isinstance(run, gs.Run)
    found = gs.diagnose(run)
    ours = tuple(one.code for one in found if one.severity in ALARMS)
    said = (ours, tensor_rules(record), all_rules(record), autotrainer(record))
    alarms = dict(zip(TOOLS, said, strict=True))
    return Judged(case, record.label, record.accuracy, record.seconds, alarms, str(found))
