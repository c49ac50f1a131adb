"""Ask gradscope and two other tools about a zoo of sick and healthy networks: what is found, what is a false alarm?

    python tests/benchmarks/alarms.py
    python tests/benchmarks/alarms.py --half first --keep zoo --letters
    python tests/benchmarks/alarms.py --half drawn --seed 7

Every network is trained on real digits while gradscope watches it, and plain hooks collect what the rules of the other
tools look at. It is sick if something was broken on purpose, or if it is still at chance in the end; healthy if it has
clearly learnt; what lies between is not judged. No rule has a say in that. The first half is fixed by hand. The second
is drawn by seed from the same families with other parameters; the seed was chosen after the rules were frozen.
An alarm of gradscope is a finding that is critical or a warning.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from zoo.cases import Case
from zoo.drawn import SEED, drawn
from zoo.first import first
from zoo.judging import Judged
from zoo.keeping import judged
from zoo.table import markdown

HALVES = ("first", "second", "drawn")


def main() -> None:
    given = _parser().parse_args()
    halves = _halves(given)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as spare:
        folder = given.keep or Path(spare)
        found = {name: judged(cases, folder / name, given.workers) for name, cases in halves.items()}
    everyone = [one for half in found.values() for one in half]
    if given.letters:
        print("\n\n".join(_letter(one) for one in everyone), end="\n\n")
    print(markdown(found))
    times = [one.seconds for one in everyone]
    print(f"\n{len(everyone)} networks, {sum(times):.0f} s of training, the longest {max(times):.1f} s.")
    if given.json:
        given.json.write_text(
            json.dumps({name: [asdict(one) for one in half] for name, half in found.items()}, indent=1)
        )


def _halves(given: argparse.Namespace) -> dict[str, list[Case]]:
    known = {"first half": first(), "second half": drawn(SEED)}
    if given.half is not None:
        known = {name: cases for name, cases in known.items() if name.startswith(given.half)}
    if given.half == "drawn":
        known = {f"drawn by seed {given.seed}": drawn(given.seed)}
    chosen = given.names.split(";") if given.names else []
    return {
        name: [one for one in cases if not chosen or any(part in one.name for part in chosen)]
        for name, cases in known.items()
    }


def _letter(one: Judged) -> str:
    return f"## {one.case.name}: {one.label}, accuracy {one.accuracy:.2f}\n{one.case.text}\n\n{one.letter}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--half", choices=HALVES, help="one half, or another zoo drawn by --seed; both halves by default")
    add("--seed", type=int, default=0, help="of --half drawn (0)")
    add("--names", metavar="TEXT;...", help="only networks whose name contains one of these")
    add("--workers", type=int, default=2, help="processes, of one thread each (2)")
    add("--keep", type=Path, metavar="FOLDER", help="keep the runs there; what is there already is not trained again")
    add("--json", type=Path, metavar="FILE", help="write labels, settings and verdicts there as well")
    add("--letters", action="store_true", help="print what gradscope says of every network")
    return parser


if __name__ == "__main__":
    main()
