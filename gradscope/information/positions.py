"""Which layers were seen averaged over their positions, and which whole."""

from __future__ import annotations

from collections.abc import Sequence

from gradscope.spec import LayerSpec


def pooled_depths(specs: Sequence[LayerSpec]) -> set[int]:
    """Return the depths of what a convolution takes in, or hands on at the end: images, of which a mean is taken.

    What is flattened before a linear layer is whole. Positions of what linear layers work on cannot be told here.

    >>> conv, head = (LayerSpec(id=i, layer=k, call=1, depth=i + 1, parents=(i - 1,) if i else (), kind=k)
    ...               for i, k in enumerate(("Conv2d", "Linear")))
    >>> pooled_depths([conv, head])  # the head takes in all that is left of the image
    set()
    """
    first: dict[int, LayerSpec] = {}
    for one in sorted(specs, key=lambda spec: spec.depth):
        for parent in one.parents:
            first.setdefault(parent, one)
    return {one.depth for one in specs if "Conv" in first.get(one.id, one).kind}
