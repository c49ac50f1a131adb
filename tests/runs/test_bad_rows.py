"""What cannot be stored is refused where it is given, or left out alone: the run and the training go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError, UnknownNameError
from gradscope.runs import Run, Writer
from gradscope.spec import LayerSpec

NO_STEPS = [
    ("e1", InvalidTypeError, "step is a whole number, not 'e1'"),
    (1.5, InvalidTypeError, "step is a whole number, not 1.5"),
    (True, InvalidTypeError, "step is a whole number, not True"),
    (None, InvalidTypeError, "step is a whole number, not None"),
    (np.float64(1.0), InvalidTypeError, "step is a whole number, not np.float64(1.0)"),
    (2**70, InvalidValueError, "step is a whole number of at most 64 bits, not one of 72"),
]
NO_NUMBERS = [
    (1 + 2j, InvalidTypeError, "scalar 'b' is a single number, not complex"),
    (np.complex128(1.0), InvalidTypeError, "scalar 'b' is a single number, not complex128"),
    (None, InvalidTypeError, "scalar 'b' is a single number, not NoneType"),
    ("abc", InvalidTypeError, "scalar 'b' is a single number, not str"),
    ([1.0, 2.0], InvalidTypeError, "scalar 'b' is a single number, not list"),
    (10**400, InvalidValueError, "scalar 'b' is too large for a float"),
]


@pytest.fixture
def writer(tmp_path: Path, metrics: Any, chain: Callable[..., list[LayerSpec]]) -> Writer:
    opened = Writer(str(tmp_path / "run"), metrics=metrics)
    opened.describe(chain(1))
    return opened


def closed(writer: Writer) -> Run:
    writer.close()
    run = Run(writer.path)
    assert run.status == "finished"
    return run


@pytest.mark.parametrize(("step", "kind", "message"), NO_STEPS)
def test_a_step_is_a_whole_number(writer: Writer, step: Any, kind: type[GradscopeError], message: str) -> None:
    one = np.zeros((1, 2))
    calls: list[Callable[[], None]] = [
        lambda: writer.scalars(step, {"a": 1.0}),
        lambda: writer.event(step, "hello"),
        lambda: writer.append("coverage", [{"step": 0, "layer": "a"}, {"step": step, "layer": "b"}]),
        lambda: writer.rows(step, np.zeros(1, np.int32), one, one == 0.0),
    ]
    for call in calls:
        with pytest.raises(kind) as error:
            call()
        assert str(error.value) == message
    run = closed(writer)
    assert (len(run.scalars), len(run.events), len(run.coverage), run.steps()) == (0, 0, 0, [])


@pytest.mark.parametrize("step", [3, -1, np.int64(3), np.uint8(3)])
def test_whole_numbers_of_any_size_are_steps(writer: Writer, step: Any) -> None:
    writer.scalars(step, {"a": 1.0})
    assert closed(writer).scalars["step"].tolist() == [int(step)]


@pytest.mark.parametrize(("value", "kind", "message"), NO_NUMBERS)
def test_a_scalar_is_a_number(writer: Writer, value: Any, kind: type[GradscopeError], message: str) -> None:
    with pytest.raises(kind) as error:
        writer.scalars(0, {"a": 1.0, "b": value})
    assert str(error.value) == message
    assert closed(writer).scalars.empty  # not a part of what was refused


def test_text_that_is_no_unicode_is_stored_with_question_marks(writer: Writer) -> None:
    writer.event(0, "lr \udcff drop", kind="\ud800")
    writer.scalars(0, {"a\udcff": 1.0})
    writer.append("coverage", [{"step": 0, "layer": "l\udcff", "text": "t"}])
    run = closed(writer)
    assert run.events[["text", "kind"]].values.tolist() == [["lr ? drop", "?"]]
    assert (run.scalars["name"].tolist(), run.coverage["layer"].tolist()) == (["a?"], ["l?"])


def test_only_the_bad_rows_are_left_out(writer: Writer, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"step": step, "id": 0, "unit": unit} for step, unit in enumerate([1, "x", 3, 2**40])]
    writer.append("units", rows)
    writer.scalars(0, {"loss": 1.0})
    caplog.set_level(logging.WARNING, logger="gradscope.runs.writer")
    with pytest.warns(UserWarning, match="left out") as caught:
        writer.flush()
    message = f"left out 2 of 4 rows of {writer.path}/units: "
    assert [str(one.message)[: len(message)] for one in caught] == [message]
    assert [one[: len(message)] for one in caplog.messages] == [message]
    run = closed(writer)
    assert (run.units["unit"].tolist(), len(run.scalars)) == ([1, 3], 1)


def test_an_unknown_table(writer: Writer) -> None:
    with pytest.raises(UnknownNameError) as error:
        writer.append("layers", [])
    there = "scalars, events, histograms, units, coverage, shards (did you mean 'scalars'?)"
    assert str(error.value) == f"no table 'layers'; there are: {there}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"step": "e1", "val": 1.0}, "step is a whole number, not 'e1'"),
        ({"val": 1 + 2j}, "scalar 'val' is a single number, not complex"),
    ],
)
def test_a_watched_training_goes_on(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    model, x = nn.Linear(4, 2), torch.randn(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for _ in range(3):
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss)
            with pytest.raises(InvalidTypeError) as error:
                probe.log(**given)
            assert str(error.value) == message
    run = Run(str(tmp_path / "run"))
    assert (run.status, run.steps(), run.scalars["name"].tolist()) == ("finished", [0, 1, 2], ["loss"] * 3)


def test_an_error_that_is_not_caught_fails_the_run_and_loses_nothing(tmp_path: Path) -> None:
    model, x = nn.Linear(4, 2), torch.randn(8, 4)

    def train() -> None:
        with gs.watch(model, out=tmp_path / "run", every=1) as probe:
            model(x).square().mean().backward()
            probe.step()
            probe.log(step="e1", val=1.0)  # type: ignore[arg-type]

    with pytest.raises(InvalidTypeError):
        train()
    run = Run(str(tmp_path / "run"))
    assert (run.status, run.steps()) == ("failed", [0])
