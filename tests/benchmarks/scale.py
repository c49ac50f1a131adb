"""Write runs of a hundred million values, read them back and open their page: are memory, files and waiting bounded?

    python tests/benchmarks/scale.py [--values 100] [--shape wide long] [--out FOLDER]

Two shapes with the same number of values: `wide` has 1,000 layers, `long` up to a million recorded steps of 5 layers;
20 metrics each. Prints a row for every tenth written, resident memory and size on disk in MB; then the seconds and
resident MB of each way of reading, every one in a process of its own, and what the dashboard sends for the run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gradscope as gs
from gradscope.runs import Writer
from gradscope.runs.ledger import NEXT, OUTPUT, OWN
from gradscope.spec import LayerSpec, MetricSpec

SHAPES = {"wide": 1000, "long": 5}
"""Layers of each shape."""
METRICS = [
    MetricSpec(name, name.replace("_", " ").capitalize(), scale="log", dtype="float64" if number < 6 else "float32")
    for number, name in enumerate((OUTPUT, OWN, NEXT, *(f"metric_{number}" for number in range(17))))
]
FLUSHED = 50_000
"""Values between two flushes: what a training that is no slower than 20 us a value gathers in a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=float, default=100.0, help="millions of values")
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.out or Path(tempfile.mkdtemp())
    for shape in arguments.shape:
        steps = round(arguments.values * 1e6 / SHAPES[shape] / len(METRICS))
        path = folder / shape
        print(f"\n{shape}: {SHAPES[shape]} layers x {len(METRICS)} metrics x {steps} steps")
        apart(write, path, SHAPES[shape], steps)
        for name in READS:
            apart(timed, name, path)


def apart(work: Callable[..., None], *arguments: Any) -> None:
    """Work in a process of its own, so that one measurement does not see the memory of another."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()


def write(path: Path, layers: int, steps: int) -> None:
    writer = Writer(path, metrics=METRICS, name=path.name)
    chain = [(place - 1,) if place else () for place in range(layers)]
    writer.describe(
        [
            LayerSpec(id=place, layer=f"net.{place}", call=1, depth=place + 1, parents=chain[place])
            for place in range(layers)
        ]
    )
    block = max(1, FLUSHED // len(METRICS) // layers)
    rng = np.random.default_rng(0)
    noise = np.exp(rng.normal(size=(block * layers, len(METRICS))))
    present = np.ones(noise.shape, np.bool_)
    ids = np.tile(np.arange(layers, dtype=np.int32), block)
    print("    steps   seconds  longest pause s   resident MB   on disk MB   parts")
    start, pauses = time.perf_counter(), [0.0]
    for first in range(0, steps, block):
        count = min(block, steps - first)
        rows = count * layers
        values = noise[:rows] * (1.0 + first / steps)
        values[:, 0] *= np.exp(-ids[:rows] / layers)
        began = time.perf_counter()
        writer.rows(np.repeat(np.arange(first, first + count), layers), ids[:rows], values, present[:rows])
        for step in range(first, first + count, max(1, steps // 100_000)):
            writer.scalars(step, {"loss": 1.0 / (1 + step)})
        writer.flush()
        pauses.append(time.perf_counter() - began)
        if (first + count) * 10 // steps > first * 10 // steps:
            seconds, parts = time.perf_counter() - start, len(list((path / "layers").glob("*.parquet")))
            size = sum(part.stat().st_size for part in path.rglob("*.parquet")) / 1e6
            print(
                f"{first + count:9d} {seconds:9.1f} {max(pauses):16.2f} {resident():13.0f} {size:12.0f} {parts:7d}",
                flush=True,
            )
    writer.close()


def timed(name: str, path: Path) -> None:
    before = resident()
    start = time.perf_counter()
    result = READS[name](path)
    seconds = time.perf_counter() - start
    print(f"{name:28s} {seconds:8.2f} s {resident() - before:8.0f} MB more   {result}", flush=True)


def frame(path: Path) -> str:
    return f"shape {gs.Run(path).frame('metric_0').shape}"


def refreshed(path: Path) -> str:
    run = gs.Run(path)
    start = time.perf_counter()
    for _ in range(100):
        run.refresh()
    return f"of which one refresh {(time.perf_counter() - start) * 10:.2f} ms"


def page(path: Path) -> str:
    from gradscope.dashboards.pages import flow
    from gradscope.dashboards.source import Source
    from gradscope.dashboards.state import FlowState

    shown = flow.answer(Source(str(path)), FlowState(), "light")
    sizes = {name: len(shown[name].to_json()) / 1e3 for name in flow.GRAPHS}
    return "kB: " + json.dumps({name: round(size) for name, size in sizes.items()})


def table(path: Path) -> int:
    runs = gs.load(path.parent)
    assert isinstance(runs, gs.Runs)
    return len(runs.table())


READS: dict[str, Callable[[Path], Any]] = {
    "load": gs.load,
    "load, 100 x refresh": refreshed,
    "one metric as a frame": frame,
    "profile of the first step": lambda path: len(gs.Run(path).profile("metric_0")),
    "decay of the first step": lambda path: f"{gs.Run(path).decay().rate:.3f}",
    "ledger of the first step": lambda path: len(gs.Run(path).ledger()),
    "ledger of the last step": lambda path: len(gs.Run(path).ledger(gs.Run(path).steps()[-1])),
    "table of the folder": table,
    "last loss": lambda path: f"{gs.Run(path).final('loss'):.2g}",
    "diagnosis": lambda path: len(gs.diagnose(gs.Run(path))),
    "gradient flow page": page,
}


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


if __name__ == "__main__":
    main()
