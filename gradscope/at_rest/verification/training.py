"""Train two copies side by side and compare them wherever they stop."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field

from torch import Tensor

from gradscope.at_rest.copies import Trained
from gradscope.at_rest.verification.comparison import Difference, compare
from gradscope.at_rest.verification.observation import after_backward, after_close, after_step
from gradscope.at_rest.world import Observation, World
from gradscope.probe import Probe

Watcher = Callable[[Trained], AbstractContextManager[Probe]]


@dataclass(frozen=True)
class Moment:
    """Where two trainings are compared. Tensors are the live ones: a training that rests does not change them."""

    step: int
    observations: list[Observation]


@dataclass
class Comparison:
    """What came of a comparison.

    Attributes:
        checked: How many things were compared, by kind.
        differences: The first difference of each thing, in order of time.
    """

    checked: Counter[str] = field(default_factory=Counter)
    differences: dict[tuple[str, str], Difference] = field(default_factory=dict)


def side_by_side(first: Trained, second: Trained, steps: int, watcher: Watcher | None) -> Comparison:
    """Train two copies from the same world, the first one watched, and compare them bit for bit.

    Raises:
        Exception: whatever the training itself raises, without anyone watching, and what ``watch`` refuses.
    """
    found = Comparison()
    start = World.now()
    sides = (_moments(first, steps, watcher), _moments(second, steps, None))
    with closing(sides[0]), closing(sides[1]):
        # The first moment comes before the first step: what is raised there is a refusal to watch.
        _, world = _advance(sides[1], start)
        _, watched_world = _advance(sides[0], start)
        while True:
            bare, world = _advance(sides[1], world)
            try:
                watched, watched_world = _advance(sides[0], watched_world)
            except Exception as error:
                found.differences["errors", "the watched training"] = _raised(error, bare)
                return found
            if watched is None or bare is None:
                return found
            _compare(watched, bare, found)


def _raised(error: Exception, bare: Moment | None) -> Difference:
    text = f"raised {type(error).__name__}: {error}; the bare one did not"
    return Difference("errors", "the watched training", bare.step if bare else 0, 1, 1, math.nan, text)


def _advance(side: Iterator[Moment], world: World) -> tuple[Moment | None, World]:
    """Let one training go on in its own world until it stops next."""
    outside = World.now()
    world.restore()
    try:
        return next(side, None), World.now()
    finally:
        outside.restore()


def _compare(first: Moment, second: Moment, found: Comparison) -> None:
    a, b = ({(what, where): value for what, where, value in one.observations} for one in (first, second))
    for key in {**b, **a}:
        one, other = a.get(key), b.get(key)
        if one is None and other is None:
            continue
        found.checked[key[0]] += 1
        difference = compare(*key, second.step, one, other)
        if difference is not None:
            found.differences.setdefault(key, difference)


def _moments(trained: Trained, steps: int, watcher: Watcher | None) -> Generator[Moment]:
    with watcher(trained) if watcher else nullcontext() as probe:
        yield Moment(0, [])
        for step in range(steps):
            yield from _closure_step(trained, step) if _evaluates(trained) else _plain_step(trained, step, probe)
            yield Moment(step, list(after_step(trained)))
            trained.optimizer.zero_grad()
    yield Moment(steps, list(after_close(trained)))


def _plain_step(trained: Trained, step: int, probe: Probe | None) -> Iterator[Moment]:
    scaler = trained.scaler
    loss = _backward(trained)
    yield Moment(step, list(after_backward(trained, loss)))
    if scaler is None:
        trained.optimizer.step()
    else:
        scaler.step(trained.optimizer)
        scaler.update()
    if probe is not None:
        probe.log(loss=loss)


def _closure_step(trained: Trained, step: int) -> Iterator[Moment]:
    """The optimizer asks for losses itself, as LBFGS does."""
    losses: list[Tensor] = []

    def closure() -> Tensor:
        trained.optimizer.zero_grad()
        loss = _backward(trained)
        losses.append(loss.detach())
        return loss

    trained.optimizer.step(closure)  # type: ignore[arg-type]  # torch says float; its own examples return tensors
    yield Moment(step, [("losses", f"evaluation {place}", loss) for place, loss in enumerate(losses)])


def _backward(trained: Trained) -> Tensor:
    loss = trained.loss()
    (loss if trained.scaler is None else trained.scaler.scale(loss)).backward()  # type: ignore[no-untyped-call]
    return loss


def _evaluates(trained: Trained) -> bool:
    """Whether a step cannot do without a closure."""
    closure = inspect.signature(trained.optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
