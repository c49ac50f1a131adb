"""Training: what is logged and kept, seeds, networks of one's own, messages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradscope.errors import GradscopeError, RunExistsError
from gradscope.lab import mlp, train
from gradscope.lab.data import Data, load
from gradscope.lab.models import cnn
from gradscope.runs import Run

LEAN: dict[str, Any] = {"metrics": ["output_grad_norm"], "every": 1, "steps": 3, "width": 8, "depth": 2}


def losses(run: Run) -> list[float]:
    scalars = run.scalars
    return list(scalars.loc[scalars["name"] == "loss", "value"])


def test_a_run_holds_every_hyper_parameter(tmp_path: Path) -> None:
    run = train(out=tmp_path / "a", **LEAN, activation="relu", init="kaiming", seed=4)
    assert run.status == "finished"
    assert run.config == {
        "data": "digits",
        "model": "mlp",
        "depth": 2,
        "width": 8,
        "activation": "relu",
        "init": "kaiming",
        "norm": "none",
        "residual": False,
        "bias": True,
        "weight_var": None,
        "bias_var": None,
        "gain": None,
        "std": 0.01,
        "dtype": None,
        "steps": 3,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.0,
        "every": 1,
        "seed": 4,
    }
    assert list(run.layers["layer"]) == ["hidden.0.linear", "hidden.1.linear", "head"]
    assert run.steps() == [0, 1, 2]


def test_loss_and_accuracy_are_logged_each_step_and_at_the_end(tmp_path: Path) -> None:
    scalars = train(out=tmp_path / "a", **LEAN).scalars
    assert scalars.groupby("name")["step"].apply(list).to_dict() == {
        "accuracy": [0, 1, 2],
        "loss": [0, 1, 2],
        "test_accuracy": [2],
        "test_loss": [2],
    }


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("mlp", {"depth": 2, "width": 64, "activation": "tanh", "init": "xavier", "lr": 0.3}),
        ("cnn", {"depth": 2, "width": 8, "init": "kaiming", "optimizer": "adam", "lr": 0.01}),
        ("mlp", {"depth": 3, "norm": "batch", "residual": True, "momentum": 0.9, "dtype": "float64"}),
    ],
)
def test_real_digits_are_learned(tmp_path: Path, model: str, options: dict[str, Any]) -> None:
    run = train(out=tmp_path / "a", model=model, steps=80, every=40, metrics=["output_grad_norm"], **options)
    assert run.final("test_accuracy") > 0.8
    assert losses(run)[-1] < losses(run)[0] / 2


def test_a_seed_fixes_the_run_and_the_global_state_is_left_alone(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    one, same, other = (train(out=tmp_path / name, **LEAN, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert losses(one) == losses(same)
    assert one.frame("output_grad_norm").equals(same.frame("output_grad_norm"))
    assert losses(one) != losses(other)


def test_the_first_loss_is_that_of_the_model_of_the_seed(tmp_path: Path) -> None:
    run = train(out=tmp_path / "a", **LEAN, seed=2, batch_size=1347)
    digits = load("digits")
    logits = mlp(depth=2, width=8, seed=2)(digits.x_train)
    assert losses(run)[0] == pytest.approx(nn.functional.cross_entropy(logits, digits.y_train).item(), rel=1e-5)


def test_a_network_of_ones_own_is_trained_in_place_on_data_of_ones_own(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 1, 4, 4, generator=generator), torch.arange(40) % 3
    network = cnn(depth=1, width=2, image=(1, 4, 4), outputs=3, norm="batch", seed=0)
    before = network.get_parameter("head.weight").clone()
    run = train(
        out=tmp_path / "a", model=network, data=Data("noise", x, y, x[:6], y[:6], 3), steps=2, batch_size=8, every=1
    )
    assert (run.config["model"], run.config["data"]) == ("CNN", "noise")
    assert "depth" not in run.config
    assert not torch.equal(network.get_parameter("head.weight"), before)
    assert network.training


def test_progress_goes_to_the_error_stream(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(out=tmp_path / "a", **LEAN, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "steps" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "perceptron"}, "no model 'perceptron'; there are: mlp, cnn"),
        ({"data": "cifar"}, "no data set 'cifar'; there are: digits"),
        ({"optimizer": "sdg"}, "no optimizer 'sdg'; there are: sgd, adam (did you mean 'sgd'?)"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"lr": -0.1}, "lr must be at least 0, not -0.1"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum= belongs to optimizer 'sgd'"),
        ({"model": 3}, "model must be a name or a torch.nn.Module, not 3"),
        (
            {"model": nn.Linear(64, 10), "depth": 3, "width": 4},
            "a network that is built already takes no options: depth, width",
        ),
        (
            {"kernel": 5},
            "no option of mlp 'kernel'; there are: depth, width, activation, init, norm, residual, bias,"
            " weight_var, bias_var, gain, std, dtype",
        ),
    ],
)
def test_a_wrong_argument_is_named_and_leaves_no_run(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(GradscopeError, match=f"^{re.escape(message)}$"):
        train(out=tmp_path / "a", **arguments)
    assert not (tmp_path / "a").exists()


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    train(out=tmp_path / "a", **LEAN)
    with pytest.raises(RunExistsError):
        train(out=tmp_path / "a", **LEAN)
