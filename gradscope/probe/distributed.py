"""What a distributed training makes of a model: ranks, wrappers, sharded parameters.

Nothing here communicates: a collective that not every rank joins would hang the training. A sharded parameter
(``fully_shard``) is therefore measured by every rank on its own shard, and pooled when the run is read
(``gradscope.runs.shards``).
"""

from __future__ import annotations

import os
import sys
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_TENSOR_PARALLEL = "its weight is split within the forward pass (tensor parallel): no rank sees the whole layer"


def rank() -> int:
    """Return the number of this process: of its process group, or as ``torchrun`` gave it before there is one."""
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_rank())
    return int(os.environ.get("RANK", "0")) if _launched() else 0


def world_size() -> int:
    """Return the number of processes that train together; 1 outside a distributed training."""
    if dist.is_available() and dist.is_initialized():
        return int(dist.get_world_size())
    return int(os.environ.get("WORLD_SIZE", "1")) if _launched() else 1


def _launched() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside ``DistributedDataParallel``, however often it is wrapped; any other as it is."""
    while isinstance(model, DistributedDataParallel):
        model = model.module
    return model


def wrapper_parts(model: nn.Module) -> set[str]:
    """Return the qualified names below a model that only a ``DistributedDataParallel`` inside it brings about.

    >>> wrapper_parts(nn.Sequential(nn.Linear(1, 1)))
    set()
    """
    found = (name for name, module in model.named_modules() if isinstance(module, DistributedDataParallel))
    return {f"{name}.module".removeprefix(".") for name in found}


def flattens(module: nn.Module) -> bool:
    """Tell whether this is the older ``FullyShardedDataParallel``, which keeps many weights in one flat parameter."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel)


def may_be_sharded() -> bool:
    """Tell whether there can be a DTensor at all: its module takes half a second to import, and somebody has."""
    return "torch.distributed.tensor" in sys.modules


def is_sharded(tensor: object) -> bool:
    """Tell whether this is a DTensor: this process may hold only a part of it.

    >>> is_sharded(torch.ones(3)), is_sharded(None)
    (False, False)
    """
    return may_be_sharded() and isinstance(tensor, sys.modules["torch.distributed.tensor"].DTensor)


def local(tensor: Tensor | None) -> Tensor | None:
    """Return the part of a tensor that this process holds: the shard of a DTensor, else all of it.

    None for an empty shard, and where the entries are still to be added up over the ranks: no part means anything then.

    >>> local(torch.ones(3))
    tensor([1., 1., 1.])
    """
    if tensor is None or not is_sharded(tensor):
        return tensor
    part = _part(tensor)
    return None if part.numel() == 0 or any(one.is_partial() for one in _placements(tensor)) else part


def whole(tensor: Tensor | None) -> Tensor | None:
    """Return a tensor that this process holds all of; None for a DTensor.

    >>> whole(torch.ones(3))
    tensor([1., 1., 1.])
    """
    return None if is_sharded(tensor) else tensor


def share(parameter: Tensor) -> float:
    """Return the share of a parameter that this process counts for, from 0 to 1; over all ranks the shares sum to 1.

    A shard that several ranks hold alike (hybrid sharding) is divided among them. 0: an empty shard.

    >>> share(torch.ones(3))
    1.0
    """
    if not is_sharded(parameter):
        return 1.0
    return _part(parameter).numel() / max(parameter.numel(), 1) / copies(parameter)


def copies(parameter: Tensor) -> int:
    """Return how many ranks hold the same shard: the product of the mesh dimensions that replicate.

    >>> copies(torch.ones(3))
    1
    """
    if not is_sharded(parameter):
        return 1
    mesh, count = parameter.device_mesh, 1  # type: ignore[attr-defined]
    for dim, placement in enumerate(_placements(parameter)):
        count *= mesh.size(dim) if placement.is_replicate() else 1
    return count


class LocalGradient:
    """Follows a gradient between accumulations, to tell whether it still is this rank's own.

    ``DistributedDataParallel`` averages a gradient right after a backward pass has accumulated it. What a second
    backward pass of the same step accumulates on top is neither the local gradient nor the averaged one. Under
    ``no_sync`` nothing happens in between, and the sum stays local.

    Args:
        weight: The parameter; not kept alive.
    """

    # torch warns when a tensor with hooks is pickled, unless they say that they do not want to be.
    __torch_unserializable__ = True

    def __init__(self, weight: Tensor) -> None:
        self._weight = weakref.ref(weight)
        self._left: tuple[int, int] | None = None
        self._own: bool | None = None
        self._handle: Any = weight.register_hook(self)  # type: ignore[no-untyped-call]

    def __call__(self, _: Tensor) -> None:
        """Look at what is there already: called before the gradient of a backward pass is accumulated."""
        weight = self._weight()
        there = None if weight is None else weight.grad
        if self._own is None:
            self._own = there is None or (there.device.type == "cpu" and not bool(there.any()))
        elif self._own:
            self._own = there is not None and (id(there), there._version) == self._left

    def accumulated(self, weight: Tensor) -> bool:
        """Note what an accumulation left; tell whether all of it is this rank's own."""
        grad = weight.grad
        self._left = None if grad is None else (id(grad), grad._version)
        return bool(self._own)

    def remove(self) -> None:
        """Look no longer."""
        self._handle.remove()


def why_unseen(module: nn.Module, called: nn.Module, output: object) -> str | None:
    """Say why a layer call cannot be recorded by this rank alone; None where it can.

    Under ``fully_shard`` weights are whole within the forward pass, and outputs are what this rank's data gives. A
    layer whose output or weight is a DTensor there (tensor parallel) is another matter: this rank sees some of its
    units, and a norm of the rest would need a collective.

    Args:
        module: The layer's module.
        called: The module that was called: a copy of it, where ``DataParallel`` runs several at once.
        output: What it returned.
    """
    if called is not module:
        return "called as a copy, by DataParallel: several run at once, and none is the layer"
    if not may_be_sharded():
        return None
    if is_sharded(output):
        return "its output is a DTensor: its norms would need a collective"
    weight = module._parameters.get("weight")
    # A layer that is sharded by itself has its shard back before our hook is called.
    if is_sharded(weight) and not (_is_fully_sharded(module) and _sharded_dims(weight) <= 1):
        return _TENSOR_PARALLEL
    return None


def _is_fully_sharded(module: nn.Module) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def _sharded_dims(tensor: Any) -> int:
    return sum(not placement.is_replicate() for placement in _placements(tensor))


def _part(tensor: Any) -> Tensor:
    with torch.no_grad():
        part: Tensor = tensor.to_local()
    return part.detach()


def _placements(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.placements)
