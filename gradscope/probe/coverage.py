"""Say, in words, what was recorded of every layer, and why something was not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from gradscope.probe.layers import Layer
from gradscope.probe.records import CallRecord
from gradscope.probe.tiers import NO, NOT_CHOSEN, PART, TIERS, YES, Scope, has_gradient
from gradscope.runs.coverage import CoverageTable

NEVER_CALLED = (
    "never_called",
    "not called in a forward pass (its hook never fired: unused, fused, or called by another name)",
)
WITHOUT_GRADIENT = "called only without gradient (no_grad)"
IN_EVALUATION = "called only in evaluation mode: call model.train() to record"
# What keeps a backward pass from being known, wholly or in part, leaves what the forward pass showed.
FORWARD_ONLY = ("no_gradient", "unused", "missed", "repeated", "no_contribution", "error")
PARAMETERS = {
    "trained": YES,
    "frozen": PART,
    "unused": PART,
    "computed, seen": PART,
    "computed, with a bias": PART,
    "computed": NO,
}
COMPUTED = (
    "its weight is computed (parametrized): recorded as the forward pass used it, with its gradient before clipping; "
    "no raw gradient and no update"
)
# Code and text by name.
Moved = Mapping[str, tuple[str, str]]
EAGERLY = "; what is compiled ran eagerly for this step"


@dataclass(frozen=True)
class Coverage:
    """What a recorded step showed of a layer.

    Attributes:
        layer: Qualified name; of modules that are no layers too, where they have parameters of their own.
        code: ``recorded``, or why not all of it: ``never_called``, ``uncounted``, ``compiled``, ``unused``, ``missed``,
            ``repeated``, ``no_gradient``, ``frozen``, ``no_contribution``, ``computed_weight``,
            ``unknown_activation``, ``error``, ``filtered``, ``scripted``, ``unwatched``, ``added``, ``gone``,
            ``not_yet``.
        expected: Output gradients that should have arrived.
        fired: Output gradients that did.
        text: The same in words.
        parameters: Whether weights, their gradients and updates were recorded: yes, no, or part of it; ``-`` where
            no chosen metric asks for any.
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
    records: Iterable[CallRecord],
    uncounted: Mapping[str, str],
    faults: Mapping[str, str],
    scope: Scope | None = None,
    read: Collection[str] = (),
    compiled: bool = False,
    computed: Collection[str] = (),
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
        computed: Names of layers that compute their weights, where these were seen.
    """
    scope = scope or Scope()
    by_layer: dict[Layer, list[CallRecord]] = {}
    for record in records:
        by_layer.setdefault(record.layer, []).append(record)
    found = []
    for layer in layers:
        calls, name = by_layer.get(layer, []), layer.name
        seen = tuple(_seen(one) for one in calls if one.batches)
        given = _given(name, bool(seen), uncounted, faults, scope) if not seen or faults else None
        has_row = bool(calls) and name in read
        weight = _weight_of(layer, seen, name in computed)
        found.append(judge(name, seen, given, weight, has_row, compiled and bool(seen), scope.tiers))
    return [*found, *unwatched(scope)]


class Seen(NamedTuple):
    """What a recorded step showed of a layer call: output gradients, its activation function, its contribution."""

    expected: int
    fired: int
    repeated: bool
    activation: str
    contributes: bool


def _seen(call: CallRecord) -> Seen:
    repeated = any(batch.fired > 1 for batch in call.batches)
    return Seen(call.expected, call.fired, repeated, call.activation, call.contributes)


def _given(
    name: str, is_seen: bool, uncounted: Mapping[str, str], faults: Mapping[str, str], scope: Scope
) -> tuple[str, str] | None:
    """Code and text where they are known already."""
    if name in faults:
        return "error", faults[name]
    if is_seen:
        return None
    return scope.limits.get(name) or (("uncounted", uncounted[name]) if name in uncounted else NEVER_CALLED)


def _weight_of(layer: Layer, seen: Sequence[Seen], is_computed: bool) -> str:
    """Say of a layer's weight: ``computed``, ``frozen``, ``trained``, or ``unused`` where no gradient reached it."""
    weight = layer.weight
    silent = bool(seen) and not any(one.fired for one in seen)
    if silent and any(one.requires_grad for one in layer.module.parameters()) and not has_gradient(layer.module):
        return "unused"
    if weight is None and is_computed:
        return "computed, seen"
    if weight is None:
        return "computed" if layer.bias is None else "computed, with a bias"
    return "trained" if weight.requires_grad else "frozen"


@lru_cache(maxsize=8192)
def judge(
    name: str,
    seen: tuple[Seen, ...],
    given: tuple[str, str] | None,
    weight: str,
    has_row: bool,
    compiled: bool,
    asked: frozenset[str],
) -> Coverage:
    """Judge a layer; most are the same from step to step.

    Args:
        name: Its name.
        seen: Its calls.
        given: Code and text where they are known already.
        weight: What is to be said of its weight.
        has_row: Whether its parameters were read and have a row to stand on.
        compiled: Whether something compiled ran eagerly for this step.
        asked: Tiers that the chosen metrics ask for.
    """
    code, text = given or _of_gradients(seen, weight) or _of_weight(weight) or _of_activation(seen, asked)
    tiers = {
        "parameters": PARAMETERS[weight] if has_row else NO,
        "boundaries": (PART if code in FORWARD_ONLY else YES) if seen else NO,
        "units": YES if any(one.activation not in ("?", "identity") for one in seen) else NO,
    }
    expected, fired = sum(one.expected for one in seen), sum(one.fired for one in seen)
    held = {tier: held if tier in asked else NOT_CHOSEN for tier, held in tiers.items()}
    return Coverage(name, code, expected, fired, text + (EAGERLY if compiled else ""), **held)


def unwatched(scope: Scope) -> list[Coverage]:
    """Layers of the model that the probe does not watch, and other modules with parameters of their own."""
    left_out = [Coverage(name, code, 0, 0, text) for name, (code, text) in scope.left_out.items()]
    held = {tier: NO if tier in scope.tiers else NOT_CHOSEN for tier in TIERS}
    return [*left_out, *(Coverage(name, code, 0, 0, text, **held) for name, (code, text) in scope.others.items())]


def moved_layers(moved: Moved) -> list[Coverage]:
    """Layers that came to the model or left it since it was watched."""
    return [Coverage(name, code, 0, 0, text) for name, (code, text) in moved.items()]


def awaited(layers: Iterable[Layer], scope: Scope) -> list[Coverage]:
    """What can be said before the first recorded step."""
    waiting = ("not_yet", "no step has been recorded yet")
    found = [(layer.name, *scope.limits.get(layer.name, waiting)) for layer in layers]
    return [*(Coverage(name, code, 0, 0, text) for name, code, text in found), *unwatched(scope)]


def _of_gradients(seen: Sequence[Seen], weight: str) -> tuple[str, str] | None:
    expected, fired = sum(one.expected for one in seen), sum(one.fired for one in seen)
    if expected == 0:
        return "no_gradient", "its output needs no gradient: frozen, with nothing to train before it"
    if any(one.repeated for one in seen):
        return "repeated", "its gradient arrived twice through one forward pass (retain_graph): the sum is not known"
    if weight == "unused":
        return "unused", "not part of the loss: no gradient arrived, of its output or of its weight"
    if fired < expected:
        return (
            "missed",
            f"expected {expected} output gradients, saw {fired}: not part of the loss, or changed out of sight",
        )
    if not all(one.contributes for one in seen):
        return "no_contribution", "what it sends back through its own weights cannot be told from its graph: no gains"
    return None


def _of_weight(weight: str) -> tuple[str, str] | None:
    if weight == "computed, seen":
        return "computed_weight", COMPUTED
    if weight.startswith("computed"):
        return "computed_weight", "its weight is computed (parametrized), not a parameter: no weight metrics"
    if weight == "frozen":
        return "frozen", "its weight needs no gradient; error signals are recorded"
    return None


def _of_activation(seen: Sequence[Seen], asked: frozenset[str]) -> tuple[str, str]:
    if any(one.activation == "?" for one in seen):
        return "unknown_activation", "what follows is no activation function known here: no metrics of phi"
    if not asked.issuperset(TIERS):
        return "recorded", "all that the chosen metrics ask for"
    if all(one.activation == "identity" for one in seen):
        return "recorded", "all but the metrics of phi: no activation function follows"
    return "recorded", "everything"


def coverage_frame(found: Iterable[Coverage]) -> CoverageTable:
    """One row per layer: layer, code, expected, fired, text, and the tiers."""
    return CoverageTable([asdict(one) for one in found], columns=list(Coverage.__dataclass_fields__))


def coverage_rows(step: int, found: Iterable[Coverage]) -> list[dict[str, Any]]:
    """Rows of ``coverage/``."""
    return [{"step": step, **asdict(one)} for one in found]
