"""Parameter metrics of sharded layers: every rank records those of its shard, and here they become those of the whole.

``shards/`` has a row for each recorded step, rank and layer whose parameters are sharded (``fully_shard``): how large a
share of the weight and of the bias the rank counts for, how many ranks hold the same shard, and the metrics of the
shard alone. In ``layers/`` these metrics are null there, on every rank: what a rank sees of a sharded weight is no
value of the layer. With s_r the share of rank r (the shares sum to 1), c_r the copies of its shard, and v_r its value::

    norm                       sqrt(sum_r v_r^2 / c_r)
    root mean square           sqrt(sum_r s_r v_r^2)
    fraction                   sum_r s_r v_r
    update ratio               sqrt(sum_r s_r (v_r w_r)^2) / sqrt(sum_r s_r w_r^2)      w_r: rms of the shard's weight

Where the shares of the ranks that recorded a step do not sum to 1, since one of them did not watch, has not written yet
or has died, the value is absent. An empty shard has the share 0 and is not missed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pooling:
    """How the values of shards become the value of the whole.

    Attributes:
        parameter: Whose shares count.
        how: ``norm``, ``rms``, ``mean`` or ``ratio`` (of root mean squares, the lower one that of `base`).
        base: For a ratio, the metric that is its denominator.
    """

    parameter: Literal["weight", "bias"]
    how: Literal["norm", "rms", "mean", "ratio"]
    base: str = ""


POOLED: Mapping[str, Pooling] = {
    "weight_grad_norm": Pooling("weight", "norm"),
    "weight_grad_rms": Pooling("weight", "rms"),
    "weight_grad_zero_fraction": Pooling("weight", "mean"),
    "bias_grad_norm": Pooling("bias", "norm"),
    "weight_rms": Pooling("weight", "rms"),
    "bias_rms": Pooling("bias", "rms"),
    "update_ratio": Pooling("weight", "ratio", base="weight_rms"),
}
"""The metrics that can be pooled; any other metric of a sharded parameter, such as one of a user's own, stays null."""

SHARDS = pa.schema(
    [
        ("step", pa.int64()),
        ("rank", pa.int32()),
        ("id", pa.int32()),
        ("weight_share", pa.float64()),
        ("weight_copies", pa.int32()),
        ("bias_share", pa.float64()),
        ("bias_copies", pa.int32()),
        *((name, pa.float64()) for name in POOLED),
    ]
)


def needed(metric: str) -> list[str]:
    """Return the columns of ``shards/`` that a pooled metric is made of.

    >>> needed("bias_grad_norm")
    ['step', 'rank', 'id', 'bias_share', 'bias_copies', 'bias_grad_norm']
    """
    how = POOLED[metric]
    names = ["step", "rank", "id", f"{how.parameter}_share", f"{how.parameter}_copies", metric]
    return names + [how.base] * bool(how.base)


def pool(
    metric: str, table: Mapping[str, Any], depths: Mapping[int, Mapping[int, int]]
) -> tuple[NDArray[np.int64], NDArray[np.int32], Floats]:
    """Pool the shards of a metric.

    Args:
        metric: One of `POOLED`.
        table: Its columns as `needed` names them, as Arrow.
        depths: By rank, the depth of each of its ids; rows of others are left out.

    Returns:
        step, depth and value, by step and then depth; only where the ranks hold the whole parameter between them.
    """
    how = POOLED[metric]
    depth = _depths(np.asarray(table["rank"]), np.asarray(table["id"]), depths)
    taken = np.asarray(table[metric].is_valid()) & (depth > 0)
    if how.base:
        taken &= np.asarray(table[how.base].is_valid())
    step, depth = np.asarray(table["step"])[taken], depth[taken]
    share, copies, value = (_floats(table[name])[taken] for name in needed(metric)[3:6])
    base = _floats(table[how.base])[taken] if how.base else np.ones(len(value))
    order = np.lexsort((depth, step))
    first = _starts(step[order], depth[order])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        parts = (share, *_parts(how.how, share, copies, value, base))
        shares, top, bottom = (np.add.reduceat(one[order], first) if len(first) else one[:0] for one in parts)
        whole = _value(how.how, top, bottom)
    kept = np.abs(shares - 1.0) < 1e-9
    if how.how == "ratio":
        kept &= bottom != 0.0
    return step[order][first][kept], depth[order][first][kept], whole[kept]


def _depths(
    rank: NDArray[np.int32], ids: NDArray[np.int32], depths: Mapping[int, Mapping[int, int]]
) -> NDArray[np.int32]:
    """Return the depth of every row, 0 where it is not known."""
    found = np.zeros(len(rank), np.int32)
    for one, known in depths.items():
        mine = np.flatnonzero(rank == one)
        by_id = np.zeros(max([*known, *ids[mine]], default=0) + 1, np.int32)
        by_id[list(known)] = list(known.values())
        found[mine] = by_id[ids[mine]]
    return found


def _starts(step: NDArray[np.int64], depth: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return where a new step or depth begins, in sorted rows."""
    new = np.ones(len(step), np.bool_)
    new[1:] = (step[1:] != step[:-1]) | (depth[1:] != depth[:-1])
    return np.flatnonzero(new)


def _parts(how: str, share: Floats, copies: Floats, value: Floats, base: Floats) -> tuple[Floats, Floats]:
    """What each shard adds to the upper and to the lower sum."""
    if how == "norm":
        return value**2 / copies, share
    if how == "mean":
        return share * value, share
    return share * (value * base) ** 2, share * base**2


def _value(how: str, top: Floats, bottom: Floats) -> Floats:
    if how == "mean":
        return top
    return np.asarray(np.sqrt(top / bottom if how == "ratio" else top))


def _floats(column: Any) -> Floats:
    return np.asarray(column.cast(pa.float64()).fill_null(0.0))
