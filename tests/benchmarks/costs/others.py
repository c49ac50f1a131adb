"""What people use today: hooks written by hand, Weights & Biases, TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from costs.sessions import Absent, Session, Start, nothing
from costs.workloads import Training
from torch import Tensor, nn


def naive(training: Training, _: Path) -> Session:
    """What people write by hand: a few statistics per activation module, a norm per gradient, ``.item()`` on each."""
    seen: dict[str, list[float]] = {}

    def on_forward(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _args: Any, out: Tensor) -> None:
            low = (out.abs() > 0.97).float().mean() if training.workload.phi is nn.Tanh else (out == 0).float().mean()
            found = [out.mean(), out.std(), out.min(), out.max(), out.norm(), low]
            seen[name] = [one.item() for one in found]

        return hook

    def on_backward(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _sent: Any, got: Any) -> None:
            seen[f"{name}.grad"] = [got[0].norm().item()]

        return hook

    for name, module in training.model.named_modules():
        if isinstance(module, training.workload.phi):
            module.register_forward_hook(on_forward(name))
            module.register_full_backward_hook(on_backward(name))

    def step() -> None:
        training.step()
        for name, parameter in training.model.named_parameters():
            if parameter.grad is not None:
                seen[name] = [parameter.grad.norm().item()]

    return Session(step, training.skip, nothing)


def weights_and_biases(log: str) -> Start:
    def start(training: Training, folder: Path) -> Session:
        if find_spec("wandb") is None:
            raise Absent("wandb is not installed; pip install 'gradscope-torch[bench]' brings it")
        import wandb

        if wandb.run is None:
            os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=str(folder))
            settings = wandb.Settings(x_disable_stats=True, console="off", silent=True)
            wandb.init(project="overhead", dir=str(folder), settings=settings)
        # Its hooks write to the one current run, and what they write is kept by the next log().
        wandb.watch(training.model, log=log, log_freq=1)  # type: ignore[arg-type]

        def step() -> None:
            training.step()
            wandb.log({})

        return Session(step, training.skip, wandb.finish)

    return start


def tensorboard(every: int) -> Start:
    def start(training: Training, folder: Path) -> Session:
        if find_spec("tensorboard") is None:
            raise Absent("tensorboard is not installed; pip install 'gradscope-torch[bench]' brings it")
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(folder))
        count = 0

        def step() -> None:
            nonlocal count
            training.step()
            if count % every == 0:
                for name, parameter in training.model.named_parameters():
                    writer.add_histogram(name, parameter.grad, count)
            count += 1

        def skip() -> None:
            nonlocal count
            count += 1

        return Session(step, skip, writer.close)

    return start
