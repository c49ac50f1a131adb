"""Record a metric of your own: how unevenly the error signal is spread over a layer's units.

    python examples/custom_metric.py

The names of a metric's parameters say what it gets: see SIGNALS in gradscope.signals. It appears in the run,
in the figures and in the dashboard without another line.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor
from torch.nn import functional

import gradscope as gs
from gradscope.lab.data import batches, load


@gs.metric(label="Share of the largest unit", bounds=(0.0, 1.0), degree=0, formula="max_i |g_i|^2 / |g|^2")
def largest_unit_share(output_grad: Tensor) -> Tensor:
    """Share of the squared error signal that one unit carries: 1 / units where all carry the same."""
    by_unit = output_grad.double().square().sum(dim=0)
    return by_unit.max() / by_unit.sum()


def main() -> None:
    """Train with the metric, then read it."""
    parser = argparse.ArgumentParser(description="Record a metric of your own.")
    parser.add_argument("--depth", type=int, default=6, help="hidden layers")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=int, default=20, help="record the steps that are multiples of this")
    parser.add_argument("--out", default="runs/custom", help="folder of the run")
    options = parser.parse_args()

    model = gs.lab.mlp(depth=options.depth, activation="relu", init="kaiming", seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    metrics = ["backward", "largest_unit_share"]  # "default" includes it too
    with gs.watch(model, optimizer, out=options.out, every=options.every, metrics=metrics) as probe:
        for x, y in batches(load("digits"), 64, options.steps):
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)

    run = gs.load(options.out)
    assert isinstance(run, gs.Run)
    print(run.metrics["largest_unit_share"].doc)
    print("A row a step, a column a layer:\n")
    print(run.frame("largest_unit_share").round(3).to_string())


if __name__ == "__main__":
    main()
