"""The families of the zoo: what their members share, and what a draw may choose for each.

A family with a cause is built so that it should fail, one without so that it should learn. Neither makes a label:
that is the outcome's, or the injected fault's (`zoo.training`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.cases import Case

SETTINGS = ("optimizer", "lr", "batch", "steps", "loss_scale", "place", "seed")
ALL = ["identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softsign"]

Choices = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Family:
    """What members share, what they are drawn from, and how many are drawn."""

    cause: str = ""
    fault: str = ""
    network: str = "mlp"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    drawn: Choices = field(default_factory=dict)
    count: int = 1


def member(family: str, name: str = "", **given: Any) -> Case:
    """A member of a family: settings of the training by name, everything else goes to the network.

    >>> member("labels", depth=2, lr=0.1).options, member("labels", lr=0.1).lr
    ({'depth': 2}, 0.1)
    """
    one = FAMILIES[family]
    values = {**one.fixed, **given}
    settings = {key: values.pop(key) for key in SETTINGS if key in values}
    return Case(name or family, family, one.cause, one.fault, one.network, values, **settings)


SLOW: Choices = {"optimizer": ["sgd", "momentum"], "lr": [0.02, 0.05]}
STEADY: Choices = {"optimizer": ["momentum"], "lr": [0.01, 0.02]}
SOUND: Choices = {"depth": range(2, 7), "activation": ["relu", "leaky_relu"], "width": [32, 64, 128]}

FAMILIES: dict[str, Family] = {
    # Built to fail.
    "sigmoid": Family(
        "vanishing",
        fixed={"activation": "sigmoid", "init": "xavier"},
        count=3,
        drawn={"depth": range(5, 21), "width": [32, 64, 128, 256], "optimizer": ["sgd", "momentum"], "lr": [0.05, 0.1]},
    ),
    "default": Family(
        "vanishing",
        fixed={"init": "default"},
        count=3,
        drawn={
            "depth": range(14, 41),
            "activation": [one for one in ALL if one != "selu"],
            "width": [32, 64, 128],
            **SLOW,
        },
    ),
    "small weights": Family(
        "vanishing",
        fixed={"init": "normal"},
        count=2,
        drawn={"depth": range(4, 13), "activation": ALL, "std": [0.005, 0.01, 0.02], "width": [32, 64], **SLOW},
    ),
    "half gain": Family(
        "vanishing",
        fixed={"init": "xavier"},
        count=2,
        drawn={"depth": range(25, 61), "activation": ["relu", "leaky_relu", "gelu", "silu"], "width": [32, 64], **SLOW},
    ),
    "deep cnn": Family(
        "vanishing",
        network="cnn",
        fixed={"init": "default"},
        count=2,
        drawn={"depth": range(10, 17), "activation": ["relu", "tanh", "gelu", "sigmoid"], "width": [8, 12], **SLOW},
    ),
    "four times the variance": Family(
        "exploding",
        count=2,
        drawn={
            "depth": range(15, 41),
            "activation": ["relu", "leaky_relu"],
            "weight_var": [8.0],
            "width": [32, 64],
            **SLOW,
        },
    ),
    "chaos": Family(
        "chaos",
        count=2,
        drawn={
            "depth": range(15, 41),
            "activation": ["tanh", "softsign"],
            "weight_var": [9.0, 12.0, 16.0],
            "width": [64],
            **SLOW,
        },
    ),
    "batch norm, no skips": Family(
        "normalization",
        fixed={"norm": "batch", "width": 64},
        count=1,
        drawn={"depth": range(40, 61), "activation": ["relu", "gelu"], "init": ["kaiming", "default"], **SLOW},
    ),
    "plain skips": Family(
        "exploding",
        fixed={"residual": True, "init": "kaiming"},
        count=1,
        drawn={"depth": range(35, 61), "activation": ["relu", "leaky_relu"], "width": [32, 64], **SLOW},
    ),
    "huge steps": Family(
        "huge updates",
        fixed={"init": "kaiming"},
        count=2,
        drawn={
            "depth": range(2, 7),
            "activation": ["relu", "tanh", "gelu"],
            "optimizer": ["sgd"],
            "lr": [10.0, 20.0, 50.0],
        },
    ),
    "tiny steps": Family(
        "tiny updates",
        fixed={"init": "kaiming"},
        count=2,
        drawn={
            "depth": range(2, 7),
            "activation": ["relu", "tanh", "elu"],
            "optimizer": ["sgd", "adam"],
            "lr": [1e-8, 1e-7, 1e-6],
        },
    ),
    "saturated": Family(
        "saturation",
        count=2,
        drawn={"depth": range(5, 13), "activation": ["tanh", "sigmoid"], "weight_var": [400.0, 900.0, 2500.0], **SLOW},
    ),
    "negative biases": Family(
        "dead",
        fixed={"activation": "relu", "init": "kaiming"},
        count=1,
        drawn={"depth": range(6, 16), "bias": [-1.5, -1.0], "width": [32, 64], **SLOW},
    ),
    "half precision": Family(
        "underflow",
        fixed={"dtype": "float16", "init": "kaiming", "optimizer": "sgd", "lr": 0.05},
        count=1,
        drawn={"depth": range(2, 6), "activation": ["relu", "tanh"], "loss_scale": [1e-7, 1e-6, 1e-5]},
    ),
    "all weights zero": Family(
        "zero weights",
        fixed={"init": "normal", "std": 0.0},
        count=1,
        drawn={"depth": range(2, 9), "activation": ["relu", "tanh", "gelu"], **SLOW},
    ),
    # Broken on purpose.
    "detached": Family("cut", "detached", fixed={"init": "kaiming"}, drawn={**SOUND, **SLOW, "place": [0, 1]}, count=2),
    "dead relu": Family(
        "dead",
        "dead",
        fixed={"activation": "relu", "init": "kaiming"},
        count=2,
        drawn={"depth": range(2, 9), "width": [32, 64, 128], "place": [0, 1, -1], **SLOW},
    ),
    "nan": Family("non-finite", "nan", fixed={"init": "kaiming"}, drawn={**SOUND, **SLOW, "place": range(20, 150)}),
    "infinite input": Family(
        "non-finite", "infinite", fixed={"init": "kaiming"}, drawn={**SOUND, **SLOW, "place": range(20, 150)}
    ),
    "a layer of zeros": Family(
        "zero weights",
        "zeros",
        fixed={"init": "kaiming"},
        drawn={"depth": range(3, 9), "activation": ["relu", "leaky_relu", "identity"], "place": [1, 2], **SLOW},
    ),
    "labels": Family(
        "labels",
        "labels",
        drawn={"depth": range(2, 7), "activation": ["relu", "tanh"], "init": ["kaiming", "xavier"], **SLOW},
    ),
    "blank": Family("blank", "blank", drawn={"depth": range(2, 7), "activation": ["relu", "tanh", "sigmoid"], **SLOW}),
    # Built to learn.
    "shallow": Family(
        count=5,
        drawn={
            "depth": range(1, 5),
            "activation": [one for one in ALL if one != "sigmoid"],
            "init": ["xavier", "kaiming", "lecun_normal"],
            "width": [16, 32, 64, 128, 256, 512],
            "optimizer": ["momentum", "adam"],
            "lr": [0.003],
        },
    ),
    "deep and critical": Family(
        count=2,
        fixed={"init": "kaiming"},
        drawn={"depth": range(10, 21), "activation": ["relu", "leaky_relu"], "width": [64, 128], **STEADY},
    ),
    "deep and orthogonal": Family(
        count=2,
        fixed={"init": "orthogonal"},
        drawn={"depth": range(15, 61), "activation": ["tanh", "identity"], "width": [64], **STEADY},
    ),
    "self-normalizing": Family(
        fixed={"activation": "selu", "init": "lecun_normal"},
        drawn={"depth": range(6, 21), "width": [64, 128], **STEADY},
    ),
    "converged": Family(
        count=2,
        fixed={"optimizer": "adam", "steps": 700, "batch": 64},
        drawn={
            "depth": range(2, 6),
            "activation": ["relu", "tanh", "gelu"],
            "init": ["kaiming", "xavier"],
            "lr": [0.002, 0.004],
        },
    ),
    "drifting": Family(
        count=2,
        fixed={"steps": 300},
        drawn={
            "depth": range(6, 11),
            "activation": ["relu", "tanh", "selu"],
            "init": ["lecun_normal", "kaiming"],
            "width": [64, 128],
            **STEADY,
        },
    ),
    "wide sigmoid": Family(
        count=2,
        fixed={"activation": "sigmoid", "init": "xavier", "gain": 4.0, "steps": 300},
        drawn={"depth": range(3, 8), "optimizer": ["adam"], "lr": [0.003, 0.005]},
    ),
    "sigmoid and Adam": Family(
        fixed={"activation": "sigmoid", "init": "xavier", "optimizer": "adam", "steps": 300},
        drawn={"depth": [2, 3], "lr": [0.01, 0.02], "width": [64, 128]},
    ),
    "batch norm": Family(
        count=2,
        fixed={"norm": "batch"},
        drawn={
            "depth": range(3, 11),
            "activation": ALL,
            "init": ["default", "kaiming"],
            "optimizer": ["momentum", "adam"],
            "lr": [0.005, 0.01],
        },
    ),
    "layer norm": Family(
        fixed={"norm": "layer"},
        drawn={
            "depth": range(3, 13),
            "activation": ["relu", "tanh", "gelu", "silu"],
            "optimizer": ["momentum", "adam"],
            "lr": [0.003],
        },
    ),
    "skips": Family(
        count=2,
        fixed={"residual": True, "init": "default", "optimizer": "adam"},
        drawn={
            "depth": range(8, 41),
            "activation": ["relu", "tanh", "gelu"],
            "norm": ["none", "layer"],
            "lr": [0.001, 0.002],
        },
    ),
    "cnn": Family(
        count=3,
        network="cnn",
        drawn={
            "depth": range(2, 5),
            "activation": ["relu", "leaky_relu", "elu", "gelu", "tanh"],
            "norm": ["none", "batch"],
            "init": ["kaiming", "default"],
            "width": [8, 16],
            "optimizer": ["adam"],
            "lr": [0.003, 0.005],
        },
    ),
    "slow but learning": Family(
        count=2,
        fixed={"init": "kaiming", "steps": 500},
        drawn={"depth": [1, 2, 3], "activation": ["relu", "tanh", "elu"], "optimizer": ["sgd"], "lr": [0.02, 0.03]},
    ),
    "other precisions": Family(
        fixed={"init": "kaiming"},
        drawn={
            "depth": range(2, 5),
            "activation": ["relu", "tanh"],
            "dtype": ["bfloat16", "float64"],
            "optimizer": ["momentum"],
            "lr": [0.02],
        },
    ),
}
