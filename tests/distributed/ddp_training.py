"""What each rank does in the tests of DistributedDataParallel."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

import gradscope as gs
from gradscope.errors import InvalidValueError

STEPS, BATCH = 3, 8


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 2))


def batches() -> list[tuple[Tensor, Tensor]]:
    """The joint batches of both ranks; rank r has every second sample, from r on."""
    torch.manual_seed(1)
    return [(torch.randn(2 * BATCH, 6), torch.randn(2 * BATCH, 2)) for _ in range(STEPS)]


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(x), y)


def train(
    rank: int,
    out: str,
    *,
    watching: tuple[int, ...] = (0, 1),
    inner: bool = False,
    before: bool = False,
    parts: int = 1,
    sync_all: bool = False,
    to_none: bool = True,
    clip: float | None = None,
    compress: bool = False,
    idle: tuple[int, ...] = (),
    **options: Any,
) -> list[float]:
    """Train the net on this rank's half of the joint batches.

    Args:
        rank: This rank.
        out: Folder of the run.
        watching: Which ranks watch.
        inner: Watch the module inside the wrapper.
        before: Watch it before it is wrapped.
        parts: Micro-batches of a step.
        sync_all: Average after every micro-batch, not after the last alone.
        to_none: How gradients are zeroed.
        clip: Greatest norm of all gradients.
        compress: Average in half precision.
        idle: Ranks whose gradients are all zero.
        options: Of DistributedDataParallel.

    Returns:
        The parameters at the end.
    """
    bare = net()
    optimizer = torch.optim.SGD(bare.parameters(), lr=0.1)
    early = gs.watch(bare, optimizer, out=out, every=1) if before else nullcontext()
    model = DistributedDataParallel(bare, **options)
    if compress:
        model.register_comm_hook(None, fp16_compress_hook)
    with early, watched(rank in watching and not before, model.module if inner else model, optimizer, out):
        for x, y in batches():
            pieces = list(zip(x[rank::2].chunk(parts), y[rank::2].chunk(parts), strict=True))
            for place, (piece_x, piece_y) in enumerate(pieces):
                last = place == parts - 1
                with nullcontext() if last or sync_all else model.no_sync():
                    (loss_of(model, piece_x, piece_y) / parts * (rank not in idle)).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=to_none)
    return torch.cat([one.detach().flatten() for one in model.parameters()]).tolist()


@contextmanager
def watched(watch: bool, model: nn.Module, optimizer: Any, out: str) -> Iterator[Any]:
    if not watch:
        yield None
        return
    with gs.watch(model, optimizer, out=out, every=1) as probe:
        yield probe


def alone(out: str, *, samples: Callable[[Tensor], Tensor] = lambda x: x, clip: float | None = None) -> list[float]:
    """Train in one process on the joint batches, or on a part of them."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watched(True, model, optimizer, out):
        for x, y in batches():
            loss_of(model, samples(x), samples(y)).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
    return torch.cat([one.detach().flatten() for one in model.parameters()]).tolist()


def train_named(rank: int, out: str, how: str) -> None:
    """Train one step of a model that is wrapped in some way, and watch it."""
    model = Wrapped()
    if how == "checkpoint_wrapper":
        model.block = checkpoint_wrapper(model.block)  # type: ignore[assignment]
    if how == "inner":
        model.block = DistributedDataParallel(model.block)  # type: ignore[assignment]
    whole: Any = model
    if how.startswith("compiled"):
        whole = torch.compile(model, backend="eager")
    if how != "inner":
        whole = DistributedDataParallel(whole)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(whole, optimizer, out=out, every=1, layers=["block.*", "module.head"]):
        x, y = batches()[0]
        loss_of(whole, x[rank::2], y[rank::2]).backward()
        optimizer.step()


class Wrapped(nn.Module):
    """A model whose own names look like those of wrappers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7))
        self.module = nn.ModuleDict({"head": nn.Linear(7, 2)})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module["head"](torch.relu(self.block(x)))
        return out


class Forked(nn.Module):
    """Every rank takes a way of its own through the model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.ways = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, way: int) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.ways[way](torch.tanh(self.first(x)))))
        return out


def train_forked(rank: int, out: str) -> list[float]:
    """Take another way at each step, ranks in opposite order; return the norms of dL/dz of this rank's way."""
    model = Forked()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms: list[float] = []
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, z: Tensor) -> None:
        z.register_hook(seen.append)

    for way in model.ways:
        way.register_forward_hook(keep)
    with gs.watch(wrapped, optimizer, out=out, every=1):
        for step, (x, y) in enumerate(batches()):
            nn.functional.mse_loss(wrapped(x[rank::2], (step + rank) % 2), y[rank::2]).backward()
            norms.append(float(seen[-1].norm()))
            optimizer.step()
            optimizer.zero_grad()
    return norms


def open_in_order(rank: int, out: str, first: int, resume: bool = False) -> None:
    """Watch and train a step, one rank after the other or the other way round."""
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if rank != first:
        dist.barrier()
    with gs.watch(model, optimizer, out=out, every=1, resume=resume):
        if rank == first:
            dist.barrier()
        x, y = batches()[0]
        loss_of(model, x[rank::2], y[rank::2]).backward()
        optimizer.step()


def verify(rank: int) -> bool:
    model = DistributedDataParallel(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = batches()[0]
    return gs.verify(model, optimizer, nn.functional.mse_loss, (x[rank::2], y[rank::2])).identical


def watch_nowhere(rank: int, folder: str) -> str:
    """Watch without saying where to; return the error."""
    os.chdir(folder)
    try:
        gs.watch(net()).close()
    except InvalidValueError as error:
        return str(error)
    return ""
