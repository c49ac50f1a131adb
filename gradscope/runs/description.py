"""run.json: what a run says of itself, and whether its writer still lives."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from gradscope.errors import InvalidValueError, RunFormatError
from gradscope.runs.fields import check
from gradscope.runs.format import DESCRIPTION, FORMAT_VERSION, described_rank
from gradscope.runs.process import Process
from gradscope.runs.store import Store
from gradscope.spec import LayerSpec, MetricSpec, known_fields

SILENCE = 600.0
"""Seconds without a heartbeat after which a writer on another host is taken for dead."""


@dataclass(frozen=True)
class Description:
    """Content of run.json. Times are seconds since 1970; `end` is None while the run is open."""

    name: str
    metrics: tuple[MetricSpec, ...]
    layers: tuple[LayerSpec, ...] = ()
    status: str = "running"
    error: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    every: int = 1
    next_step: int = 0
    host: str = ""
    pid: int = 0
    pid_started: int | None = None
    start: float = 0.0
    heartbeat: float = 0.0
    end: float | None = None
    version: str = ""

    def to_bytes(self) -> bytes:
        """Return the text of run.json: strict JSON, so NaN and infinity inside config become strings."""
        content = {"format": FORMAT_VERSION} | jsonable(asdict(self))
        return json.dumps(content, indent=1, allow_nan=False).encode()

    def alive(self) -> bool | None:
        """Tell whether the process that writes the run lives; None where that cannot be known, as on another host."""
        return Process(self.pid, self.pid_started).alive() if self.host == socket.gethostname() else None

    def judged(self) -> str:
        """Return the status, with `interrupted` for a run whose writer died without closing it."""
        if self.status != "running":
            return self.status
        alive = self.alive()
        if alive is None:
            alive = time.time() - self.heartbeat <= SILENCE
        return "running" if alive else "interrupted"


def read_description(store: Store, name: str = DESCRIPTION) -> Description:
    """Read run.json of a run's folder, or the file of another rank.

    Raises:
        RunFormatError: It is missing, no JSON, not of gradscope, of a later format, or a field has a wrong type; names
            the file and the field.
    """
    return read_raw(store, name)[1]


def read_raw(store: Store, name: str = DESCRIPTION) -> tuple[bytes, Description]:
    """Read run.json as bytes, which tell cheaply whether it has changed, and as what it says."""
    data = read_bytes(store, name)
    return data, parse_description(data, store.shown(name))


def read_bytes(store: Store, name: str = DESCRIPTION) -> bytes:
    """Read run.json as bytes; RunFormatError where there is none."""
    try:
        return store.read(name)
    except FileNotFoundError:
        alone = only_other_ranks(store)
        raise RunFormatError(alone or f"{store.shown()!r} holds no run: it has no {name}") from None


def ranks(store: Store) -> list[int]:
    """Return the ranks that have described themselves in a run's folder, ascending."""
    found = (described_rank(name) for name in store.names())
    return sorted(rank for rank in found if rank is not None)


def only_other_ranks(store: Store) -> str | None:
    """Say what is missing where ranks have recorded into a folder, but not rank 0; None anywhere else."""
    found = ranks(store)
    if not found or 0 in found:
        return None
    whose = f"rank {found[0]}" if len(found) == 1 else f"ranks {', '.join(map(str, found))}"
    return f"{store.shown()!r} holds rows of {whose} but no {DESCRIPTION}, which rank 0 writes and did not, or not yet"


def parse_description(data: bytes, where: str) -> Description:
    """Parse the bytes of run.json; `where` names the file in errors."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise RunFormatError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise RunFormatError(f"{where} is not the description of a gradscope run: it has no number 'format'")
    if content["format"] > FORMAT_VERSION:
        raise RunFormatError(
            f"{where} has format {content['format']}; this gradscope reads up to {FORMAT_VERSION}: upgrade it"
        )
    check(content, where)
    try:
        return _from_content(content)
    except InvalidValueError as error:
        raise RunFormatError(f"{where} is damaged: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFormatError(f"{where} is damaged: {type(error).__name__}: {error}") from None


def _from_content(content: Mapping[str, Any]) -> Description:
    known = known_fields(Description, content)
    known["metrics"] = tuple(_metric(place, one) for place, one in enumerate(known["metrics"]))
    known["layers"] = tuple(LayerSpec.from_json(one) for one in known.get("layers", ()))
    return Description(**known)


def _metric(place: int, content: Mapping[str, Any]) -> MetricSpec:
    try:
        return MetricSpec.from_json(content)
    except InvalidValueError as error:
        raise InvalidValueError(f"metrics[{place}]: {error}") from None


def jsonable(value: Any) -> Any:
    """Turn any value into strict JSON types; what JSON cannot hold becomes its `str()`.

    >>> jsonable({"lr": np.float32(0.5), "betas": (0.9, float("inf")), 3: {1}})
    {'lr': 0.5, 'betas': [0.9, 'inf'], '3': '{1}'}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range):
        return [jsonable(one) for one in value]
    return str(value)
