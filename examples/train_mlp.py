"""Watch a fully connected network on handwritten digits, and ask what goes wrong.

    python examples/train_mlp.py                       sigmoid, 12 layers: the gradient vanishes
    python examples/train_mlp.py --activation relu     kaiming initialization: it does not

Look at the run afterwards, or while it trains: gradscope dashboard runs/mlp
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.nn import functional

import gradscope as gs
from gradscope.lab.data import batches, load

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


def build(depth: int, width: int, activation: str) -> nn.Sequential:
    """Return a network of plain PyTorch modules; nothing in it knows of gradscope."""
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(depth):
        linear = nn.Linear(64 if index == 0 else width, width)
        if activation == "relu":
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
        else:
            nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def main() -> None:
    """Train, then read the run back."""
    parser = argparse.ArgumentParser(description="Watch a fully connected network on handwritten digits.")
    parser.add_argument("--depth", type=int, default=12, help="hidden layers")
    parser.add_argument("--width", type=int, default=64, help="units of a hidden layer")
    parser.add_argument("--activation", choices=ACTIVATIONS, default="sigmoid")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=10, help="record the steps that are multiples of this")
    parser.add_argument("--out", default="runs/mlp", help="folder of the run")
    options = parser.parse_args()

    torch.manual_seed(0)
    digits = load("digits")
    model = build(options.depth, options.width, options.activation)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    with gs.watch(model, optimizer, out=options.out, every=options.every, config=vars(options)) as probe:
        for step, (x, y) in enumerate(batches(digits, 64, options.steps), start=1):
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)
            if step % 100 == 0:
                print(f"step {step} of {options.steps}: loss {loss.item():.3f}")

    run = gs.load(options.out)
    assert isinstance(run, gs.Run)
    decay = run.decay(step=0)
    print(f"\nAt step 0 each layer multiplies the gradient by {decay.rate:.3f} ({decay.low:.3f} to {decay.high:.3f}).")
    print("Which factor is to blame? Gains of each layer, towards the input:\n")
    print(run.ledger(step=0)[["weight_gain", "activation_gain"]].round(3).to_string())
    print(f"\n{gs.diagnose(run)}")


if __name__ == "__main__":
    main()
