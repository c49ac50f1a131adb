"""Say, in words, what was recorded of every layer, and why something was not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gradscope.probe.layers import Layer
from gradscope.probe.records import CallRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Coverage:
    """What a recorded step showed of a layer.

    Attributes:
        layer: Qualified name.
        code: ``recorded``, or why not all of it: ``never_called``, ``uncounted``, ``missed``, ``repeated``,
            ``no_gradient``, ``frozen``, ``no_contribution``, ``computed_weight``, ``unknown_activation``, ``error``.
        expected: Output gradients that should have arrived.
        fired: Output gradients that did.
        text: The same in words.
    """

    layer: str
    code: str
    expected: int
    fired: int
    text: str


def survey(
    layers: Iterable[Layer],
    records: Sequence[CallRecord],
    uncounted: Mapping[str, str],
    faults: Mapping[str, str],
) -> list[Coverage]:
    """Judge every layer of a recorded step."""
    return [_judge(layer, [one for one in records if one.layer is layer], uncounted, faults) for layer in layers]


def _judge(
    layer: Layer, calls: Sequence[CallRecord], uncounted: Mapping[str, str], faults: Mapping[str, str]
) -> Coverage:
    expected, fired = sum(one.expected for one in calls), sum(one.fired for one in calls)
    code, text = _reason(layer, calls, expected, fired, uncounted, faults)
    return Coverage(layer.name, code, expected, fired, text)


def _reason(
    layer: Layer,
    calls: Sequence[CallRecord],
    expected: int,
    fired: int,
    uncounted: Mapping[str, str],
    faults: Mapping[str, str],
) -> tuple[str, str]:
    if layer.name in faults:
        return "error", faults[layer.name]
    if not calls and layer.name in uncounted:
        return "uncounted", uncounted[layer.name]
    if not calls:
        return (
            "never_called",
            "not called in a forward pass (its hook never fired: unused, fused, or called by another name)",
        )
    if expected == 0:
        return "no_gradient", "its output needs no gradient: frozen, with nothing to train before it"
    if any(batch.fired > 1 for one in calls for batch in one.batches):
        return "repeated", "its gradient arrived twice through one forward pass (retain_graph): the sum is not known"
    if fired < expected:
        return (
            "missed",
            f"expected {expected} output gradients, saw {fired}: not part of the loss, or changed out of sight",
        )
    if not all(one.contributes for one in calls):
        return "no_contribution", "what it sends back through its own weights cannot be told from its graph: no gains"
    if layer.weight is not None and not layer.weight.requires_grad:
        return "frozen", "its weight needs no gradient; error signals are recorded"
    if layer.weight is None:
        return "computed_weight", "its weight is computed (parametrized), not a parameter: no weight metrics"
    if any(one.activation == "?" for one in calls):
        return "unknown_activation", "what follows is no activation function known here: no metrics of phi"
    if all(one.activation == "identity" for one in calls):
        return "recorded", "all but the metrics of phi: no activation function follows"
    return "recorded", "everything"


def coverage_frame(found: Iterable[Coverage]) -> pd.DataFrame:
    """One row per layer: layer, code, expected, fired, text."""
    import pandas as pd

    columns = ["layer", "code", "expected", "fired", "text"]
    return pd.DataFrame([asdict(one) for one in found], columns=columns)


def coverage_rows(step: int, found: Iterable[Coverage]) -> list[dict[str, Any]]:
    """Rows of ``coverage/``."""
    return [{"step": step, **asdict(one)} for one in found]
