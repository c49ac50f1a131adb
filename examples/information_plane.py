"""How much of an information plane is the network, and how much the estimator? On a task whose answer is known.

The data are all 4,096 patterns of 12 bits, after Shwartz-Ziv and Tishby (2017). Written as -1 and +1 on a ring,
u = sum_d (60 / d) sum_i s_i s_(i+d), d = 1 to 6: near bits that agree count most. The label is 1 where u is above its
median; rotations, reflections and the negative of a pattern have the same. So H(X) = 12 bits and I(X;Y) = H(Y).
A layer of tanh maps no two patterns to one point: in truth its I(X;T) is always 12 bits, its I(T;Y) always H(Y).
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

import gradscope as gs

SIZES = (12, 10, 7, 5, 4, 3)
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "ReLU": nn.ReLU}


def task() -> tuple[Tensor, Tensor]:
    """Return all patterns of 12 bits as -1 and +1, and their labels."""
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=12)))
    u = torch.stack([60 // d * (x * x.roll(d, 1)).sum(1) for d in range(1, 7)]).sum(0)
    return x, (u > u.median()).long()


def points(model: nn.Sequential, x: Tensor, y: Tensor, bounds: tuple[float, float] | None) -> pd.DataFrame:
    """Return where the hidden layers lie in the planes now."""
    ends = range(2, len(model), 2)
    with torch.no_grad():
        layers = {f"{SIZES[end // 2]} units": model[:end](x).numpy() for end in ends}
    return gs.information.planes(layers, y.numpy(), bins=(10, 30, 100), bounds=bounds, noise_var=0.1, unit="bits")


def main() -> None:
    """Train with each activation function, measure now and then, draw the planes."""
    parser = argparse.ArgumentParser(description="Draw the information plane by several estimators side by side.")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--moments", type=int, default=50, help="how often to measure, dense at the start")
    parser.add_argument("--out", type=Path, default=Path("runs/information"), help="folder of table and picture")
    options = parser.parse_args()

    x, y = task()
    share = float(y.double().mean())
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    print(f"H(X) = {np.log2(len(x)):.0f} bits, P(Y=1) = {share:.6f}, I(X;Y) = H(Y) = {entropy:.6f} bits")
    moments = {0, *np.geomspace(1, options.steps, options.moments).astype(int).tolist()}
    frames = []
    for name, activation in ACTIVATIONS.items():
        torch.manual_seed(0)
        parts = [part for pair in itertools.pairwise(SIZES) for part in (nn.Linear(*pair), activation())]
        model = nn.Sequential(*parts, nn.Linear(SIZES[-1], 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
        for step in track(range(options.steps + 1), name, console=Console(stderr=True)):
            if step in moments:
                bounds = (-1.0, 1.0) if name == "tanh" else None  # ReLU: its least and greatest output
                frames.append(points(model, x, y, bounds).assign(run=name, step=step))
            chosen = torch.randint(len(x), (256,))
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(model(x[chosen]), y[chosen]))
            optimizer.step()
        print(f"{name}: {float((model(x).argmax(1) == y).double().mean()):.1%} of all patterns right")

    options.out.mkdir(parents=True, exist_ok=True)
    pd.concat(frames).to_csv(options.out / "planes.csv", index=False)
    gs.figures.information_planes(pd.concat(frames)).write_html(options.out / "planes.html")
    print(f"Picture and numbers: {options.out / 'planes.html'}, planes.csv")


if __name__ == "__main__":
    main()
