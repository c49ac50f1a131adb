"""Train a small network on real data while it is watched: the training function of the built-in sweeps."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from gradscope.errors import InvalidTypeError, InvalidValueError, unknown_name
from gradscope.lab.data import Data, batches, load
from gradscope.lab.models import cnn, mlp
from gradscope.lab.validation import choice, number, whole
from gradscope.probe import watch
from gradscope.runs import Run

MODELS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn}
OPTIMIZERS = ("sgd", "adam")
# Found from the data, or given to train itself.
_SETTLED = ("inputs", "outputs", "image", "seed")


def train(
    *,
    out: str | os.PathLike[str],
    data: str | Data = "digits",
    model: str | nn.Module = "mlp",
    steps: int = 100,
    batch_size: int = 64,
    optimizer: str = "sgd",
    lr: float = 0.05,
    momentum: float = 0.0,
    every: int = 10,
    metrics: Any = "default",
    seed: int = 0,
    name: str | None = None,
    progress: bool = False,
    **options: Any,
) -> Run:
    """Train a network for some optimizer steps while it is watched, and return the run.

    Cross-entropy on batches that the seed fixes. Each step logs ``loss`` and ``accuracy`` of its batch; the
    end logs ``test_loss`` and ``test_accuracy`` on the held-out part. All hyper-parameters stand in the run's
    configuration. The global random state is neither used nor changed.

    Args:
        out: Folder of the run.
        data: Name of a data set (``gradscope.lab.data.load``), or one that is loaded.
        model: ``mlp``, ``cnn``, or a network of your own, which is trained in place.
        steps: Optimizer steps.
        batch_size: Samples of a step.
        optimizer: ``sgd`` or ``adam``.
        lr: Learning rate.
        momentum: Of ``sgd``.
        every: A step is recorded if it is a multiple of this.
        metrics: As of ``gradscope.watch``.
        seed: Of the weights and the order of the samples. The split of the data stays.
        name: What tables and figures call the run.
        progress: Whether to show a progress bar.
        options: Those of ``gradscope.lab.mlp`` or ``cnn``: ``depth``, ``width``, ``activation``, ``init``,
            ``norm``, ``residual``, ``bias``, ``weight_var``, ...; none for a network of your own.

    Raises:
        UnknownNameError: No such data set, model, optimizer or option.
        InvalidValueError: A number is out of range, or contradicts another.
        RunExistsError: ``out`` holds a run.
    """
    steps, seed = whole("steps", steps), whole("seed", seed, 0)
    samples = load(data) if isinstance(data, str) else data
    feed = batches(samples, batch_size, steps, seed)
    network, settings = _build(model, samples, seed, options)
    config = {
        "data": samples.name,
        "model": model if isinstance(model, str) else type(model).__name__,
        **settings,
        "steps": steps,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": momentum,
        "every": every,
        "seed": seed,
    }
    descent = _optimizer(optimizer, network, lr, momentum)
    with watch(network, descent, out=os.fspath(out), every=every, metrics=metrics, name=name, config=config) as probe:
        for x, y in _shown(feed, steps, progress):
            loss, accuracy = _judge(network, x, y)
            descent.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            descent.step()
            probe.log(loss=loss, accuracy=accuracy)
        loss, accuracy = evaluate(network, samples)
        probe.log(test_loss=loss, test_accuracy=accuracy)
    return Run(os.fspath(out))


@torch.no_grad()
def evaluate(model: nn.Module, data: Data) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and accuracy on the held-out part, in eval mode; the mode is put back."""
    before = model.training
    model.eval()
    loss, accuracy = _judge(model, data.x_test, data.y_test)
    model.train(before)
    return loss, accuracy


def _judge(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return loss and accuracy on the device and in the dtype of the model."""
    first = next(model.parameters())
    target = y.to(first.device)
    logits = model(x.to(first))
    return functional.cross_entropy(logits, target), (logits.detach().argmax(1) == target).double().mean()


def _build(
    model: str | nn.Module, data: Data, seed: int, options: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network and those of its settings that belong into the run's configuration."""
    if isinstance(model, nn.Module):
        if options:
            raise InvalidValueError(f"a network that is built already takes no options: {', '.join(options)}")
        return model, {}
    if not isinstance(model, str):
        raise InvalidTypeError(f"model must be a name or a torch.nn.Module, not {model!r}")
    make, settings = MODELS[choice("model", model, MODELS)], _defaults(model)
    for key in options:
        if key not in settings:
            raise unknown_name(f"option of {model}", key, settings)
    shape = {"image": data.shape} if model == "cnn" else {"inputs": data.inputs}
    settings |= options
    return make(outputs=data.classes, seed=seed, **shape, **settings), settings


def _defaults(model: str) -> dict[str, Any]:
    """Return the options of a model that can be chosen, with their defaults."""
    known = inspect.signature(MODELS[model]).parameters
    return {key: one.default for key, one in known.items() if key not in _SETTLED}


def _optimizer(name: str, model: nn.Module, lr: float, momentum: float) -> torch.optim.Optimizer:
    choice("optimizer", name, OPTIMIZERS)
    lr, momentum = number("lr", lr, least=0), number("momentum", momentum, least=0)
    if name == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    if momentum:
        raise InvalidValueError("momentum= belongs to optimizer 'sgd'")
    return torch.optim.Adam(model.parameters(), lr=lr)


def _shown(feed: Iterator[tuple[Tensor, Tensor]], steps: int, progress: bool) -> Iterator[tuple[Tensor, Tensor]]:
    if not progress:
        return feed
    return iter(track(feed, "steps", total=steps, console=Console(stderr=True)))


def _signature() -> inspect.Signature:
    """Return the signature of `train` with the options of the models by name; `...` where their defaults differ."""
    own = inspect.signature(train)
    defaults: dict[str, Any] = {}
    for model in MODELS:
        for key, default in _defaults(model).items():
            defaults[key] = default if defaults.get(key, default) == default else ...
    options = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=one) for key, one in defaults.items()]
    return own.replace(parameters=[one for one in own.parameters.values() if one.kind is one.KEYWORD_ONLY] + options)


# A sweep refuses what the signature does not show, before anything is trained.
train.__signature__ = _signature()  # type: ignore[attr-defined]
