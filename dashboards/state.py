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
    """The gradient flow: the run, those it is compared with, the metric, the step, theory, and marked layers.

    No run means the first there is, no metric the output gradient, no step the newest recorded one, which then
    moves on while the run grows; no layers, that none are marked.
    """

    PATH: ClassVar[str] = "/flow"
    run: str | None = None
    compare: tuple[str, ...] = ()
    metric: str | None = None
    step: int | None = None
    theory: bool = False
    layers: tuple[int, int] | None = None

    @classmethod
    def parse(cls, search: str | None) -> FlowState:
        """Read a query string; what it does not say, or a step that is no number, takes its default.

        >>> state = FlowState.parse("?run=a&compare=b&metric=m&step=10&theory=1&layers=2-5")
        >>> state == FlowState("a", ("b",), "m", 10, theory=True, layers=(2, 5))
        True
        >>> FlowState.parse("?step=ten&layers=5-2") == FlowState()
        True
        """
        query = _query(search)
        compare = tuple(dict.fromkeys(query.get("compare", ())))
        return cls(
            _first(query, "run"),
            compare,
            _first(query, "metric"),
            _whole(_first(query, "step")),
            _first(query, "theory") == "1",
            _span(_first(query, "layers")),
        )

    def search(self) -> str:
        """Return the query string.

        >>> FlowState("a/b c", ("d",), step=0).search()
        '?run=a%2Fb+c&compare=d&step=0'
        """
        step = None if self.step is None else str(self.step)
        compared = [("compare", one) for one in self.compare]
        layers = None if self.layers is None else "-".join(map(str, self.layers))
        pairs = [("run", self.run), *compared, ("metric", self.metric), ("step", step)]
        return _search([*pairs, ("theory", "1" if self.theory else None), ("layers", layers)])

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


@dataclass(frozen=True)
class TheoryState:
    """The theory page: the run, the activation of the plane (None: that of the run), and at which step."""

    PATH: ClassVar[str] = "/theory"
    run: str | None = None
    activation: str | None = None
    last: bool = False

    @classmethod
    def parse(cls, search: str | None) -> TheoryState:
        """Read a query string.

        >>> TheoryState.parse("?run=a&activation=tanh&at=last")
        TheoryState(run='a', activation='tanh', last=True)
        """
        query = _query(search)
        return cls(_first(query, "run"), _first(query, "activation"), last=_first(query, "at") == "last")

    def search(self) -> str:
        """Return the query string.

        >>> TheoryState("a", last=True).search()
        '?run=a&at=last'
        """
        at = "last" if self.last else None
        return _search([("run", self.run), ("activation", self.activation), ("at", at)])

    def href(self) -> str:
        """Return the address of the page in this state, within the dashboard."""
        return self.PATH + self.search()


@dataclass(frozen=True)
class InformationState:
    """The information page: the run, the estimator of the plane, the metric of the heatmap, and the step.

    No run means the first with a sample, no estimator and no metric the first that was recorded, no step the newest.
    """

    PATH: ClassVar[str] = "/information"
    run: str | None = None
    estimator: str | None = None
    metric: str | None = None
    step: int | None = None

    @classmethod
    def parse(cls, search: str | None) -> InformationState:
        """Read a query string.

        >>> InformationState.parse("?run=a&estimator=binning&step=10")
        InformationState(run='a', estimator='binning', metric=None, step=10)
        """
        query = _query(search)
        run, estimator, metric = (_first(query, one) for one in ("run", "estimator", "metric"))
        return cls(run, estimator, metric, _whole(_first(query, "step")))

    def search(self) -> str:
        """Return the query string.

        >>> InformationState("a", metric="cka_input", step=0).search()
        '?run=a&metric=cka_input&step=0'
        """
        step = None if self.step is None else str(self.step)
        return _search([("run", self.run), ("estimator", self.estimator), ("metric", self.metric), ("step", step)])

    def href(self) -> str:
        """Return the address of the page in this state, within the dashboard."""
        return self.PATH + self.search()


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _span(text: str | None) -> tuple[int, int] | None:
    """Read a first and a last depth; None for what is neither."""
    first, _, last = (text or "").partition("-")
    low, high = _whole(first), _whole(last)
    return (low, high) if low is not None and high is not None and 0 < low <= high else None


def _query(search: str | None) -> dict[str, list[str]]:
    return parse_qs((search or "").removeprefix("?"))


def _first(query: dict[str, list[str]], key: str) -> str | None:
    return query[key][0] if query.get(key) else None


def _search(pairs: list[tuple[str, str | None]]) -> str:
    text = urlencode([(key, value) for key, value in pairs if value is not None])
    return f"?{text}" if text else ""
