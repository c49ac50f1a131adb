"""What the information panel costs: 1,024 samples of 20 layers of 512 units.

    python tests/benchmarks/panel.py

Seconds of the clock and of the processor, for the default metrics and for all of them.
"""

from __future__ import annotations

import time

import numpy as np
from rich.console import Console
from rich.table import Table

from gradscope import information

SAMPLES, LAYERS, UNITS, INPUTS, CLASSES = 1024, 20, 512, 784, 10


def layers(x: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the activations of a deep tanh network at a little above the edge of chaos."""
    found, hidden = {}, x
    for place in range(LAYERS):
        weights = random.standard_normal((hidden.shape[1], UNITS)) * 1.1 / np.sqrt(hidden.shape[1])
        hidden = np.tanh(hidden @ weights)
        found[f"layer {place + 1}"] = hidden.astype(np.float32)
    return found


def main() -> None:
    """Print the table."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((SAMPLES, INPUTS)), random.integers(0, CLASSES, SAMPLES)
    network = layers(x, random)
    table = Table(
        "metrics", "seconds", "of the processor", title=f"{LAYERS} layers of {UNITS} units, {SAMPLES} samples"
    )
    for metrics in ("default", "all"):
        clock, processor = time.perf_counter(), time.process_time()
        information.panel(network, x, y, metrics=metrics, progress=metrics == "all")
        spent = time.perf_counter() - clock, time.process_time() - processor
        table.add_row(metrics, *(f"{one:.2f}" for one in spent))
    Console().print(table)


if __name__ == "__main__":
    main()
