"""A deep network of sigmoids forgets its input before it is trained; with a remedy it does not.

    python examples/information_remedy.py

What each layer tells of 512 digits and of their labels, in noise of a declared variance, before any training: of the
network as it is, and with two remedies that draw its weights anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import gradscope as gs

METRICS = ("input_information", "label_information", "effective_rank", "label_accuracy")


def main() -> None:
    """Find what is wrong, try its remedies, and measure the information in every layer before and after."""
    parser = argparse.ArgumentParser(description="Measure what layers know of digits, before and after a remedy.")
    parser.add_argument("--depth", type=int, default=8, help="hidden layers")
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--remedies", nargs="+", default=["centered_lsuv", "critical_init"], help="which to measure")
    parser.add_argument("--noise-var", type=float, default=0.1, help="variance of the noise, per unit")
    parser.add_argument("--out", type=Path, default=Path("runs/remedy"), help="folder of table and pictures")
    options = parser.parse_args()

    digits = gs.lab.data.load("digits")
    x, y = digits.x_train[: options.samples], digits.y_train[: options.samples]
    model = gs.lab.mlp(depth=options.depth, activation="sigmoid", init="xavier", seed=0)

    # Gradient and spread between samples over depth, in decades, before and with each remedy.
    trial = gs.trial(gs.preflight(model, x, y), model, x, y)
    print(trial, end="\n\n")

    options.out.mkdir(parents=True, exist_ok=True)
    networks = {"as it is": model} | {one.remedy: one.model for one in trial.ranked if one.code in options.remedies}
    told = []
    for name, network in networks.items():
        frame = gs.information_of(network, x, y, metrics=METRICS, noise_var=options.noise_var)
        told.append(frame.assign(network=name))
        picture = options.out / f"{name.replace(' ', '_')}.html"
        gs.figures.information_by_depth(frame).write_html(picture)
        print(f"{name}: {picture}")

    table = pd.concat(told)
    table.to_csv(options.out / "information.csv", index=False)
    print("\nInformation about the input, in nats, in noise of variance", options.noise_var)
    print(wide(table, "input_information"))
    print("\nShare of labels that a linear reader names right")
    print(wide(table, "label_accuracy"))


def wide(table: pd.DataFrame, metric: str) -> str:
    """Return a metric by depth, one column for each network."""
    rows = table[table["metric"] == metric]
    return str(rows.pivot(index="depth", columns="network", values="value").round(3).to_string())


if __name__ == "__main__":
    main()
