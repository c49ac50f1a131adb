"""Measure what watching costs: gradscope, naive hooks, wandb.watch and TensorBoard against the bare training.

    python tests/benchmarks/overhead.py
    python tests/benchmarks/overhead.py --workloads W1,W5 --contenders norms,every-1 --blocks 9
    python tests/benchmarks/overhead.py --profile W5

Every contender trains its own copy of the same model on the same data, in this one process. A block of its steps and
a block of bare steps are timed side by side; the table shows the median over blocks of the ratio of the two, with
quartiles, so that a slow moment of the machine hits both. What works every 10th or 100th step is timed over whole
periods (where a period is longer than two seconds, a few of its unrecorded steps stand for all of them). The row
"bare against bare" is the noise: smaller differences say nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from costs.contenders import CONTENDERS, Contender
from costs.measure import Effort, Result, measure
from costs.profile import profile
from costs.table import clock_of, markdown, record
from costs.workloads import Workload, workloads

NAMES = [one.key for one in CONTENDERS]


def main() -> None:
    parser = _parser()
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    known = workloads(given.quick)
    chosen = [known[name] for name in _names(parser, "workload", given.workloads, list(known))]
    rivals = [one for one in CONTENDERS if one.key in _names(parser, "contender", given.contenders, NAMES)]
    with tempfile.TemporaryDirectory() as folder:
        if given.profile:
            [name] = _names(parser, "workload", given.profile, list(known))[:1]
            print(profile(known[name], rivals, Path(folder), given.steps))
            return
        results = [_measured(one, rivals, given, Path(folder) / one.name) for one in chosen]
    clock = clock_of(results, given.clock)
    print(markdown(results, clock, figures=not given.quick))
    if given.json:
        given.json.write_text(json.dumps({"clock": clock, "workloads": record(results, clock)}, indent=1))


def _measured(workload: Workload, rivals: list[Contender], given: argparse.Namespace, folder: Path) -> Result:
    effort = Effort(1, 0.0, 1.0) if given.quick else Effort(given.blocks, given.block, given.seconds)
    result = measure(workload, rivals, effort, folder, given.device, _progress)
    _progress("")
    return result


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
    elif text:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _names(parser: argparse.ArgumentParser, what: str, given: str | None, known: list[str]) -> list[str]:
    names = known if given is None else [name.strip() for name in given.split(",")]
    for name in names:
        if name not in known:
            parser.error(f"no {what} {name!r}; there are: {', '.join(known)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=_choices()
    )
    add = parser.add_argument
    add("--workloads", metavar="W1,W5", help="which trainings to time; all by default")
    add("--contenders", metavar="NAME,...", help="whom to time; all that are installed by default")
    add("--blocks", type=int, default=15, help="blocks per contender (15); more narrow the quartiles")
    add("--block", type=float, default=0.3, metavar="S", help="least seconds of a block (0.3); at least one period")
    add("--seconds", type=float, default=600, help="stop a workload after this, once it has 3 blocks (600)")
    add("--threads", type=int, default=1, help="threads of torch (1); with more, a second job shakes every figure")
    add("--device", default="cpu", help="cpu or cuda")
    add("--clock", choices=["auto", "wall", "cpu"], default="auto", help="auto: cpu where the machine is loaded")
    add("--json", type=Path, metavar="FILE", help="write all blocks there as well")
    add("--quick", action="store_true", help="tiny models, one block each: shows that the program runs, no figures")
    add("--profile", metavar="W5", help="instead of a table, show where the time of the first contender goes")
    add("--steps", type=int, default=200, help="steps to profile (200)")
    return parser


def _choices() -> str:
    width = max(map(len, NAMES))
    lines = ["workloads:", *[f"  {one.name:{width}}  {one.text}" for one in workloads().values()]]
    return "\n".join([*lines, "contenders:", *[f"  {one.key:{width}}  {one.text}" for one in CONTENDERS]])


if __name__ == "__main__":
    main()
