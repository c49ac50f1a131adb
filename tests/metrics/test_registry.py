"""The @metric decorator: what it refuses, and how far one small function reaches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import InvalidValueError, UnknownNameError
from gradscope.metrics import registered, select, unregister
from gradscope.signals import SIGNALS, Moments


@pytest.fixture(autouse=True)
def _forget_new_metrics() -> Iterator[None]:
    before = set(registered())
    yield
    for name in set(registered()) - before:
        unregister(name)


def test_a_new_metric_reaches_the_run_by_itself(tmp_path: Path) -> None:
    @gs.metric(label="Zero-gradient share", unit="fraction", bounds=(0.0, 1.0), degree=0)
    def zero_gradient_fraction(weight_grad: Tensor) -> Tensor:
        """Share of the entries of the weight gradient that are exactly zero."""
        return (weight_grad == 0).double().mean()

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(5, 4)).sum().backward()
        expected = [float((one.weight.grad == 0).double().mean()) for one in (model[0], model[2])]
        probe.step()
    run = probe.run
    assert list(run.profile("zero_gradient_fraction")) == expected
    spec = run.metrics["zero_gradient_fraction"]
    assert (spec.label, spec.unit, spec.bounds, spec.group) == ("Zero-gradient share", "fraction", (0.0, 1.0), "custom")
    assert spec.doc == "Share of the entries of the weight gradient that are exactly zero."


SCOPE = {"Tensor": Tensor, "Moments": Moments, "np": np, "torch": torch}
BODIES = {
    "slope_max": "return x",
    "input_overlap": "return x",
    "join_overlap": "return x",
    "dead_units": "return x.mean()",
}


class Block(nn.Module):
    """Every signal there is: a normalization, an activation function, and a skip that leaves before them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.third, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.second(torch.tanh(self.first(x)))
        out: Tensor = self.head(z + self.third(torch.tanh(self.norm(z))))
        return out


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("form", ["", "_moments", "_sample"])
def test_every_signal_can_be_asked_for(signal: str, form: str, tmp_path: Path) -> None:
    name = signal + form
    if form and signal in BODIES:
        with pytest.raises(UnknownNameError, match=f"no signal '{name}'"):
            gs.metric(label="x")(make(name, "return x"))
        return
    body = "return x.norm" if form == "_moments" else BODIES.get(signal, "return x.double().norm()")
    gs.metric(label="Probed")(make(name, body))
    model = Block()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, metrics="probed") as probe:
        model(torch.randn(80, 6)).square().sum().backward()
        optimizer.step()
    values = probe.run.rows("probed")
    assert 2 in set(values["depth"])
    assert np.isfinite(values["value"]).all()


def make(argument: str, body: str) -> FunctionType:
    made: dict[str, Any] = dict(SCOPE)
    exec(f"def probed({argument}):\n    x = {argument}\n    {body}", made)
    made["probed"].__module__ = __name__
    return made["probed"]  # type: ignore[no-any-return]


def test_a_misspelt_signal_names_the_choices() -> None:
    with pytest.raises(UnknownNameError) as caught:
        gs.metric(label="x")(make("grad_output", "return x"))
    text = str(caught.value)
    assert text.startswith("no signal 'grad_output'; there are: input, output, activation_input, activation, slope")


def test_tensors_of_two_phases_are_refused() -> None:
    made: dict[str, Any] = {}
    exec("def both(output, output_grad):\n    return (output * output_grad).sum()", made)
    text = (
        "metric 'both' asks for tensors of several phases: output (forward), output_grad (backward); "
        "take tensors of one phase, or statistics only"
    )
    with pytest.raises(InvalidValueError, match=f"^{re.escape(text)}$"):
        gs.metric(label="x")(made["both"])


def test_a_metric_without_signals_is_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"^metric '<lambda>' takes no signals; name at least one of: input, "):
        gs.metric(label="x")(lambda: 1.0)


def test_a_taken_name_is_refused_but_a_cell_may_run_twice() -> None:
    gs.metric(label="a")(make("output", "return x.sum()"))
    gs.metric(label="b")(make("output", "return x.sum()"))
    assert registered()["probed"].spec.label == "b"
    other = make("output", "return x.sum()")
    other.__module__ = "elsewhere"
    text = f"metric 'probed' of elsewhere is already registered by {__name__}"
    with pytest.raises(InvalidValueError, match=f"^{re.escape(text)}$"):
        gs.metric(label="c")(other)
    reserved = make("output", "return x.sum()")
    reserved.__name__ = "depth"
    text = "metric 'depth' has the name of a column of every run; choose another name"
    with pytest.raises(InvalidValueError, match=f"^{re.escape(text)}$"):
        gs.metric(label="d")(reserved)


def test_selections() -> None:
    assert {metric.spec.group for metric in select("default")} == {"backward", "weights", "forward", "activation"}
    assert [metric.name for metric in select(["output_rms", "output_mean"])] == ["output_mean", "output_rms"]
    assert len(select("all")) == len(registered())
    assert {metric.name for metric in select(["forward", "histograms"])} == {
        "output_mean",
        "output_std",
        "output_rms",
        "sample_spread",
    }


def test_an_unknown_metric_to_forget() -> None:
    with pytest.raises(UnknownNameError, match="no metric 'nothing'; there are: "):
        unregister("nothing")


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm2d(3), nn.GroupNorm(1, 3), nn.Identity()], ids=lambda norm: type(norm).__name__
)
def test_units_of_the_activation_input_are_channels(norm: nn.Module, tmp_path: Path) -> None:
    @gs.metric(label="Units")
    def unit_count(activation_input_units: Tensor) -> float:
        return activation_input_units.shape[1]

    model = nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(108, 2))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="unit_count") as probe:
        model(torch.randn(4, 1, 8, 8)).sum().backward()
        probe.step()
    assert list(probe.run.profile("unit_count")) == [3, 2]
