"""Whether a call has left a model, a batch, a loss and all that a process shares as they were, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import torch
from torch import Tensor

from gradscope.at_rest.copies import Loss, Trained
from gradscope.at_rest.verification.comparison import compare
from gradscope.at_rest.verification.observation import after_close, after_step


@contextmanager
def untouched(model: torch.nn.Module, x: Any, y: Any, loss_fn: Loss | None = None) -> Iterator[None]:
    """Fail if anything differs afterwards: parameters, gradients, buffers, flags, hooks, attributes, random states."""
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters or [torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    seen = Trained(model, optimizer, loss_fn or torch.nn.functional.cross_entropy, (x, y))
    before, identities = _observed(seen), [id(module) for module in model.modules()]
    files = _files()
    yield
    after = _observed(seen)
    assert before.keys() == after.keys()
    differences = [compare(*key, 0, before[key], after[key]) for key in before]
    assert [one for one in differences if one is not None] == []
    assert [id(module) for module in model.modules()] == identities
    assert [id(one) for one in model.parameters()] == [id(one) for one in parameters]
    assert _files() == files


def _observed(one: Trained) -> dict[tuple[str, str], object]:
    found = [*after_step(one), *after_close(one)]
    return {(what, where): value.clone() if isinstance(value, Tensor) else value for what, where, value in found}


def _files() -> list[str]:
    """What lies in fsspec's memory, which outlives a run."""
    return sorted(fsspec.filesystem("memory").store)
