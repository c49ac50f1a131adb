"""The laboratory: small networks, real data, initializations, training and sweeps, all with seeds.

Names are loaded when first used: a sweep whose training runs in worker processes needs no torch here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradscope.loading import load as _load

if TYPE_CHECKING:
    from gradscope.lab import data
    from gradscope.lab.initialization import initialize
    from gradscope.lab.models import cnn, mlp
    from gradscope.lab.training import train

_HOME = {
    "cnn": "gradscope.lab.models",
    "initialize": "gradscope.lab.initialization",
    "mlp": "gradscope.lab.models",
    "train": "gradscope.lab.training",
}

__all__ = ["cnn", "data", "initialize", "mlp", "train"]


def __getattr__(name: str) -> Any:
    if name == "data":
        return _load("gradscope.lab.data")
    if name in _HOME:
        return getattr(_load(_HOME[name]), name)
    raise AttributeError(f"module 'gradscope.lab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
