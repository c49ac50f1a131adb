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
import pandas as pd
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


def pool(metric: str, table: Mapping[str, Any], depths: Mapping[int, Mapping[int, int]]) -> pd.DataFrame:
    """Pool the shards of a metric.

    Args:
        metric: One of `POOLED`.
        table: Its columns as `needed` names them, as Arrow.
        depths: By rank, the depth of each of its ids; rows of others are left out.

    Returns:
        step, depth and value, by step and then depth; only where the ranks hold the whole weight between them.
    """
    how = POOLED[metric]
    frame = pd.DataFrame({name: np.asarray(table[name]) for name in ("step", "rank", "id")})
    present = np.asarray(table[metric].is_valid())
    share, copies, value = (_floats(table[name]) for name in needed(metric)[3:6])
    base = _floats(table[how.base]) if how.base else np.ones(len(value))
    if how.base:
        present &= np.asarray(table[how.base].is_valid())
    frame["depth"] = [depths.get(rank, {}).get(one, 0) for rank, one in zip(frame["rank"], frame["id"], strict=True)]
    frame["share"] = share
    frame["top"], frame["bottom"] = _parts(how.how, share, copies, value, base)
    sums = frame[present & (frame["depth"] > 0)].groupby(["step", "depth"], as_index=False)
    pooled = sums[["share", "top", "bottom"]].sum(min_count=1, skipna=False)
    kept = pooled[(pooled["share"] - 1.0).abs() < 1e-9].reset_index(drop=True)
    kept["value"] = _value(how.how, kept["top"].to_numpy(), kept["bottom"].to_numpy())
    undefined = (how.how == "ratio") & (kept["bottom"] == 0.0)
    return kept.loc[~undefined, ["step", "depth", "value"]].reset_index(drop=True)


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
    if how != "ratio":
        return np.asarray(np.sqrt(top))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(top) / np.sqrt(bottom))


def _floats(column: Any) -> Floats:
    return np.asarray(column.cast(pa.float64()).fill_null(0.0))
