"""How deep can a network be and still learn? Measured on handwritten digits, beside what mean-field theory says.

    python examples/trainability_map.py                     156 networks of tanh: minutes on two cores
    python examples/trainability_map.py --activation softsign --weight-var 1 2 3 4 6 8

Weights of variance weight_var / fan_in and biases of variance bias_var decide over how many layers two inputs stay
apart: the depth scale xi_c. Networks much deeper than that do not learn (Schoenholz et al. 2017).
Stop it with Ctrl-C when you like: the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import gradscope as gs

DEPTHS = [4, 10, 16, 22, 30, 40, 50, 65, 80, 100, 125, 150]


def main() -> None:
    """Sweep depth and weight variance, print the accuracies, draw the map."""
    parser = argparse.ArgumentParser(description="Map which depths and weight variances can be trained.")
    parser.add_argument("--depth", type=int, nargs="+", default=DEPTHS, help="hidden layers")
    parser.add_argument("--weight-var", type=float, nargs="+", default=np.linspace(1, 4, 13).round(3).tolist())
    parser.add_argument("--bias-var", type=float, default=0.05)
    parser.add_argument("--activation", default="tanh")
    parser.add_argument("--width", type=int, default=100, help="units of a hidden layer")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--workers", type=int, default=2, help="worker processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/trainability"), help="folder of the sweep")
    options = parser.parse_args()

    runs = gs.sweep(
        gs.lab.train,
        out=options.out,
        workers=options.workers,
        depth=options.depth,
        weight_var=options.weight_var,
        bias_var=options.bias_var,
        activation=options.activation,
        width=options.width,
        steps=options.steps,
        lr=options.lr,
        batch_size=128,
        every=options.steps,
    )

    frame = gs.figures.trainability_frame(runs)
    print("Accuracy on held-out digits, by depth (down) and weight variance (across)\n")
    print(frame.pivot(index="depth", columns="weight_var", values="value").round(2).to_string())

    figure = options.out / "trainability.html"
    gs.figures.trainability_map(runs).write_html(figure)
    print(f"\nMap: {figure}. All of it: gradscope dashboard {options.out}")


if __name__ == "__main__":
    main()
