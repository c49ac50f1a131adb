"""The configurations of a sweep: their product, their names, and the hash that recognises them."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.lab.validation import no_such

LONGEST_NAME = 120
OWN = ("train", "out", "workers", "progress", "executor")
"""Arguments of the sweep itself."""
VARIED = (list, tuple, range, np.ndarray)


@dataclass(frozen=True)
class Configuration:
    """One point of a grid.

    Attributes:
        values: What the training function is called with.
        varied: The names among them that the grid varies; they make the name of the folder.
    """

    values: Mapping[str, Any]
    varied: tuple[str, ...] = ()

    @property
    def config(self) -> dict[str, Any]:
        """The values as JSON types, for the run and for the hash."""
        return {key: plain(key, value) for key, value in self.values.items()}

    @property
    def digest(self) -> str:
        """Hash of the values; the order of the names does not matter.

        >>> Configuration({"a": 1, "b": "x"}).digest == Configuration({"b": "x", "a": 1}).digest
        True
        """
        text = json.dumps(self.config, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def name(self) -> str:
        """Name of the folder: what the grid varies, in its order, in characters that every system allows.

        >>> Configuration({"depth": 8, "init": "a/b", "lr": 0.1}, ("init", "depth")).name
        'init=a_b,depth=8'
        """
        config = self.config
        text = ",".join(f"{key}={_shown(config[key])}" for key in self.varied) or "run"
        text = re.sub(r"[^\w.=,+-]", "_", text, flags=re.ASCII)
        return text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}-{self.digest[:8]}"


def configurations(grid: Mapping[str, Any]) -> list[Configuration]:
    """Return every combination of the values of a grid, the last name varying fastest.

    A list, tuple, range or array gives the values of a name; anything else is one value for all.

    Raises:
        InvalidValueError: A name has no values, or the same value twice.
        InvalidTypeError: A value cannot be recognised again by a hash.

    >>> [one.values for one in configurations({"depth": [2, 8], "seed": range(2), "lr": 0.1})][1]
    {'depth': 2, 'seed': 1, 'lr': 0.1}
    """
    varied = tuple(key for key, value in grid.items() if isinstance(value, VARIED))
    columns = {key: _values(key, value) for key, value in grid.items()}
    return [
        Configuration(dict(zip(columns, values, strict=True)), varied)
        for values in itertools.product(*columns.values())
    ]


def check_names(train: Callable[..., Any], names: Iterable[str]) -> None:
    """Refuse names that a training function does not take, as far as its signature says.

    Raises:
        UnknownNameError: The message lists what it takes.
    """
    known = _options(train)
    for name in names:
        if known is not None and name not in known:
            raise no_such(f"the training has no option {name!r}", name, known)


def _options(train: Callable[..., Any]) -> list[str] | None:
    """Return the names that a grid can give a training function; None where it takes any, or does not say."""
    try:
        known = inspect.signature(train, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(one.kind is one.VAR_KEYWORD for one in known):
        return None
    named = [one.name for one in known if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    return [name for name in named if name not in OWN]


def plain(name: str, value: Any) -> Any:
    """Turn the value of a configuration into JSON types that are the same in every process.

    Functions and classes become their qualified name. What has no lasting text (that of most objects holds
    their address) is an InvalidTypeError.

    >>> plain("lr", np.float64(0.5)), plain("loss", math.inf), plain("make", dict)
    (0.5, 'inf', 'builtins:dict')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(name, one) for key, one in value.items()}
    if isinstance(value, VARIED):
        return [plain(name, one) for one in value]
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}:{value.__qualname__}"
    text = repr(value)
    if " at 0x" in text or "\n" in text:
        raise InvalidTypeError(
            f"{name}={text.splitlines()[0]} cannot be recognised when the sweep goes on;"
            " give a name instead, and build it in the training function"
        )
    return text


def _values(name: str, given: Any) -> list[Any]:
    if not isinstance(given, VARIED):
        return [given]
    values = list(given)
    if not values:
        raise InvalidValueError(f"{name}= has no values")
    seen: set[str] = set()
    for value in values:
        text = json.dumps(plain(name, value), sort_keys=True)
        if text in seen:
            raise InvalidValueError(f"{name}= has the value {text} twice")
        seen.add(text)
    return values


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
