"""Where the graph of layers is no chain: skips that bridge the trunk, and ends beside it."""

from __future__ import annotations

from gradscope.runs import Run


def bridged(run: Run) -> frozenset[int]:
    """Return the depths on the trunk from which a skip leads around the way to the next layer of the trunk.

    What such a way makes of the gradient does not multiply up: the skip carries it past.
    """
    place = {depth: at for at, depth in enumerate(run.trunk)}
    found = set[int]()
    for parent, child in _edges(run):
        if parent in place and child in place and place[child] - place[parent] > 1:
            found.update(run.trunk[place[parent] : place[child]])
    return frozenset(found)


def ends(run: Run) -> tuple[int, ...]:
    """Return the depths of the layers that no other follows: the heads, and what is not used."""
    followed = {parent for parent, _ in _edges(run)}
    return tuple(one.depth for one in run.specs if one.depth not in followed)


def _edges(run: Run) -> list[tuple[int, int]]:
    depths = {one.id: one.depth for one in run.specs}
    return [(depths[parent], one.depth) for one in run.specs for parent in one.parents if parent in depths]
