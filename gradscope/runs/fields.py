"""Types of what run.json holds: it may have been edited, or be another program's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradscope.errors import RunFormatError

_WORDS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
Kinds = tuple[type, ...]

DESCRIPTION: Mapping[str, Kinds] = {
    "name": (str,),
    "metrics": (list,),
    "layers": (list,),
    "status": (str,),
    "error": (str, type(None)),
    "config": (dict,),
    "environment": (dict,),
    "every": (int,),
    "next_step": (int,),
    "host": (str,),
    "pid": (int,),
    "pid_started": (int, type(None)),
    "start": (int, float),
    "heartbeat": (int, float),
    "end": (int, float, type(None)),
    "version": (str,),
}
LAYER: Mapping[str, Kinds] = {
    "id": (int,),
    "layer": (str,),
    "call": (int,),
    "depth": (int,),
    "parents": (list,),
    "kind": (str,),
    "activation": (str,),
    "norm": (str,),
    "resolved": (bool,),
}
METRIC: Mapping[str, Kinds] = {
    "name": (str,),
    "label": (str,),
    "unit": (str,),
    "group": (str,),
    "scale": (str,),
    "bounds": (list,),
    "combine": (str,),
    "dtype": (str,),
}


def check(content: Mapping[str, Any], where: str) -> None:
    """Check the types of a description, its layers and its metrics; what is missing is not looked for.

    Raises:
        RunFormatError: Names file and field.
    """
    _check(content, DESCRIPTION, where, "")
    for table, kinds in (("metrics", METRIC), ("layers", LAYER)):
        for place, one in enumerate(content.get(table, ())):
            field = f"{table}[{place}]"
            _check_one(one, (dict,), where, field)
            _check(one, kinds, where, f"{field}.")
    for place, layer in enumerate(content.get("layers", ())):
        for parent in layer.get("parents", ()):
            _check_one(parent, (int,), where, f"layers[{place}].parents")


def _check(content: Mapping[str, Any], kinds: Mapping[str, Kinds], where: str, prefix: str) -> None:
    for name, allowed in kinds.items():
        if name in content:
            _check_one(content[name], allowed, where, prefix + name)


def _check_one(value: Any, allowed: Kinds, where: str, field: str) -> None:
    if type(value) not in allowed:  # not isinstance: true is no number
        wanted = " or ".join(_WORDS[kind] for kind in allowed if not (kind is int and float in allowed))
        raise RunFormatError(f"{where} is damaged: {field} is {wanted}, not {_WORDS[type(value)]}")
