"""Train networks of several depths and activations in parallel, and see how deep each one can be.

    python examples/depth_sweep.py

Stop it with Ctrl-C when you like: the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gradscope as gs


def main() -> None:
    """Sweep, print a table, draw the map."""
    parser = argparse.ArgumentParser(description="Sweep depth and activation on handwritten digits.")
    parser.add_argument("--depth", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    parser.add_argument("--activation", nargs="+", default=["sigmoid", "tanh", "relu"])
    parser.add_argument("--seeds", type=int, default=2, help="runs of each combination")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2, help="worker processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/depth"), help="folder of the sweep")
    options = parser.parse_args()

    # Lists are combined in every way. Any function train(*, out, **config) that writes a run into `out` will do.
    runs = gs.sweep(
        gs.lab.train,
        out=options.out,
        workers=options.workers,
        depth=options.depth,
        activation=options.activation,
        init="xavier",
        seed=range(options.seeds),
        steps=options.steps,
    )

    table = runs.table()
    mean = table.groupby(["activation", "depth"], sort=False)[["decay", "decades", "final_loss"]].mean()
    print("Means over the seeds: factor of the gradient per layer, decades in all, loss at the end\n")
    print(mean.round(3).to_string())

    figure = options.out / "map.html"
    gs.figures.sweep_map(runs).write_html(figure)
    print(f"\nMap: {figure}. All of it: gradscope dashboard {options.out}")


if __name__ == "__main__":
    main()
