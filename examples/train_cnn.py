"""Watch a convolutional network with batch normalization and a skip while its learning rate drops.

    python examples/train_cnn.py

It leaves a run in runs/cnn and, beside its tables, two figures that open in any browser.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import gradscope as gs
from gradscope.lab.data import batches, load


class Net(nn.Module):
    """Three convolutions, the second with a skip around it, and a linear head."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(size) for size in (channels, channels, 2 * channels))
        self.head = nn.Linear(2 * channels * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of pictures of 8 x 8; functional activations are recognised like modules."""
        x = functional.relu(self.norms[0](self.stem(x)))
        x = x + functional.relu(self.norms[1](self.inner(x)))
        x = functional.max_pool2d(x, 2)
        x = functional.relu(self.norms[2](self.outer(x)))
        return torch.as_tensor(self.head(functional.max_pool2d(x, 2).flatten(1)))


def main() -> None:
    """Train, then draw two figures."""
    parser = argparse.ArgumentParser(description="Watch a convolutional network on handwritten digits.")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=5, help="record the steps that are multiples of this")
    parser.add_argument("--out", type=Path, default=Path("runs/cnn"), help="folder of the run")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    drop = 2 * options.steps // 3

    with gs.watch(model, optimizer, out=options.out, every=options.every, config={"lr": 0.1}) as probe:
        for step, (x, y) in enumerate(batches(load("digits"), 64, options.steps)):
            if step == drop:
                optimizer.param_groups[0]["lr"] = 0.01
                probe.event("learning rate 0.01")
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)
            if step % 50 == 0:
                print(f"step {step} of {options.steps}: loss {loss.item():.3f}")

    run = gs.load(options.out)
    assert isinstance(run, gs.Run)
    print(run.layers[["depth", "layer", "parents", "kind", "activation", "norm"]].to_string(index=False))
    gs.figures.heatmap(run, "update_ratio").write_html(options.out / "update_ratio.html")
    gs.figures.timeline(run, "zero_fraction").write_html(options.out / "zero_fraction.html")
    print(f"\nFigures: {options.out / 'update_ratio.html'}, {options.out / 'zero_fraction.html'}")


if __name__ == "__main__":
    main()
