"""Read what the command line is given: values of a sweep, functions of scripts, files to write."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.lab.validation import no_such


def read_grid(arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``--name value[,value]`` pairs.

    >>> read_grid(["--depth", "2,8", "--weight-var=1.5", "--norm", "none"])
    {'depth': [2, 8], 'weight_var': 1.5, 'norm': 'none'}
    """
    grid: dict[str, Any] = {}
    waiting = list(arguments)
    while waiting:
        option = waiting.pop(0)
        if not option.startswith("--"):
            raise InvalidValueError(f"{option!r} is no option: write --name value, or --name value,value")
        name, equals, value = option[2:].partition("=")
        if not equals:
            if not waiting or waiting[0].startswith("--"):
                raise InvalidValueError(f"--{name} needs a value, such as --{name} 1 or --{name} 1,2")
            value = waiting.pop(0)
        grid[name.replace("-", "_")] = values(value)
    return grid


def values(text: str, *, always_list: bool = False) -> Any:
    """Read one value, or several between commas: numbers, true, false and None as such, the rest as text.

    >>> values("2,0.5,true,relu"), values("8"), values("8", always_list=True)
    ([2, 0.5, True, 'relu'], 8, [8])
    """
    found = [_value(one.strip()) for one in text.split(",") if one.strip()]
    if not found:
        raise InvalidValueError(f"{text!r} holds no value")
    return found if always_list or len(found) > 1 else found[0]


def _value(text: str) -> Any:
    words = {"true": True, "True": True, "false": False, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        number = json.loads(text)
    except ValueError:
        return text
    return number if isinstance(number, int | float) else text


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folders it lies in.

    Raises:
        InvalidValueError: It cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidValueError(f"cannot write {str(path)!r}: {error.strerror}") from error


def function(target: str) -> Callable[..., Any]:
    """Find ``file.py:function`` or ``module:function``.

    Raises:
        InvalidValueError: It is not of that form, or there is no such file or module.
        UnknownNameError: There is no such function in it.
    """
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise InvalidValueError(f"{target!r} is no function: write train.py:function")
    module = _script(Path(place)) if place.endswith(".py") else _module(place)
    found = getattr(module, name, None)
    if found is None:
        raise no_such(f"no function {name!r} in {place}", name, _functions(module))
    if not callable(found):
        raise InvalidTypeError(f"{target} is no function, but {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _functions(module: Any) -> list[str]:
    """Return the names of the functions a module defines; where it defines none, of those it imports."""
    found = {key: one for key, one in vars(module).items() if inspect.isfunction(one) and not key.startswith("_")}
    own = [key for key, one in found.items() if one.__module__ == module.__name__]
    return own or list(found)


def _script(path: Path) -> Any:
    import cloudpickle

    if not path.is_file():
        raise InvalidValueError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InvalidValueError(f"{str(path)!r} is no Python file")
    # Worker processes get the code itself, as they cannot import a script; but its neighbours they can.
    sys.path.insert(0, str(path.parent.resolve()))
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    cloudpickle.register_pickle_by_value(module)
    return module


def _module(name: str) -> Any:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InvalidValueError(f"cannot import {name!r}: {error}") from None
