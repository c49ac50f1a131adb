"""The shares of the gradient's paths at every place where they meet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from gradscope.spec import LayerSpec

SHARE = "input_share"
JOIN = "join_share"
REST = "other paths"
ALONE = 1e-6
"""A share that differs from 1 by less is of a gradient that came along one path."""


@dataclass(frozen=True)
class _Row:
    """A path at a place: the columns of the frame."""

    place: str
    at: int
    layer: str
    call: int | None
    depth: int | None
    share: float


def needed(recorded: Iterable[str]) -> tuple[str, ...]:
    """Return the metrics that shares are read from, of those a run has recorded.

    >>> needed(["output_grad_norm", "join_share", "input_share"])
    ('input_share', 'join_share')
    """
    known = set(recorded)
    return tuple(name for name in (SHARE, JOIN) if name in known)


def paths(layers: Sequence[LayerSpec], profiles: Mapping[str, pd.Series[float]]) -> pd.DataFrame:
    """Tell whose contributions make up the gradient wherever its paths meet.

    Where paths meet, the gradient is the sum of what each brings: g = sum g_i, and the shares <g_i, g> / |g|^2 sum
    to 1. They meet at the input that several layers take in, or that a skip takes along (``input_share``), and at a
    tensor between a layer's output and the next layer's input that other paths use as well (``join_share``).

    Args:
        layers: Layer calls in depth order; `entry` tells which take in the same tensor.
        profiles: By metric, values over depth.

    Returns:
        One row per path, places in order of depth: `place` (in words), `at` (depth of the first layer that takes the
        tensor in, or of the layer behind whose output it lies), `layer`, `call` and `depth` of the layer through which
        the path goes, and `share`. The last row of a place is that of the rest: skips, what is not watched, and layers
        whose own contribution is not known, which have no row; its depth is null. The shares of a place sum to 1.
        Below 0 or above 1 where paths cancel; NaN where g is exactly zero. A gradient that came along one path alone
        is no such place.
    """
    rows = [row for place in _places(layers, profiles) for row in _rows_of(place)]
    frame = pd.DataFrame(rows, columns=pd.Index(["place", "at", "layer", "call", "depth", "share"]))
    whole = {"at": "int64", "call": "Int64", "depth": "Int64", "share": "float64"}
    return frame.astype(whole)


@dataclass(frozen=True)
class _Place:
    """A tensor in whose gradient paths meet, with the layers that these go through and their shares."""

    name: str
    at: int
    members: tuple[tuple[LayerSpec, float], ...]

    @property
    def rest(self) -> float:
        """Share of all other paths."""
        return 1.0 - math.fsum(share for _, share in self.members)

    @property
    def meets(self) -> bool:
        """Whether more than one path does."""
        return len(self.members) > 1 or not abs(self.rest) <= ALONE


def _places(layers: Sequence[LayerSpec], profiles: Mapping[str, pd.Series[float]]) -> list[_Place]:
    """Find the places where paths meet, in order of depth."""
    inputs = _by_input(layers, profiles.get(SHARE, pd.Series(dtype="float64")))
    found = [_Place(f"input of {_called(mine[0][0])}", mine[0][0].depth, tuple(mine)) for mine in inputs]
    by_depth = {one.depth: one for one in layers}
    for depth, share in profiles.get(JOIN, pd.Series(dtype="float64")).items():
        below = by_depth[int(str(depth))]
        above = next((one for one in layers if below.id in one.parents), None)
        if above is not None:
            found.append(_Place(f"behind {_called(below)}", below.depth, ((above, float(share)),)))
    return sorted((one for one in found if one.meets), key=lambda one: one.at)


def _by_input(layers: Sequence[LayerSpec], shares: pd.Series[float]) -> list[list[tuple[LayerSpec, float]]]:
    """Bring layers that take in the same tensor together, with their shares."""
    found: dict[tuple[bool, int], list[tuple[LayerSpec, float]]] = {}
    for one in layers:
        if one.depth in shares.index:
            same = (False, one.id) if one.entry is None else (True, one.entry)
            found.setdefault(same, []).append((one, float(shares[one.depth])))
    return list(found.values())


def _called(layer: LayerSpec) -> str:
    return layer.layer if layer.call == 1 else f"{layer.layer}, call {layer.call}"


def _rows_of(place: _Place) -> list[_Row]:
    rows = [_Row(place.name, place.at, one.layer, one.call, one.depth, share) for one, share in place.members]
    return [*rows, _Row(place.name, place.at, REST, None, None, place.rest)]
