"""Flags on a few parameters tell whether there was a backward pass; an unrecorded step carries nothing else there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gradscope.probe.layers import plain


class Flag:
    """Whether something was seen.

    Its hook runs in every backward pass: it refers to nothing but the flag, so that it keeps nothing alive, and is a
    plain function, so that it costs next to nothing; a compiler that traces it finds nothing to break a graph for.
    """

    def __init__(self) -> None:
        self.seen = False

    def hook(self) -> Callable[[Tensor], None]:
        """Return a hook that raises the flag."""

        def see(_: Tensor) -> None:
            self.seen = True

        return see


def hooked(parameter: Any, hook: Callable[..., None]) -> Any:
    """Call a hook when a gradient has been added to a parameter's; torch leaves the method untyped."""
    return parameter.register_post_accumulate_grad_hook(hook)


def spread(model: nn.Module, count: int) -> list[nn.Parameter]:
    """Some trainable parameters, from the first to the last."""
    trained = [one for one in model.parameters() if one.requires_grad and plain(one) is not None]
    step = max((len(trained) - 1) / (count - 1), 1)
    places = {min(round(place * step), len(trained) - 1) for place in range(count)} if trained else set()
    return [trained[place] for place in sorted(places)]
