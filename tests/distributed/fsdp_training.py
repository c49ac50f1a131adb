"""What each rank does in the tests of fully_shard."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import gradscope as gs
from gradscope.metrics import unregister

STEPS, BATCH = 3, 8


class Net(nn.Module):
    """Layers of 9, 7 and 1 rows: two ranks hold uneven shards of them, and one rank nothing of the last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 9)
        self.block = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 9))
        self.head = nn.Linear(9, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        out: Tensor = self.head(torch.nn.functional.gelu(h + self.block(h)))
        return out


def batches() -> list[tuple[Tensor, Tensor]]:
    """The joint batches of both ranks; rank r has every second sample, from r on."""
    torch.manual_seed(1)
    return [(torch.randn(2 * BATCH, 6), torch.randn(2 * BATCH, 1)) for _ in range(STEPS)]


def sharded(how: str, shape: tuple[int, ...] = (2,), **options: Any) -> Net:
    """Shard a net as a whole, layer by layer, block by block, or only its block."""
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    net = Net()
    if how == "checkpointed":
        net.block = checkpoint_wrapper(net.block)  # type: ignore[assignment]
        how = "block"
    inner = {"whole": [], "layers": [net.first, net.block[0], net.block[2], net.head], "block": [net.block]}
    for module in inner.get(how, [net.block]):
        fully_shard(module, mesh=mesh, **options)
    return net if how == "part" else fully_shard(net, mesh=mesh, **options)  # type: ignore[return-value]


def train(
    rank: int,
    out: str,
    *,
    how: str = "block",
    watching: tuple[int, ...] = (0, 1),
    parts: int = 1,
    bf16: bool = False,
    without_optimizer: bool = False,
    metrics: Any = "default",
    optimizer: str = "SGD",
    **options: Any,
) -> list[float]:
    """Train the net on this rank's half of the joint batches.

    Returns:
        This rank's part of the parameters at the end.
    """
    if bf16:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = sharded(how, **options)
    made = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1)
    given = None if without_optimizer else made
    watch = gs.watch(model, given, out=out, every=1, metrics=metrics) if rank in watching else nullcontext()
    with watch as probe:
        for x, y in batches():
            pieces = list(zip(x[rank::2].chunk(parts), y[rank::2].chunk(parts), strict=True))
            for place, (piece_x, piece_y) in enumerate(pieces):
                if parts > 1:
                    model.set_requires_gradient_sync(place == parts - 1)
                (nn.functional.mse_loss(model(piece_x), piece_y) / parts).backward()
            if without_optimizer and probe is not None:
                probe.step()
            made.step()
            made.zero_grad()
    local = [one.to_local() if hasattr(one, "to_local") else one for one in model.parameters()]
    return torch.cat([one.detach().flatten() for one in local]).tolist()


def train_with_own_metric(rank: int, out: str, **options: Any) -> None:
    @gs.metric(label="Largest weight gradient")
    def weight_grad_max(weight_grad: Tensor) -> Tensor:
        return weight_grad.abs().max()

    @gs.metric(label="Largest output gradient, weighed")
    def output_grad_max(output_grad: Tensor, weight: Tensor) -> Tensor:
        return output_grad.abs().max() * weight.abs().max()

    try:
        train(rank, out, metrics=["weight_grad_max", "output_grad_max", "histograms"], **options)
    finally:
        unregister("weight_grad_max")
        unregister("output_grad_max")


def train_tensor_parallel(rank: int, out: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    parallelize_module(model, init_device_mesh("cpu", (2,)), {"2": ColwiseParallel(output_layouts=Replicate())})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=out, every=1):
        for x, y in batches():
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()


def alone(out: str, *, half: int | None = None, metrics: Any = "default", optimizer: str = "SGD") -> None:
    """Train in one process on the joint batches, or on the half of one rank."""
    model = Net()
    made = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1)
    with gs.watch(model, made, out=out, every=1, metrics=metrics):
        for x, y in batches():
            mine = slice(None) if half is None else slice(half, None, 2)
            nn.functional.mse_loss(model(x[mine]), y[mine]).backward()
            made.step()
            made.zero_grad()
