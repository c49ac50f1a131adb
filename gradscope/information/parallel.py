"""Layers side by side: matrices of this size gain little from the threads of one product, and lose by their waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Given = TypeVar("Given")
Made = TypeVar("Made")


def side_by_side(function: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """Yield what a function makes of each item, in order: as many at once as linear algebra had threads, one for each.

    The threads of torch are left alone, and those of linear algebra come back at the end.
    """
    libraries = ThreadpoolController().select(user_api="blas")
    threads = max((int(one["num_threads"]) for one in libraries.info()), default=1)
    with libraries.limit(limits=1), ThreadPoolExecutor(threads, "gradscope-information") as pool:
        yield from pool.map(function, items)
