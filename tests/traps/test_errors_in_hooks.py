"""An error of the watcher is the watcher's: it is reported once, with layer, metric and step, and the training goes on.

A monitor that raises ends a training of days; the tensors of its gradients are those the training needs (smdebug's
hooks run inside an error handler for this reason).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.metrics import unregister

PHASES = (
    "output",
    "input",
    "output_grad",
    "input_grad",
    "next_input_grad",
    "activation_input",
    "activation",
    "weight_grad",
)
ERRORS: dict[str, Callable[[], BaseException]] = {
    "ZeroDivisionError": lambda: ZeroDivisionError("on purpose"),
    "RuntimeError": lambda: RuntimeError("on purpose"),
    "AssertionError": lambda: AssertionError("on purpose"),
    "MemoryError": lambda: MemoryError("on purpose"),
    "StopIteration": lambda: StopIteration("on purpose"),
    "KeyError": lambda: KeyError("on purpose"),
    "Warning": lambda: UserWarning("on purpose"),
    "GradscopeError": lambda: gs.GradscopeError("on purpose"),
}


def make_metric(signal: str, body: Callable[..., Any]) -> Callable[..., Any]:
    """A metric called ``broken`` of one signal."""
    scope: dict[str, Any] = {"body": body}
    exec(f"def broken({signal}):\n    return body({signal})", scope)
    function: Callable[..., Any] = scope["broken"]
    function.__module__ = __name__
    return function


@pytest.fixture
def register() -> Iterator[Callable[[str, Callable[..., Any]], None]]:
    names: list[str] = []

    def add(signal: str, body: Callable[..., Any]) -> None:
        gs.metric(label="Broken")(make_metric(signal, body))
        names.append("broken")

    yield add
    for name in names:
        unregister(name)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))


def train(folder: Path | None, steps: int = 3, **settings: Any) -> tuple[list[Tensor], list[str], gs.Run | None]:
    """Train with every metric; return the parameters, the warnings and the run."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.linspace(-1, 1, 30).reshape(5, 6)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe = gs.watch(model, optimizer, out=folder, every=1, **settings) if folder else None
        for _ in range(steps):
            loss = model(x).square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if probe:
                probe.log(loss=loss)
        if probe:
            probe.close()
    parameters = [parameter.detach().clone() for parameter in model.parameters()]
    return parameters, [str(one.message) for one in caught], probe.run if probe else None


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("signal", PHASES)
def test_a_metric_that_raises(
    signal: str, error: str, register: Callable[[str, Callable[..., Any]], None], tmp_path: Path
) -> None:
    def fail(_: Tensor) -> None:
        raise ERRORS[error]()

    register(signal, fail)
    bare, _, _ = train(None)
    watched, said, run = train(tmp_path / "run", metrics="all")
    assert same(bare, watched)
    assert run is not None
    assert run.status == "finished"
    assert run.steps() == [0, 1, 2]
    assert run.frame("broken").empty
    assert said
    assert len(said) == len(set(said)) <= 3  # once for every layer
    for message in said:
        layer, _, rest = message.partition(": ")
        assert layer.removeprefix("layer ") in {"0", "2", "4"}
        assert rest.startswith("metric 'broken' failed at step 0: ")
        assert rest.endswith("; the training is not affected")
    texts = run.events["text"].tolist()
    assert sorted(f"{text}; the training is not affected" for text in texts[: len(said)]) == sorted(said)
    assert run.frame("output_grad_norm").shape == (3, 3)
    failed = set(run.coverage.query("code == 'error'")["layer"])
    assert failed == {message.split(":")[0].removeprefix("layer ") for message in said}
    assert sorted(texts[len(said) :]) == [
        f"layer {layer}: metric 'broken' failed 3 times, last at step 2" for layer in sorted(failed)
    ]


RESULTS: dict[str, Callable[[Tensor], Any]] = {
    "text": lambda tensor: "three",
    "a list": lambda tensor: [1.0, 2.0],
    "a vector": lambda tensor: tensor.reshape(-1)[:2],
    "the tensor": lambda tensor: tensor,
    "an empty tensor": lambda tensor: tensor.reshape(-1)[:0],
    "a complex number": lambda tensor: 1j,
    "an object": lambda tensor: object(),
    "a class": lambda tensor: Tensor,
}


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("signal", ["output", "output_grad", "weight_grad"])
def test_a_metric_that_returns_no_number(
    signal: str, result: str, register: Callable[[str, Callable[..., Any]], None], tmp_path: Path
) -> None:
    register(signal, RESULTS[result])
    bare, _, _ = train(None)
    watched, said, run = train(tmp_path / "run", metrics=["broken", "output_rms"])
    assert same(bare, watched)
    assert run is not None
    assert run.frame("broken").empty
    assert run.frame("output_rms").shape == (3, 3)
    assert len(said) == 3
    assert all("metric 'broken' failed at step 0: " in message for message in said)


NUMBERS: dict[str, tuple[Callable[[Tensor], Any], float]] = {
    "a float": (lambda tensor: 2.5, 2.5),
    "an int": (lambda tensor: 3, 3.0),
    "a bool": (lambda tensor: True, 1.0),
    "a numpy number": (lambda tensor: np.float32(0.5), 0.5),
    "a tensor of bool": (lambda tensor: torch.tensor(True), 1.0),
    "a tensor of int": (lambda tensor: torch.tensor(7), 7.0),
    "half precision": (lambda tensor: torch.tensor(0.5, dtype=torch.float16), 0.5),
    "one entry": (lambda tensor: torch.tensor([4.0]), 4.0),
    "NaN": (lambda tensor: float("nan"), float("nan")),
    "infinity": (lambda tensor: torch.tensor(float("inf")), float("inf")),
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("signal", ["output", "output_grad", "weight_grad"])
def test_a_metric_that_returns_a_number_of_any_kind(
    signal: str, number: str, register: Callable[[str, Callable[..., Any]], None], tmp_path: Path
) -> None:
    result, expected = NUMBERS[number]
    register(signal, result)
    _, said, run = train(tmp_path / "run", metrics=["broken"])
    assert said == []
    assert run is not None
    np.testing.assert_array_equal(run.frame("broken"), np.full((3, 3), expected))


def test_a_metric_that_raises_now_and_then(register: Callable[[str, Callable[..., Any]], None], tmp_path: Path) -> None:
    calls: list[int] = []

    def sometimes(_: Tensor) -> float:
        calls.append(1)
        if len(calls) % 2:
            raise ValueError("odd")
        return 1.0

    register("output_grad", sometimes)
    _, said, run = train(tmp_path / "run", steps=4, metrics=["broken", "output_rms"])
    assert run is not None
    assert run.frame("broken").notna().sum().sum() == 6
    assert len(said) == len(set(said))
    assert run.frame("output_rms").shape == (4, 3)


def test_ctrl_c_inside_a_metric_is_no_error_of_ours(
    register: Callable[[str, Callable[..., Any]], None], tmp_path: Path
) -> None:
    def interrupt(_: Tensor) -> None:
        raise KeyboardInterrupt

    register("output", interrupt)
    model = net()
    with pytest.raises(KeyboardInterrupt), gs.watch(model, out=tmp_path / "run", every=1, metrics=["broken"]):
        model(torch.randn(5, 6))
    assert gs.load(tmp_path / "run").status == "interrupted"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("when", ["error", "always"])
def test_warnings_that_are_errors_never_reach_the_training(
    when: str, register: Callable[[str, Callable[..., Any]], None], tmp_path: Path
) -> None:
    def fail(_: Tensor) -> None:
        raise ValueError("on purpose")

    register("output_grad", fail)
    model = net()
    with warnings.catch_warnings(record=True) as caught, gs.watch(model, out=tmp_path / "run", every=1) as probe:
        warnings.simplefilter(when)  # type: ignore[arg-type]
        model(torch.randn(5, 6)).sum().backward()
        probe.step()
    assert len(caught) == 3 or when == "error"


def test_an_error_that_repeats_is_counted(register: Callable[[str, Callable[..., Any]], None], tmp_path: Path) -> None:
    """It is said once while it happens; at its end the run tells how often it did."""

    def fail(_: Tensor) -> None:
        raise ZeroDivisionError("on purpose")

    register("output_grad", fail)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with warnings.catch_warnings(record=True), gs.watch(model, out=tmp_path / "r", every=1, metrics="broken") as probe:
        for _ in range(7):
            model(torch.randn(3, 4)).sum().backward()
            probe.step()
    first = "metric 'broken' failed at step 0: ZeroDivisionError: on purpose"
    assert probe.run.events["text"].tolist() == [
        f"layer 1: {first}",
        f"layer 0: {first}",
        "layer 1: metric 'broken' failed 7 times, last at step 6",
        "layer 0: metric 'broken' failed 7 times, last at step 6",
    ]


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    """The disk is full, the mount is gone: the training ends as it would have."""
    bare, _, _ = train(None, steps=6)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x = torch.linspace(-1, 1, 30).reshape(5, 6)
    folder = tmp_path / "run"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        probe = gs.watch(model, optimizer, out=folder, every=1, metrics="all")
        for step in range(6):
            loss = model(x).square().sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)
            if step == 2:
                shutil.rmtree(folder)
                folder.write_text("a file where the run was")
        probe.close()
    assert same(bare, [parameter.detach() for parameter in model.parameters()])
    assert any("the training is not affected" in str(one.message) or str(folder) in str(one.message) for one in caught)
    assert not any(module._forward_hooks for module in model.modules())
