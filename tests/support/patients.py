"""Models that are sick, digits, and how they are tried."""

from __future__ import annotations

from typing import Any

from torch import nn

import gradscope as gs
from gradscope.at_rest import Trial

DIGITS = gs.lab.data.load("digits")
X, Y = DIGITS.x_train[:128], DIGITS.y_train[:128]
ALL = (
    "critical_init",
    "centered_lsuv",
    "change_activation",
    "normalize",
    "add_skips",
    "shallower",
    "scale_branches",
    "scale_loss",
    "lower_learning_rate",
    "raise_learning_rate",
    "clip_gradients",
)


def finding(*remedies: str, code: str = "vanishing") -> gs.Finding:
    return gs.Finding(code, "", "critical", (), (), {}, "", "", "", remedies)


def sigmoid() -> nn.Module:
    return gs.lab.mlp(8, 64, "sigmoid", "xavier", seed=0)


def relu() -> nn.Module:
    return gs.lab.mlp(20, 64, "relu", "xavier", seed=0)


def convolutions() -> nn.Module:
    return gs.lab.cnn(6, 16, "sigmoid", "xavier", seed=0)


def tried(model: nn.Module, *remedies: str, steps: int = 0, **settings: Any) -> Trial:
    return gs.trial(finding(*remedies), model, X, Y, steps=steps, **settings)
