"""Tensors of one kind and shape, reduced together: small ones wait for each other, a large one is reduced at once.

A call into torch or numpy costs about a microsecond whatever the tensor's size. A deep and narrow network makes
hundreds of small tensors a step, so their statistics are taken of all of them in one call; a tensor that fills a cache
is reduced in its hook, while it is still there, and never kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.probe import on_device, reduce, statistics
from gradscope.probe.functions import Phi
from gradscope.probe.layouts import Layout, Reducer, as_array, flat_rows, real
from gradscope.probe.passes import fits, make_pass
from gradscope.probe.reduce import Tape

SMALL = 16_384
EXACT = (torch.float32, torch.float64)
# Of notes whose tensors show several signals: the layout names them.
PHI = "phi"
# Statistics that a sample shows as well, and those that take all entries.
SAMPLED = ("zeros", "small", "power")
WHOLE = ("moments", "squares", "spread", "histogram")
MOST_WAITING = 256
# A weight before a step, and what the step changed: on a sample of it.
CHANGE = (("weight", ("power",)), ("weight_update", ("power",)))
# Joins the names of signals that are one tensor: what is read of it counts for each, and is read once.
ALSO = "+"
# Bytes of copies that a pile may hold for later steps.
PATIENT_BYTES = 256 << 10
Array = NDArray[np.float64]


def signals_of(target: str) -> list[str]:
    """Return the signals that a note of a tensor stands for.

    >>> signals_of("output_grad+activation_input_grad")
    ['output_grad', 'activation_input_grad']
    """
    return target.split(ALSO)


class Pile:
    """Tensors of one layout, type and shape.

    Attributes:
        layout: What is taken of them.
        reducer: How it is taken.
        on_host: Whether they lie on the host.
        tables: Their statistics, shape (k, numbers), in order.
        bins: Their histograms by signal.
        shares: Share of zero slopes by unit.
        direct: Adds a tensor by compiled code, and gives its place, or -1 for one that is not like the others.
    """

    def __init__(self, layout: Layout, tensor: Tensor) -> None:
        self.layout = layout
        self.reducer = Reducer(layout, tensor)
        self.on_host = reduce.on_host(tensor)
        self._pass = make_pass(layout, self.reducer, tensor) if self.on_host else None
        # Notes of it in steps that have ended: places, and the rows of the table that they belong to.
        self.targets: dict[str, tuple[list[int], list[int]]] = {}
        self._is_exact = tensor.dtype in EXACT
        self.direct: Callable[[Tensor, bool], int] | None = (
            self._pass.add if self._pass is not None and self._is_exact else None
        )
        self._waits = self._pass is None and tensor.numel() <= SMALL and tensor.layout is torch.strided
        fitting = PATIENT_BYTES // max(tensor.numel() * tensor.element_size(), 1)
        self._most = max(min(fitting, MOST_WAITING), 1)
        self._buffer = tensor.new_empty((0, *tensor.shape)) if self._waits else None
        self._slots: Sequence[Tensor] = ()
        self._filled = 0
        self._rows: list[list[float]] = []
        self._fetching: list[Callable[[Array], None]] = []
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._filled = 0
        self._rows.clear()
        self._size = 0
        if self._pass is not None:
            self._pass.clear()
        self.tables: list[Array] = []
        self.bins: dict[str, list[Any]] = {}
        self.shares: list[Array] = []

    @property
    def passes(self) -> bool:
        """Whether compiled code reads the tensors as they come."""
        return self._pass is not None

    @property
    def size(self) -> int:
        """Tensors added since the last clearing."""
        return self._size if self._pass is None else int(self._pass.size)

    def keep(self, tensor: Tensor) -> int:
        """Keep a sample of a tensor that is about to change; its number, -1 where that is not possible."""
        return -1 if self._pass is None or not self._is_exact else int(self._pass.keep(tensor))

    def change(self, tensor: Tensor, number: int) -> int:
        """Add what has changed of a sample that was kept; its place, -1 where that cannot be told."""
        return -1 if self._pass is None else int(self._pass.change(tensor, number))

    def forget(self) -> None:
        """Forget the samples that were kept."""
        if self._pass is not None:
            self._pass.forget()

    def add(self, tensor: Tensor, tape: Tape, exact: bool = True) -> int:
        """Add a tensor and return its place.

        A small one is copied: what is only referred to may be changed out of sight, or its memory given back, before it
        is read.

        Args:
            tensor: The tensor.
            tape: Where numbers of a device go.
            exact: Whether the share of zero slopes by unit is wanted, or only whether it is all of them.
        """
        if self._pass is not None:
            place: int = self._pass.add(tensor if self._is_exact else real(tensor), exact)
            return place
        place = self._size
        self._size = place + 1
        if self._buffer is not None:
            if self._filled == len(self._slots):
                self._make_room(tape)
            self._slots[self._filled].copy_(tensor.detach())
            self._filled += 1
        elif self.on_host and self.reducer.entries:
            self._reduce_one(real(tensor), exact)
        else:
            self._reduce(real(tensor)[None], tape)
        return place

    def _make_room(self, tape: Tape) -> None:
        """Twice the room, up to a limit; at the limit what waits is reduced, and its room used again."""
        assert self._buffer is not None
        room = len(self._slots)
        if room >= self._most:
            self.settle(tape)
            return
        with torch.no_grad():
            larger = self._buffer.new_empty((min(max(2 * room, 1), self._most), *self._buffer.shape[1:]))
            larger[:room] = self._buffer
        self._buffer, self._slots = larger, larger.unbind()

    def add_overlap(self, first: Tensor, second: Tensor, tape: Tape) -> int:
        """Add the scalar product of two tensors of one shape and return its place.

        Raises:
            ValueError: The shapes differ.
        """
        if first.shape != second.shape:
            raise ValueError(f"shapes differ: {tuple(first.shape)} and {tuple(second.shape)}")
        left, right = (flat_rows(real(one)[None])[0] for one in (first, second))
        if self.on_host:
            with np.errstate(all="ignore"):
                self._rows.append([1.0, statistics.overlap(as_array(left), as_array(right))])
        else:
            product = on_device.overlap(left, right)
            self._fetch(self.tables, torch.stack([torch.ones_like(product), product])[None], tape)
        self._size += 1
        return self._size - 1

    def settle(self, tape: Tape) -> None:
        """Reduce everything that waits; numbers on a device go on the tape."""
        self.close_rows()
        if self._filled and self._buffer is not None:
            filled, self._filled = self._filled, 0
            with torch.no_grad():
                self._reduce(real(self._buffer[:filled]), tape)

    def collect(self, tape: Tape) -> None:
        """Bring everything added so far into tables."""
        if self._pass is not None:
            self._take_passed(self._pass.taken())
        else:
            self.settle(tape)

    def _take_passed(self, taken: tuple[bytes, bytes, bytes]) -> None:
        """Take over all rows of the pass: those that were taken over before are among them."""
        if not self.size:
            return
        rows, shares, bins = taken
        self.tables = [np.frombuffer(rows).reshape(self.size, -1)] if self.reducer.columns else []
        self.shares = [np.frombuffer(shares).reshape(self.size, -1)] if self.reducer.wants_dead else []
        counts = np.frombuffer(bins, np.uint32).reshape(self.size, -1)
        self.bins = {signal: [counts] for signal in self.reducer.histograms}

    def close_rows(self) -> None:
        """Bring the statistics of single tensors into a table."""
        if self._rows:
            self.tables.append(np.asarray(self._rows))
            self._rows.clear()

    def fetch(self, numbers: Array) -> None:
        """Take what lay on a device from the numbers of the tape."""
        for take in self._fetching:
            take(numbers)
        self._fetching.clear()

    def _reduce_one(self, tensor: Tensor, exact: bool) -> None:
        reducer = self.reducer
        with np.errstate(all="ignore"):
            if reducer.columns:
                self._rows.append(reducer.host_row(tensor))
            for signal in reducer.histograms:
                self.bins.setdefault(signal, []).append(_array(reducer.bins(tensor[None], signal)))
            if reducer.wants_dead:
                self.shares.append(_array(reducer.shares(tensor[None]) if exact else reducer.flat_units(tensor)))

    def _reduce(self, stacked: Tensor, tape: Tape) -> None:
        reducer = self.reducer
        if self.on_host:
            with np.errstate(all="ignore"):
                if reducer.columns:
                    self.close_rows()
                    self.tables.append(reducer.host_table(stacked))
                for signal in reducer.histograms:
                    self.bins.setdefault(signal, []).append(_array(reducer.bins(stacked, signal)))
                if reducer.wants_dead:
                    self.shares.append(_array(reducer.shares(stacked)))
            return
        if reducer.columns:
            self._fetch(self.tables, reducer.device_table(stacked), tape)
        for signal in reducer.histograms:
            self._fetch(self.bins.setdefault(signal, []), reducer.bins(stacked, signal), tape)
        if reducer.wants_dead:
            self._fetch(self.shares, reducer.shares(stacked), tape)

    def _fetch(self, where: list[Array], found: Tensor, tape: Tape) -> None:
        place, shape, count = tape.put(found), tuple(found.shape), found.numel()
        self._fetching.append(lambda numbers: where.append(numbers[place : place + count].reshape(shape)))


class Tally:
    """All statistics of recorded steps: adds tensors to piles, which are settled together.

    Attributes:
        memos: What is known of calls that repeat.
        exact_shares: Whether rows by unit are kept of the coming step.
    """

    def __init__(self, wanted: Mapping[str, tuple[str, ...]]) -> None:
        self._wanted = wanted
        self._piles: dict[Hashable, Pile] = {}
        # Those of compiled code, by a key that is quickly made: it sees by itself whether a tensor is of the same kind.
        self._direct: dict[Hashable, Pile] = {}
        self.memos: dict[Any, Any] = {}
        self.exact_shares = True

    def clear(self) -> None:
        """Forget everything."""
        # Of sequences, every length has a pile of its own: those that nothing came to are dropped.
        self._piles = {key: pile for key, pile in self._piles.items() if pile.size}
        self._direct.clear()
        for pile in self._piles.values():
            pile.clear()

    def add(
        self, signals: Sequence[str], tensor: Tensor, unit_dim: int, tape: Tape, only: tuple[str, ...] | None = None
    ) -> tuple[Pile, int]:
        """Add a tensor that stands for several signals, of which the statistics wanted of any of them are taken.

        Args:
            signals: What it stands for.
            tensor: The tensor.
            unit_dim: Dimension that counts units, from the end.
            tape: Where numbers of a device go.
            only: Statistics to take of it, where it does not show all.
        """
        quick = (signals, tensor.shape, unit_dim, only)
        found = self._direct.get(quick)
        if found is not None and found.direct is not None:
            place = found.direct(tensor, True)
            if place >= 0:
                return found, place
        key = (signals, tensor.shape, tensor.dtype, tensor.layout, unit_dim, fits(tensor) or tensor.device, only)
        pile = self._piles.get(key)
        if pile is None:
            wanted = dict.fromkeys(one for signal in signals for one in self._wanted.get(signal, ()))
            if only is not None:
                wanted = dict.fromkeys(one for one in wanted if one in only)
            if wanted.pop("overlap", self) is not self:
                wanted.setdefault("squares")
            pile = self._open(key, Layout(((signals[0], tuple(wanted)),), unit_dim), tensor)
        if pile.direct is not None:
            self._direct[quick] = pile
        return pile, pile.add(tensor, tape)

    def add_phi(self, phi: Phi, unit_dim: int, tape: Tape) -> tuple[Pile, int]:
        """Add the call of an activation function."""
        tensor = phi.saved
        quick = (phi.key, tensor.shape, unit_dim)
        found = self._direct.get(quick)
        if found is not None and found.direct is not None:
            place = found.direct(tensor, self.exact_shares)
            if place >= 0:
                return found, place
        key = (phi.key, tensor.shape, tensor.dtype, unit_dim, fits(tensor) or tensor.device)
        pile = self._piles.get(key)
        if pile is None:
            wanted = tuple((one, self._wanted[one]) for one in ("activation", "slope") if one in self._wanted)
            pile = self._open(key, Layout(wanted, unit_dim, phi.forget()), tensor)
        if pile.direct is not None:
            self._direct[quick] = pile
        return pile, pile.add(tensor, tape, self.exact_shares)

    def keep(self, weight: Tensor) -> tuple[Pile, int]:
        """Keep a sample of a weight that is about to change; the number is -1 where compiled code cannot."""
        quick = ("change", weight.shape)
        found = self._direct.get(quick)
        number = -1 if found is None else found.keep(weight)
        if found is not None and number >= 0:
            return found, number
        key = (*quick, weight.dtype, fits(weight))
        pile = self._piles.get(key)
        if pile is None:
            pile = self._open(key, Layout(CHANGE, -1), weight)
        if pile.direct is not None:
            self._direct[quick] = pile
        return pile, pile.keep(weight)

    def forget(self) -> None:
        """Forget the samples that were kept of weights."""
        for pile in self._direct.values():
            pile.forget()

    def add_value(self, name: str, value: Tensor, unit_dim: int) -> tuple[Pile, int] | None:
        """Add what an activation function without constants returned, where compiled code has read such before."""
        found = self._direct.get(((name, False), value.shape, unit_dim))
        if found is None or found.direct is None:
            return None
        place = found.direct(value, self.exact_shares)
        return (found, place) if place >= 0 else None

    def add_overlap(self, first: Tensor, second: Tensor, tape: Tape) -> tuple[Pile, int]:
        """Add the scalar product of two tensors of one shape; it may stand for any of the overlaps."""
        key = ("overlap", first.is_cpu or first.device)
        pile = self._piles.get(key)
        if pile is None:
            pile = self._open(key, Layout((("input_overlap", ("overlap",)),), -1), first.new_empty(1))
        return pile, pile.add_overlap(first, second, tape)

    def _open(self, key: Hashable, layout: Layout, tensor: Tensor) -> Pile:
        pile = self._piles[key] = Pile(layout, tensor)
        return pile

    def __len__(self) -> int:
        return len(self._piles)

    @property
    def is_on_host(self) -> bool:
        """Whether every number can be read without a synchronisation."""
        return all(pile.on_host for pile in self._piles.values())

    def settle(self, tape: Tape) -> None:
        """Reduce everything; what lies on a device is fetched once the tape has been read."""
        for pile in self._piles.values():
            pile.settle(tape)

    def settle_host(self) -> None:
        """Reduce what lies on the host; what lies on a device was, when its step ended."""
        tape = Tape()
        for pile in self._piles.values():
            if pile.on_host:
                pile.collect(tape)

    def fetch(self, numbers: Array) -> None:
        """Take what lay on a device from the numbers of the tape."""
        for pile in self._piles.values():
            pile.fetch(numbers)


def _array(numbers: Tensor) -> Array:
    # Not the tensor's memory: it would keep the tensor.
    return np.array(numbers.numpy(), dtype=np.float64)
