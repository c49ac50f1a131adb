"""The @metric decorator and the registry: one metric is one small function that names its signals."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gradscope.errors import InvalidTypeError, InvalidValueError, unknown_name
from gradscope.signals import ANY_PHASE, SIGNALS, Phase, Request, parse_signal
from gradscope.spec import Band, ColumnType, Combine, MetricSpec, Scale

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A function of signals with its spec.

    Attributes:
        spec: What readers know of it.
        function: Pure function; one number per layer call.
        requests: What its parameters ask for, in order.
        phase: When its tensors are at hand; None for a function of statistics only, which runs for all calls of
            several steps at once.
    """

    spec: MetricSpec
    function: Callable[..., Any]
    requests: tuple[Request, ...]
    phase: Phase | None

    @property
    def name(self) -> str:
        """Column name."""
        return self.spec.name


_registry: dict[str, Metric] = {}
DEFAULT_GROUPS = ("backward", "weights", "forward", "activation")


def metric(
    *,
    label: str,
    unit: str = "1",
    group: str = "custom",
    scale: Scale = "linear",
    bounds: tuple[float | None, float | None] = (None, None),
    degree: float | None = None,
    combine: Combine = "mean",
    dtype: ColumnType = "float64",
    healthy: Band | None = None,
    formula: str = "",
    source: str = "",
    parameters: Mapping[str, str | int | float] | None = None,
) -> Callable[[F], F]:
    """Register a function as a metric; its parameter names say which signals it takes (``gradscope.signals``).

    The function must be pure: it does not change its input and keeps no reference to it. Tensors come detached. It
    returns one number per layer call: a 0-dim tensor or a float, None where it is undefined, or a ``Ratio``, which is
    null where its denominator is zero. A function of statistics only (``*_moments``, ``*_squares``, ``*_zeros``, ...)
    gets arrays with one entry per call and returns such an array; it is much the cheaper kind. An error inside it
    never reaches the training loop: it is reported once, and the value is null.

    Registering a name again from the same module replaces it (a notebook cell run twice).

    Raises:
        UnknownNameError: for a parameter that is no signal; the message lists the signals.
        InvalidValueError: for a name another module has taken, or tensors of two phases.

    >>> from gradscope.metrics import unregister
    >>> @metric(label="Largest weight gradient", scale="log", degree=1)
    ... def weight_grad_max(weight_grad):
    ...     return weight_grad.abs().max()
    >>> unregister("weight_grad_max")
    """

    def register(function: F) -> F:
        name = function.__name__
        requests = tuple(parse_signal(parameter) for parameter in inspect.signature(function).parameters)
        phase = _phase(name, requests)
        doc = (inspect.getdoc(function) or label).strip().splitlines()[0]
        spec = MetricSpec(
            name=name,
            label=label,
            unit=unit,
            group=group,
            scale=scale,
            bounds=bounds,
            degree=degree,
            combine=combine,
            signals=tuple(inspect.signature(function).parameters),
            dtype=dtype,
            healthy=healthy,
            doc=doc,
            formula=formula,
            source=source,
            parameters=dict(parameters or {}),
        )
        _refuse_taken(name, function)
        _registry[name] = Metric(spec, function, requests, phase)
        return function

    return register


def _phase(name: str, requests: tuple[Request, ...]) -> Phase | None:
    if not requests:
        raise InvalidValueError(f"metric {name!r} takes no signals; name at least one of: {', '.join(SIGNALS)}")
    tensors = [request for request in requests if not request.is_statistic]
    phases = {request.phase for request in tensors if request.signal not in ANY_PHASE}
    # What a layer sends back is kept until the gradient of its input is complete.
    if phases == {"backward", "input_total"} and all(request.signal != "output_grad" for request in tensors):
        phases = {"input_total"}
    if len(phases) > 1 or (phases and len(tensors) != len(requests)):
        asked = ", ".join(f"{request.signal} ({request.phase})" for request in requests)
        raise InvalidValueError(
            f"metric {name!r} asks for tensors of several phases: {asked}; "
            "take tensors of one phase, or statistics only"
        )
    if not tensors:
        return None
    return phases.pop() if phases else "step"


def _refuse_taken(name: str, function: Callable[..., Any]) -> None:
    if name in RESERVED:
        raise InvalidValueError(f"metric {name!r} has the name of a column of every run; choose another name")
    taken = _registry.get(name)
    if taken is not None and taken.function.__module__ != function.__module__:
        raise InvalidValueError(
            f"metric {name!r} of {function.__module__} is already registered by {taken.function.__module__}"
        )


RESERVED = ("step", "rank", "id", "skipped", "nonfinite", "depth", "layer", "call")


def unregister(name: str) -> None:
    """Forget a metric.

    Raises:
        UnknownNameError: if there is none of that name.
    """
    if name not in _registry:
        raise unknown_name("metric", name, _registry)
    del _registry[name]


def registered() -> dict[str, Metric]:
    """All metrics by name, in order of registration."""
    return dict(_registry)


def select(metrics: str | Iterable[str]) -> tuple[Metric, ...]:
    """Resolve the ``metrics=`` argument of ``watch``.

    Args:
        metrics: ``"default"`` (groups backward, weights, forward, activation, and every metric of the user's own),
            ``"all"``, a group, a metric, or a list of these.

    Raises:
        UnknownNameError: for a name that is none of these; the message lists them.
        InvalidTypeError: for something else than names.
        InvalidValueError: for an empty list.
    """
    names = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(names, Iterable):
        raise InvalidTypeError(f"metrics is a name or a list of names, not {type(metrics).__name__}")
    chosen: dict[str, Metric] = {}
    names = list(names)
    if not names:
        raise InvalidValueError("metrics is an empty list; leave it out for the default ones")
    for name in names:
        for one in _named(name):
            chosen[one.name] = one
    return tuple(one for key, one in _registry.items() if key in chosen)


def _named(name: str) -> list[Metric]:
    groups = {one.spec.group for one in _registry.values()}
    if name == "all":
        return list(_registry.values())
    if name == "default":
        return [one for one in _registry.values() if one.spec.group in (*DEFAULT_GROUPS, "custom")]
    if name == "histograms":
        return []
    if name in groups:
        return [one for one in _registry.values() if one.spec.group == name]
    if name in _registry:
        return [_registry[name]]
    raise unknown_name("metric", name, ["default", "all", "histograms", *sorted(groups), *_registry])


def wants_histograms(metrics: str | Iterable[str]) -> bool:
    """Tell whether a selection includes the histograms."""
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    return "all" in names or "histograms" in names


__all__ = ["Metric", "metric", "registered", "select", "unregister", "wants_histograms"]
