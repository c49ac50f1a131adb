"""The path through the network along which ledger and decay run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def trunk(parents: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    """Return the longest path of layers that ends at one without children, from first layer to head.

    Args:
        parents: Depths of the parents of every depth. A parent that is unknown, or not before its child, is
            ignored.

    Where several layers have no children (two heads; a wide branch beside a deep one), the longest of all paths
    counts, whichever was called last. Among paths of equal length the one whose last differing layer is deeper is
    taken.

    >>> trunk({1: (), 2: (1,), 3: (2, 1), 4: (3,)})
    (1, 2, 3, 4)
    >>> trunk({1: (), 2: (1,), 3: (1,), 4: (2, 3)})
    (1, 3, 4)
    >>> trunk({1: (), 2: (1,), 3: (2,), 4: ()})
    (1, 2, 3)
    """
    length: dict[int, int] = {}
    before: dict[int, int] = {}
    for depth in sorted(parents):
        known = [one for one in parents[depth] if one in length]
        length[depth] = 1 + max((length[one] for one in known), default=0)
        if known:
            before[depth] = max(known, key=lambda one: (length[one], one))
    if not length:
        return ()
    # A child's path is longer than its parent's, so the longest one ends at a layer without children.
    path = [max(length, key=lambda one: (length[one], one))]
    while path[-1] in before:
        path.append(before[path[-1]])
    return tuple(reversed(path))
