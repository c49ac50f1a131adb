"""What everything that looks at a batch asks of it, in one place and in one voice."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gradscope.at_rest.readings.model import tensors
from gradscope.errors import InvalidTypeError, InvalidValueError


def check_batch(x: Any, y: Any = None, names: tuple[str, str] = ("x", "y"), *, empty: bool = False) -> None:
    """Refuse arrays where tensors belong, and a batch without samples; models may take anything else.

    Args:
        x: Inputs.
        y: Targets; None for none.
        names: What the caller calls the two.
        empty: A batch without samples will do.

    Raises:
        InvalidTypeError: x or y is a numpy array.
        InvalidValueError: All tensors of either hold nothing.
    """
    for name, value in zip(names, (x, y), strict=True):
        if isinstance(value, np.ndarray):
            raise InvalidTypeError(f"{name} is a tensor, not {type(value).__name__}: give torch.from_numpy({name})")
        found = list(tensors(value))
        if found and not empty and all(one.numel() == 0 for one in found):
            raise InvalidValueError(f"{name} holds no sample: its shape is {tuple(found[0].shape)}")


def check_finite(name: str, value: Any) -> None:
    """Refuse tensors with NaN or infinity.

    Args:
        name: What the caller calls it.
        value: A tensor or a nest of tensors.

    Raises:
        InvalidValueError: An entry is no finite number.
    """
    for one in tensors(value):
        if not (one.is_floating_point() or one.is_complex()):
            continue
        wrong = int((~torch.isfinite(one.detach())).sum())
        if wrong:
            raise InvalidValueError(f"{name} holds NaN or infinity in {wrong:,} of {one.numel():,} entries")
