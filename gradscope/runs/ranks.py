"""Which ranks have recorded a run, and which of its layers the ids of each rank mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from gradscope.runs.description import ranks, read_description
from gradscope.runs.format import description_of
from gradscope.runs.store import Store
from gradscope.spec import LayerSpec


class RankLayers:
    """The layer calls of a run as each rank numbers them, at the depths that rank 0 gives them.

    Ranks need not meet the layers of a model in the same order, and each numbers them as it meets them. A call that
    rank 0 never made, as in another stage of a pipeline, comes after all of rank 0's.
    """

    def __init__(self, store: Store, layers: Iterable[LayerSpec]) -> None:
        self._store = store
        self.renew(layers)

    def renew(self, layers: Iterable[LayerSpec]) -> None:
        """Take the layers of rank 0, and forget those of the others until they are asked for."""
        self._first = {one.id: one for one in layers}
        self._others: dict[int, dict[int, LayerSpec]] | None = None

    @property
    def described(self) -> list[int]:
        """Ranks that have described themselves, ascending."""
        return ranks(self._store)

    def of(self, rank: int) -> Mapping[int, LayerSpec]:
        """Return the layer calls of a rank by its ids; those of rank 0 for one that has not described itself."""
        if rank == 0:
            return self._first
        return self._read().get(rank, self._first)

    def by_depth(self) -> dict[int, LayerSpec]:
        """Return the layer calls of all ranks by depth."""
        tables = [self._first, *self._read().values()]
        return {one.depth: one for table in reversed(tables) for one in table.values()}

    def _read(self) -> dict[int, dict[int, LayerSpec]]:
        if self._others is None:
            self._others = {}
            depths = {(one.layer, one.call): one.depth for one in self._first.values()}
            for rank in self.described:
                if rank:
                    self._others[rank] = _placed(read_description(self._store, description_of(rank)).layers, depths)
        return self._others


def _placed(layers: Iterable[LayerSpec], depths: dict[tuple[str, int], int]) -> dict[int, LayerSpec]:
    """Give layer calls their depths in the run; unknown ones come last, in order, and are known from then on."""
    found: dict[int, LayerSpec] = {}
    for one in sorted(layers, key=lambda one: one.depth):
        depth = depths.setdefault((one.layer, one.call), max(depths.values(), default=0) + 1)
        found[one.id] = replace(one, depth=depth)
    return found
