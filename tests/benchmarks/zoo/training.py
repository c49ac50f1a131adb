"""Train one network of the zoo while everybody watches, and label it by what came out."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.cases import Case
from zoo.faults import build, spoil
from zoo.observing import Observer, Seen

import gradscope as gs
from gradscope.lab.data import Data

CLASSES = 10
CHANCE = 1 / CLASSES
EVERY = 10
"""Steps between two that gradscope records, its default."""
LOOKS = 20
"""Looks of the other tools at a training: their epochs."""
RESULT = "result.json"


@dataclass(frozen=True)
class Record:
    """A trained network.

    Attributes:
        digest: Of the case.
        accuracy: On the held-out part, at the end.
        label: ``sick``, ``healthy`` or ``unclear``.
        losses: Of every step, as they were logged.
        seconds: What the training took.
        seen: What the rules of other tools look at.
    """

    digest: str
    accuracy: float
    label: str
    losses: tuple[float, ...]
    seconds: float
    seen: tuple[Seen, ...]


def label(case: Case, accuracy: float) -> str:
    """Label a network by the injected fault, else by its skill: its way from chance to perfection.

    Below a tenth of it has not left chance, above six tenths it has clearly learnt; what lies between is not judged.

    >>> label(Case("a", "b", fault="nan"), 0.9), label(Case("a", "b"), 0.12), label(Case("a", "b"), 0.5)
    ('sick', 'sick', 'unclear')
    """
    skill = (accuracy - CHANCE) / (1 - CHANCE)
    if case.fault or skill < 0.1:
        return "sick"
    return "healthy" if skill > 0.6 else "unclear"


def trained(case: Case, folder: Path) -> Record:
    """Return what a folder holds of a case; train it where that is of another one, or nothing."""
    kept = folder / RESULT
    if kept.exists() and (found := _read(kept)).digest == case.digest:
        return found
    shutil.rmtree(folder, ignore_errors=True)
    record = _train(case, folder)
    kept.write_text(json.dumps(asdict(record)))
    return record


def _train(case: Case, folder: Path) -> Record:
    start = time.perf_counter()
    data, model = gs.lab.data.load("digits"), build(case)
    optimizer = _optimizer(case, model)
    observer, looks = Observer(model), max(1, case.steps // LOOKS)
    losses: list[Tensor] = []
    seen: list[Seen] = []
    feed = gs.lab.data.batches(data, case.batch, case.steps, case.seed)
    with gs.watch(model, optimizer, out=folder / "run", every=EVERY, name=case.name, config=asdict(case)) as probe:
        for step, (x, y) in enumerate(feed):
            x, y = spoil(case, step, model, x, y)
            if step % looks == 0:
                observer.start()
            loss = _loss(case, model, x, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            probe.log(loss=loss)
            losses.append(loss.detach())
            if step % looks == 0:
                observer.stop()
                train, (test, test_loss) = _accuracy(case, model, data, "train")[0], _accuracy(case, model, data)
                seen.append(observer.seen(step, loss.item(), train, test, test_loss))
    accuracy = _accuracy(case, model, data)[0]
    seconds = time.perf_counter() - start
    return Record(
        case.digest, accuracy, label(case, accuracy), tuple(float(one) for one in losses), seconds, tuple(seen)
    )


def _optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    """SGD is given the inverse of the loss scale: the same training. Adam does not mind it."""
    if case.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=case.lr)
    momentum = {"sgd": 0.0, "momentum": 0.9}[case.optimizer]
    return torch.optim.SGD(model.parameters(), lr=case.lr / case.loss_scale, momentum=momentum)


def _loss(case: Case, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    dtype = next(model.parameters()).dtype
    return F.cross_entropy(model(x.to(dtype)).float(), y) * case.loss_scale


@torch.no_grad()
def _accuracy(case: Case, model: nn.Module, data: Data, part: str = "test") -> tuple[float, float]:
    """Accuracy and scaled loss, in evaluation mode; the network of a case with blank pictures sees blank ones."""
    x, y = (data.x_train, data.y_train) if part == "train" else (data.x_test, data.y_test)
    x = torch.zeros_like(x) if case.fault == "blank" else x
    model.eval()
    logits = model(x.to(next(model.parameters()).dtype)).float()
    model.train()
    loss = F.cross_entropy(logits, y).item() * case.loss_scale
    return (logits.argmax(1) == y).double().mean().item(), loss


def _read(path: Path) -> Record:
    given: dict[str, Any] = json.loads(path.read_text())
    given["seen"] = tuple(_seen(one) for one in given["seen"])
    return Record(**{**given, "losses": tuple(given["losses"])})


def _seen(given: dict[str, Any]) -> Seen:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Seen(**values)
