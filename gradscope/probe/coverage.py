"""Say, in words, what was recorded of every layer, and why something was not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gradscope.probe.layers import Layer
from gradscope.probe.records import CallRecord
from gradscope.probe.tiers import NO, Scope, has_gradient, tiers_of
from gradscope.runs.coverage import CoverageTable

EAGERLY = "; what is compiled ran eagerly for this step"


@dataclass(frozen=True)
class Coverage:
    """What a recorded step showed of a layer.

    Attributes:
        layer: Qualified name.
        code: ``recorded``, or why not all of it: ``never_called``, ``uncounted``, ``compiled``, ``unused``, ``missed``,
            ``repeated``, ``no_gradient``, ``frozen``, ``no_contribution``, ``computed_weight``,
            ``unknown_activation``, ``error``, ``filtered``, ``scripted``, ``not_yet``.
        expected: Output gradients that should have arrived.
        fired: Output gradients that did.
        text: The same in words.
        parameters: Whether weights, their gradients and updates were recorded: yes, no, or part of it.
        boundaries: The same of activations and error signals.
        units: The same of the units of its activation function.
    """

    layer: str
    code: str
    expected: int
    fired: int
    text: str
    parameters: str = NO
    boundaries: str = NO
    units: str = NO


def survey(
    layers: Iterable[Layer],
    records: Sequence[CallRecord],
    uncounted: Mapping[str, str],
    faults: Mapping[str, str],
    scope: Scope | None = None,
    read: Collection[str] = (),
    compiled: bool = False,
) -> list[Coverage]:
    """Judge every layer of a recorded step, and name those that are not watched.

    Args:
        layers: The layers.
        records: Their calls in this step.
        uncounted: Why calls of a layer did not count, by name.
        faults: Errors of ours, by name of the layer.
        scope: What the probe can see of the model.
        read: Names of layers whose parameters were read.
        compiled: Whether something compiled ran eagerly for this step.
    """
    scope = scope or Scope()
    by_layer: dict[Layer, list[CallRecord]] = {}
    for record in records:
        by_layer.setdefault(record.layer, []).append(record)
    found = []
    for layer in layers:
        calls = by_layer.get(layer, [])
        code, text = _limited(layer, calls, scope, faults) or _reason(layer, calls, uncounted, faults)
        text += EAGERLY if compiled and any(one.batches for one in calls) else ""
        tiers = tiers_of(layer, calls, code, read, scope.tiers)
        expected, fired = sum(one.expected for one in calls), sum(one.fired for one in calls)
        found.append(Coverage(layer.name, code, expected, fired, text, *tiers))
    return [*found, *unwatched(scope)]


def unwatched(scope: Scope) -> list[Coverage]:
    """Layers of the model that the probe does not watch."""
    return [Coverage(name, code, 0, 0, text) for name, (code, text) in scope.left_out.items()]


def awaited(layers: Iterable[Layer], scope: Scope) -> list[Coverage]:
    """What can be said before the first recorded step."""
    waiting = ("not_yet", "no step has been recorded yet")
    found = [(layer.name, *scope.limits.get(layer.name, waiting)) for layer in layers]
    return [*(Coverage(name, code, 0, 0, text) for name, code, text in found), *unwatched(scope)]


def _limited(
    layer: Layer, calls: Sequence[CallRecord], scope: Scope, faults: Mapping[str, str]
) -> tuple[str, str] | None:
    is_limited = layer.name in scope.limits and layer.name not in faults and not any(one.batches for one in calls)
    return scope.limits[layer.name] if is_limited else None


def _reason(
    layer: Layer, calls: Sequence[CallRecord], uncounted: Mapping[str, str], faults: Mapping[str, str]
) -> tuple[str, str]:
    called = [one for one in calls if one.batches]
    if layer.name in faults:
        return "error", faults[layer.name]
    if not called and layer.name in uncounted:
        return "uncounted", uncounted[layer.name]
    if not called:
        return (
            "never_called",
            "not called in a forward pass (its hook never fired: unused, fused, or called by another name)",
        )
    return _of_gradients(layer, called) or _of_weight(layer) or _of_activation(called)


def _of_gradients(layer: Layer, calls: Sequence[CallRecord]) -> tuple[str, str] | None:
    expected, fired = sum(one.expected for one in calls), sum(one.fired for one in calls)
    if expected == 0:
        return "no_gradient", "its output needs no gradient: frozen, with nothing to train before it"
    if any(batch.fired > 1 for one in calls for batch in one.batches):
        return "repeated", "its gradient arrived twice through one forward pass (retain_graph): the sum is not known"
    if fired == 0 and _trains(layer) and not has_gradient(layer.module):
        return "unused", "not part of the loss: no gradient arrived, of its output or of its weight"
    if fired < expected:
        return (
            "missed",
            f"expected {expected} output gradients, saw {fired}: not part of the loss, or changed out of sight",
        )
    if not all(one.contributes for one in calls):
        return "no_contribution", "what it sends back through its own weights cannot be told from its graph: no gains"
    return None


def _trains(layer: Layer) -> bool:
    return any(parameter.requires_grad for parameter in layer.module.parameters())


def _of_weight(layer: Layer) -> tuple[str, str] | None:
    if layer.weight is None:
        return "computed_weight", "its weight is computed (parametrized), not a parameter: no weight metrics"
    if not layer.weight.requires_grad:
        return "frozen", "its weight needs no gradient; error signals are recorded"
    return None


def _of_activation(calls: Sequence[CallRecord]) -> tuple[str, str]:
    if any(one.activation == "?" for one in calls):
        return "unknown_activation", "what follows is no activation function known here: no metrics of phi"
    if all(one.activation == "identity" for one in calls):
        return "recorded", "all but the metrics of phi: no activation function follows"
    return "recorded", "everything"


def coverage_frame(found: Iterable[Coverage]) -> CoverageTable:
    """One row per layer: layer, code, expected, fired, text, and the tiers."""
    return CoverageTable([asdict(one) for one in found], columns=list(Coverage.__dataclass_fields__))


def coverage_rows(step: int, found: Iterable[Coverage]) -> list[dict[str, Any]]:
    """Rows of ``coverage/``."""
    return [{"step": step, **asdict(one)} for one in found]
