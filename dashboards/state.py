"""The state of a page and its query string: what is on screen is what the URL says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qs, urlencode


@dataclass(frozen=True)
class RunsState:
    """The table: which runs are selected for comparison, and by which column it is sorted."""

    PATH: ClassVar[str] = "/"
    compare: tuple[str, ...] = ()
    sort: str | None = None
    descending: bool = False

    @classmethod
    def parse(cls, search: str | None) -> RunsState:
        """Read a query string; what it does not say takes its default.

        >>> RunsState.parse("?compare=a&sort=-decay")
        RunsState(compare=('a',), sort='decay', descending=True)
        """
        query = _query(search)
        sort = _first(query, "sort") or ""
        return cls(tuple(query.get("compare", ())), sort.removeprefix("-") or None, sort.startswith("-"))

    def search(self) -> str:
        """Return the query string.

        >>> RunsState(("a", "b"), "decay").search()
        '?compare=a&compare=b&sort=decay'
        """
        sort = f"{'-' if self.descending else ''}{self.sort}" if self.sort else None
        return _search([*(("compare", one) for one in self.compare), ("sort", sort)])

    def href(self) -> str:
        """Return the address of the page in this state, within the dashboard."""
        return self.PATH + self.search()


@dataclass(frozen=True)
class FlowState:
    """The gradient flow: the run, those it is compared with, the metric, and the step.

    No run means the first there is, no metric the output gradient, no step the newest recorded one, which then
    moves on while the run grows.
    """

    PATH: ClassVar[str] = "/flow"
    run: str | None = None
    compare: tuple[str, ...] = ()
    metric: str | None = None
    step: int | None = None

    @classmethod
    def parse(cls, search: str | None) -> FlowState:
        """Read a query string; what it does not say, or a step that is no number, takes its default.

        >>> FlowState.parse("?run=a&compare=b&metric=m&step=10")
        FlowState(run='a', compare=('b',), metric='m', step=10)
        >>> FlowState.parse("?step=ten")
        FlowState(run=None, compare=(), metric=None, step=None)
        """
        query = _query(search)
        step = _first(query, "step") or ""
        compare = tuple(dict.fromkeys(query.get("compare", ())))
        number = int(step) if step.isascii() and step.isdigit() else None
        return cls(_first(query, "run"), compare, _first(query, "metric"), number)

    def search(self) -> str:
        """Return the query string.

        >>> FlowState("a/b c", ("d",), step=0).search()
        '?run=a%2Fb+c&compare=d&step=0'
        """
        step = None if self.step is None else str(self.step)
        compared = [("compare", one) for one in self.compare]
        return _search([("run", self.run), *compared, ("metric", self.metric), ("step", step)])

    def href(self) -> str:
        """Return the address of the page in this state, within the dashboard."""
        return self.PATH + self.search()


@dataclass(frozen=True)
class SweepState:
    """The map of a sweep: configuration keys on its axes (None: chosen for you), and at which step."""

    PATH: ClassVar[str] = "/sweep"
    x: str | None = None
    y: str | None = None
    facet: str | None = None
    last: bool = False

    @classmethod
    def parse(cls, search: str | None) -> SweepState:
        """Read a query string.

        >>> SweepState.parse("?x=depth&at=last")
        SweepState(x='depth', y=None, facet=None, last=True)
        """
        query = _query(search)
        x, y, facet = (_first(query, axis) for axis in ("x", "y", "facet"))
        return cls(x, y, facet, last=_first(query, "at") == "last")

    def search(self) -> str:
        """Return the query string.

        >>> SweepState(y="init", last=True).search()
        '?y=init&at=last'
        """
        at = "last" if self.last else None
        return _search([("x", self.x), ("y", self.y), ("facet", self.facet), ("at", at)])

    def href(self) -> str:
        """Return the address of the page in this state, within the dashboard."""
        return self.PATH + self.search()


def _query(search: str | None) -> dict[str, list[str]]:
    return parse_qs((search or "").removeprefix("?"))


def _first(query: dict[str, list[str]], key: str) -> str | None:
    return query[key][0] if query.get(key) else None


def _search(pairs: list[tuple[str, str | None]]) -> str:
    text = urlencode([(key, value) for key, value in pairs if value is not None])
    return f"?{text}" if text else ""
