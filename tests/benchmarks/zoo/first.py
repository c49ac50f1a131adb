"""The first half of the zoo, fixed by hand."""

from __future__ import annotations

from zoo.cases import Case
from zoo.families import member


def first() -> list[Case]:
    """Every network of the first half."""
    return [*sick(), *broken(), *healthy()]


def sick() -> list[Case]:
    """Built to fail; whether they do, the outcome says."""
    return [
        member("sigmoid", "sigmoid 4", depth=4, width=64, lr=0.1, seed=1),
        member("sigmoid", "sigmoid 6, loss x 1e-3", depth=6, width=64, lr=0.1, loss_scale=1e-3, seed=2),
        member("sigmoid", "sigmoid 8, wide", depth=8, width=256, lr=0.1, batch=32, steps=150, seed=3),
        member("sigmoid", "sigmoid 20, SGD", depth=20, width=64, optimizer="sgd", lr=0.1, batch=256, loss_scale=100.0),
        member("default", "default tanh 30", depth=30, activation="tanh", lr=0.02, seed=4),
        member("default", "default relu 16", depth=16, activation="relu", lr=0.02, batch=128, seed=5),
        member("default", "default silu 20, loss x 1e3", depth=20, activation="silu", loss_scale=1e3, seed=6),
        member("default", "default sigmoid 5", depth=5, activation="sigmoid", lr=0.1, seed=7),
        member("small weights", "small gelu 5", depth=5, activation="gelu", std=0.01, seed=8),
        member("small weights", "small elu 10", depth=10, activation="elu", std=0.01, width=32, batch=16, seed=9),
        member("half gain", "xavier relu 40", depth=40, activation="relu", lr=0.02, seed=10),
        member("half gain", "xavier gelu 30, loss x 1e-4", depth=30, activation="gelu", lr=0.02, loss_scale=1e-4),
        member("deep cnn", "default cnn 14", depth=14, activation="relu", width=12, lr=0.02, steps=150),
        member("deep cnn", "sigmoid cnn 5", depth=5, activation="sigmoid", width=12, lr=0.05, steps=150),
        member("four times the variance", "relu variance 8, 30", depth=30, activation="relu", weight_var=8.0),
        member(
            "four times the variance",
            "leaky variance 8, 20",
            depth=20,
            activation="leaky_relu",
            weight_var=8.0,
            optimizer="sgd",
            loss_scale=10.0,
        ),
        member("chaos", "tanh variance 16, 30", depth=30, activation="tanh", weight_var=16.0, lr=0.02, seed=11),
        member("batch norm, no skips", "batch norm relu 60", depth=60, activation="relu", width=64, lr=0.05, batch=32),
        member("plain skips", "plain skips relu 50", depth=50, activation="relu", width=64, lr=0.05),
        member("huge steps", "relu 4, lr 50", depth=4, activation="relu", optimizer="sgd", lr=50.0),
        member("huge steps", "tanh 3, lr 20", depth=3, activation="tanh", optimizer="sgd", lr=20.0, loss_scale=1e-2),
        member("tiny steps", "relu 3, lr 1e-7", depth=3, activation="relu", optimizer="sgd", lr=1e-7),
        member(
            "tiny steps", "tanh 2, Adam 1e-8", depth=2, activation="tanh", optimizer="adam", lr=1e-8, loss_scale=10.0
        ),
        member("saturated", "tanh gain 20", depth=8, activation="tanh", weight_var=400.0, lr=0.02),
        member("saturated", "sigmoid gain 50", depth=10, activation="sigmoid", weight_var=2500.0, lr=0.02, batch=128),
        member("negative biases", "bias -1, relu 10", depth=10, bias=-1.0),
        member("half precision", "float16, loss x 1e-6", depth=4, activation="relu", loss_scale=1e-6),
        member("all weights zero", "zero weights, tanh 3", depth=3, activation="tanh"),
    ]


def broken() -> list[Case]:
    """Broken on purpose: sick by that."""
    return [
        member("detached", "detached after layer 2", depth=5, activation="relu", place=1, lr=0.02),
        member("detached", "detached after layer 1, loss x 1e-2", depth=3, activation="leaky_relu", loss_scale=1e-2),
        member("dead relu", "dead everywhere", depth=6, place=-1),
        member("dead relu", "dead layer 2", depth=4, place=1, batch=256),
        member("nan", "NaN at step 60", depth=4, activation="relu", place=60),
        member("infinite input", "infinite input at step 45", depth=3, activation="relu", place=45, loss_scale=1e-3),
        member("a layer of zeros", "layer 3 is zero", depth=5, activation="relu", place=2),
        member("labels", "labels at random", depth=3, activation="relu", init="kaiming"),
        member("blank", "blank inputs", depth=3, activation="tanh"),
    ]


def healthy() -> list[Case]:
    """Built to learn; whether they do, the outcome says."""
    return [
        member("shallow", "tanh 2", depth=2, activation="tanh", init="xavier"),
        member("shallow", "relu 3, loss x 1e-4", depth=3, activation="relu", init="kaiming", loss_scale=1e-4),
        member("shallow", "gelu 3, loss x 1e3", depth=3, activation="gelu", init="kaiming", loss_scale=1e3, lr=0.02),
        member(
            "shallow", "softsign 3, Adam", depth=3, activation="softsign", init="xavier", optimizer="adam", lr=0.003
        ),
        member("shallow", "linear 4", depth=4, activation="identity", init="xavier", lr=0.02),
        member("shallow", "silu 2, wide", depth=2, activation="silu", init="kaiming", width=512, batch=32, lr=0.02),
        member(
            "shallow",
            "elu 2, narrow, batch 16",
            depth=2,
            activation="elu",
            init="lecun_normal",
            width=16,
            batch=16,
            lr=0.01,
        ),
        member("shallow", "leaky 2, batch 512", depth=2, activation="leaky_relu", init="kaiming", batch=512),
        member("deep and critical", "relu 20, He", depth=20, activation="relu", lr=0.01, width=128),
        member("deep and orthogonal", "tanh 40, orthogonal", depth=40, activation="tanh", lr=0.01),
        member("deep and orthogonal", "linear 50, orthogonal", depth=50, activation="identity", lr=0.005),
        member("self-normalizing", "selu 12", depth=12, lr=0.01, seed=3),
        member("converged", "relu 4, converged", depth=4, activation="relu", init="kaiming", lr=0.003, steps=1000),
        member("converged", "tanh 3, converged", depth=3, activation="tanh", init="xavier", lr=0.003, loss_scale=1e-2),
        member("drifting", "relu 10, drift", depth=10, activation="relu", init="kaiming", lr=0.02),
        member("drifting", "tanh 8, drift", depth=8, activation="tanh", init="lecun_normal", lr=0.02, loss_scale=1e2),
        member("drifting", "selu 8, drift", depth=8, activation="selu", init="lecun_normal", lr=0.01),
        member("wide sigmoid", "sigmoid 6, four times Xavier", depth=6, optimizer="adam", lr=0.005),
        member("wide sigmoid", "sigmoid 4, four times Xavier", depth=4, lr=0.1),
        member("sigmoid and Adam", "sigmoid 3, Adam", depth=3, lr=0.01),
        member("batch norm", "batch norm relu 8", depth=8, activation="relu"),
        member("batch norm", "batch norm sigmoid 5", depth=5, activation="sigmoid", loss_scale=1e-3),
        member("layer norm", "layer norm gelu 8", depth=8, activation="gelu", lr=0.02),
        member("skips", "skips tanh 30", depth=30, activation="tanh", lr=0.001),
        member("skips", "skips relu 12, layer norm", depth=12, activation="relu", norm="layer", lr=0.002),
        member("cnn", "cnn relu 3", depth=3, activation="relu", optimizer="adam", lr=0.005),
        member(
            "cnn",
            "cnn batch norm 4",
            depth=4,
            activation="relu",
            norm="batch",
            optimizer="adam",
            lr=0.003,
            loss_scale=10.0,
        ),
        member("slow but learning", "relu 2, slow", depth=2, activation="relu", optimizer="sgd", lr=0.02),
        member("other precisions", "bfloat16", depth=3, activation="relu", dtype="bfloat16", lr=0.02),
    ]
