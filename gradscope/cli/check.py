"""What ``gradscope check`` examines: recorded runs, or a model that a function of a script makes."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING, Any

from gradscope.cli.arguments import function as find_function
from gradscope.errors import InvalidTypeError, InvalidValueError, RunFormatError
from gradscope.runs.format import DESCRIPTION
from gradscope.runs.store import Store

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradscope.checks import Findings
    from gradscope.runs import Run

RETURNS = "a model, (model, x), (model, x, y) or (model, x, y, loss_fn)"


@dataclass(frozen=True)
class Examined:
    """Findings, and where what they speak of is written.

    Attributes:
        name: What the reports call it.
        file: The script or the folder of the run.
        line: Line of the function in the script; 1 for a run.
        findings: The result.
        failure: Last line of what ended a run that failed; empty elsewhere.
    """

    name: str
    file: str
    line: int
    findings: Findings
    failure: str = ""


@dataclass(frozen=True)
class Batch:
    """How to draw the batch that a function left out.

    Attributes:
        size: Samples.
        shape: Shape of one sample; None is that of the model's first layer, where that is linear.
        seed: Of the model and the batch.
    """

    size: int
    shape: tuple[int, ...] | None
    seed: int


def examine(target: str, batch: Batch) -> tuple[list[Examined], list[str]]:
    """Diagnose the runs in a folder, or a model before its first step.

    Args:
        target: A run, a folder of runs, ``script.py:function`` or ``module:function``. The function is called without
            arguments and returns a model, (model, x), (model, x, y) or (model, x, y, loss_fn); a model may stand in its
            place.
        batch: How to draw what the function left out: inputs from the standard normal law, targets at random.

    Returns:
        What was examined, and what to say of each run that cannot be read.

    Raises:
        InvalidValueError: The target is none of these, or the function fails.
        RunFormatError: There are no runs in the folder.
        InvalidTypeError: The function returns something else.
    """
    if Store(target).is_file(DESCRIPTION) or os.path.isdir(target) or "://" in target:
        return _recorded(target)
    if ":" not in target:
        raise InvalidValueError(f"{target!r} is neither a run, nor a folder of runs, nor script.py:function")
    return [_made(target, find_function(target), batch)], []


def shape_of(text: str) -> tuple[int, ...]:
    """Read the shape of one sample.

    >>> shape_of("3,32,32")
    (3, 32, 32)

    Raises:
        InvalidValueError: It holds something else than positive whole numbers.
    """
    sizes = [one.strip() for one in text.split(",")]
    if not all(one.isdigit() and int(one) for one in sizes):
        raise InvalidValueError(f"--shape is the shape of one sample, such as 784 or 3,32,32, not {text!r}")
    return tuple(int(one) for one in sizes)


def _recorded(target: str) -> tuple[list[Examined], list[str]]:
    from gradscope.runs import Run, load

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out a run that cannot be read")  # said below
        found = load(target)
    if isinstance(found, Run):
        return [_diagnosed(found)], []
    examined, left_out = list[Examined](), [f"left out {name}: {error}" for name, error in found.broken.items()]
    for run in found:
        try:
            examined.append(_diagnosed(run))
        except RunFormatError as error:
            left_out.append(f"left out {run.name}: {error}")
    return examined, left_out


def _diagnosed(run: Run) -> Examined:
    from gradscope.checks import diagnose

    failure = (run.error or "unknown").strip().splitlines()[-1] if run.status == "failed" else ""
    return Examined(run.name, run.path, 1, diagnose(run), failure)


def _made(target: str, make: Callable[[], Any], batch: Batch) -> Examined:
    import torch

    import gradscope

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(batch.seed)
        # A model of the script is as good as a function that makes one.
        made = make if isinstance(make, torch.nn.Module) else _called(target, make)
        model, x, y, loss_fn = _completed(target, made, batch)
        findings = gradscope.preflight(model, x, y, loss_fn)
    file, line = _place(make)
    file = file or target.rpartition(":")[0]
    return Examined(target, file, line, findings)


def _called(target: str, make: Callable[[], Any]) -> Any:
    parameters = inspect.signature(make).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [one.name for one in parameters if one.default is one.empty and one.kind not in optional]
    if needed:
        raise InvalidTypeError(f"{target} is called without arguments, but needs {', '.join(needed)}")
    try:
        return make()
    except Exception as error:
        raise InvalidValueError(f"{target} failed:\n{''.join(format_exception(error)).rstrip()}") from error


def _completed(target: str, made: Any, batch: Batch) -> tuple[nn.Module, Any, Any, Any]:
    """Return model, inputs, targets and loss; what is missing of inputs and targets is drawn."""
    from torch import nn

    given = made if isinstance(made, tuple) else (made,)
    if not 1 <= len(given) <= 4 or not isinstance(given[0], nn.Module):
        raise InvalidTypeError(f"{target} returns {RETURNS}, not {_kind(made)}")
    rest: list[Any] = [*given[1:], None, None, None]
    model, (x, y, loss_fn) = given[0], rest[:3]
    if x is None:
        x = _inputs(target, model, batch)
    if y is None:
        y = _targets(target, model, x)
    return model, x, y, loss_fn


def _kind(made: Any) -> str:
    if isinstance(made, tuple):
        return f"({', '.join(type(one).__name__ for one in made)})"
    return type(made).__name__


def _inputs(target: str, model: nn.Module, batch: Batch) -> Tensor:
    import torch
    from torch import nn

    shape = batch.shape
    if shape is None:
        first = next((one for one in model.modules() if next(one.parameters(recurse=False), None) is not None), None)
        if not isinstance(first, nn.Linear):
            what = "has no parameters" if first is None else f"begins with {type(first).__name__}"
            raise InvalidValueError(
                f"the model of {target} {what}, which does not tell the shape of a sample: "
                "give --shape, such as --shape 3,32,32, or return (model, x, y)"
            )
        shape = (first.in_features,)
    return torch.randn(batch.size, *shape)


def _targets(target: str, model: nn.Module, x: Any) -> Tensor:
    """Draw targets that fit what the model puts out: classes where it has several outputs, else numbers."""
    import copy

    import torch

    with torch.no_grad():
        out = copy.deepcopy(model)(x)
    if not isinstance(out, torch.Tensor) or out.ndim < 1:
        raise InvalidTypeError(
            f"the model of {target} puts out {type(out).__name__}, for which no targets can be drawn: "
            "return (model, x, y) or (model, x, y, loss_fn)"
        )
    if out.ndim >= 2 and out.shape[1] > 1:
        return torch.randint(out.shape[1], (out.shape[0], *out.shape[2:]))
    return torch.randn(out.shape)


def _place(make: Callable[..., Any]) -> tuple[str, int]:
    """Return the file and the line of a function, relative to the working folder where it lies below it."""
    try:
        path, line = Path(inspect.getsourcefile(make) or ""), inspect.getsourcelines(make)[1]
    except (OSError, TypeError):  # built in, or an object that is called
        return "", 1
    here = Path.cwd()
    return (str(path.relative_to(here)) if path.is_relative_to(here) else str(path)), max(1, line)
