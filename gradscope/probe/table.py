"""The layer table: ids in order of discovery, depths in order of execution."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradscope.probe.records import CallRecord, Key
from gradscope.spec import LayerSpec


class LayerTable:
    """Knows every layer call seen so far and numbers it.

    Attributes:
        ids: Number of every call.
        known: Calls whose parents are known, with the names of their activation functions.
    """

    def __init__(self, known: Iterable[LayerSpec] = ()) -> None:
        specs = sorted(known, key=lambda spec: spec.depth)
        self._order: list[Key] = [(spec.layer, spec.call) for spec in specs]
        self.ids: dict[Key, int] = {(spec.layer, spec.call): spec.id for spec in specs}
        self._specs: dict[Key, LayerSpec] = {(spec.layer, spec.call): spec for spec in specs}
        self._unseen: set[Key] = set()
        self.known = self._find_known()

    def update(self, records: Sequence[CallRecord]) -> bool:
        """Take in the calls of a step, in order of execution; tell whether the table changed."""
        if all(self._adds_nothing(record) for record in records):
            return False
        before = self.specs
        previous: Key | None = None
        for record in records:
            self._await(record)
            if record.key not in self._specs:
                place = self._order.index(previous) + 1 if previous is not None else 0
                self._order.insert(place, record.key)
                self.ids.setdefault(record.key, len(self.ids))
            previous = record.key
        for record in records:
            self._specs[record.key] = self._describe(record)
        self.known = self._find_known()
        return self.specs != before

    def _await(self, record: CallRecord) -> None:
        """A row of parameters alone stands in order of registration, until a call shows where the layer belongs."""
        if not record.batches and record.key not in self.ids:
            self._unseen.add(record.key)
        elif record.batches and record.key in self._unseen:
            self._unseen.remove(record.key)
            self._order.remove(record.key)
            del self._specs[record.key]

    def _adds_nothing(self, record: CallRecord) -> bool:
        spec = self._specs.get(record.key)
        is_settled = spec is not None and spec.activation != "?" and not record.parents
        return is_settled and not (record.batches and record.key in self._unseen)

    def _find_known(self) -> dict[Key, str]:
        return {key: spec.activation for key, spec in self._specs.items() if spec.parents}

    def _describe(self, record: CallRecord) -> LayerSpec:
        """What is known of a call: what this step shows, added to what earlier ones did."""
        known, layer = self._specs.get(record.key), record.layer
        parents = {self.ids[key] for key in record.parents if key in self.ids}
        if known is not None and parents <= set(known.parents) and known.activation != "?":
            return known
        fan_in, fan_out = layer.fans
        return LayerSpec(
            id=self.ids[record.key],
            layer=layer.name,
            call=record.call,
            depth=0,
            parents=tuple(sorted(parents.union(known.parents if known is not None else ()))),
            kind=layer.kind,
            activation=record.activation if known is None or known.activation == "?" else known.activation,
            norm=record.norm if known is None or known.norm == "none" else known.norm,
            fan_in=fan_in,
            fan_out=fan_out,
            parameters=layer.parameters,
            resolved=record.resolved and (known is None or known.resolved),
            entry=self._entry(record, known),
        )

    def _entry(self, record: CallRecord, known: LayerSpec | None) -> int | None:
        if record.entry is not None:
            return self.ids.get(record.entry)
        return known.entry if known is not None else None

    @property
    def specs(self) -> tuple[LayerSpec, ...]:
        """All calls, with the depths that the order gives."""
        return tuple(_at(self._specs[key], depth) for depth, key in enumerate(self._order, start=1))


def _at(spec: LayerSpec, depth: int) -> LayerSpec:
    return LayerSpec(**{**spec.__dict__, "depth": depth})
