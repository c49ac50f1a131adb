"""What of a training is compared: everything that a hook could have touched."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from gradscope.at_rest.copies import Trained
from gradscope.at_rest.verification.comparison import leaves
from gradscope.at_rest.world import Observation, World, names_of

TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def after_backward(trained: Trained, loss: Tensor) -> Iterator[Observation]:
    """The loss and the gradients, before the optimizer has its step."""
    yield "losses", "loss", loss.detach()
    for name, parameter in trained.parameters():
        yield "gradients", name, parameter.grad
    yield from World.now().observe()


def after_step(trained: Trained) -> Iterator[Observation]:
    """Everything that the step has left."""
    for name, parameter in trained.parameters():
        yield "gradients after the step", name, parameter.grad
        yield "parameters", name, parameter
        yield "requires_grad", name, parameter.requires_grad
    for name, module in trained.modules():
        yield from _of_module(name, module)
    yield from _optimizer_state(trained)
    for path, value in leaves(trained.scaler.state_dict() if trained.scaler is not None else {}):
        yield "scaler", path, value
    for path, value in leaves(list(trained.batch)):
        yield "batch", path, value
        yield "batch", f"{path} grad", value.grad if isinstance(value, Tensor) and value.is_leaf else None
    yield from World.now().observe()


def after_close(trained: Trained) -> Iterator[Observation]:
    """What must be as if nobody had ever watched."""
    for name, module in trained.modules():
        shown = f"{name or 'the model'} ({type(module).__name__})"
        for key, hooks in vars(module).items():
            if key.endswith("_hooks") or "_hooks_" in key:
                yield "hooks", f"{key} of {shown}", names_of(hooks)
        yield "attributes", shown, tuple(vars(module))
    for name, parameter in trained.parameters():
        for key in TENSOR_HOOKS:
            yield "hooks", f"{key} of {name}", names_of(getattr(parameter, key, None))
        yield "attributes", name, tuple(vars(parameter))
    for key, hooks in vars(trained.optimizer).items():
        if key.endswith("_hooks"):
            yield "hooks", f"{key.removeprefix('_optimizer')} of the optimizer", names_of(hooks)
    yield "attributes", "the optimizer", tuple(vars(trained.optimizer))
    if trained.scaler is not None:
        yield "attributes", "the scaler", (type(trained.scaler).__name__, *vars(trained.scaler))
    yield from World.now().observe()


def _of_module(name: str, module: nn.Module) -> Iterator[Observation]:
    for key, buffer in module._buffers.items():
        yield "buffers", f"{name}.{key}".lstrip("."), buffer
    for key, value in vars(module).items():
        if isinstance(value, Tensor):
            yield "tensor attributes", f"{name}.{key}".lstrip("."), value
    yield "training flags", name or "the model", module.training


def _optimizer_state(trained: Trained) -> Iterator[Observation]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in trained.parameters()}
    for owner, state in trained.optimizer.state.items():
        for path, value in leaves(state, names.get(owner, str(owner))):
            yield "optimizer state", path, value
    for place, group in enumerate(trained.optimizer.param_groups):
        settings = {key: value for key, value in group.items() if key != "params"}
        for path, value in leaves(settings, f"group {place}"):
            yield "optimizer state", path, value
