from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.dashboards.state import FlowState, InformationState, RunsState, SweepState, TheoryState

NAMES = st.text(min_size=1).filter(str.strip)
MAYBE = st.none() | NAMES


SPANS = st.tuples(st.integers(1, 10**6), st.integers(0, 10**6)).map(lambda pair: (pair[0], sum(pair)))


@given(MAYBE, st.lists(NAMES, unique=True), MAYBE, st.none() | st.integers(0, 10**9), st.booleans(), st.none() | SPANS)
def test_the_flow_state_survives_its_url(
    run: str | None, compare: list[str], metric: str | None, step: int | None, theory: bool, layers: Any
) -> None:
    state = FlowState(run, tuple(compare), metric, step, theory, layers)
    assert FlowState.parse(state.search()) == state


@given(st.lists(NAMES), st.none() | st.from_regex(r"[a-z_]+", fullmatch=True), st.booleans())
def test_the_runs_state_survives_its_url(compare: list[str], sort: str | None, descending: bool) -> None:
    state = RunsState(tuple(compare), sort, descending and sort is not None)
    assert RunsState.parse(state.search()) == state


@given(MAYBE, MAYBE, MAYBE, st.booleans())
def test_the_sweep_state_survives_its_url(x: str | None, y: str | None, facet: str | None, last: bool) -> None:
    state = SweepState(x, y, facet, last)
    assert SweepState.parse(state.search()) == state


@given(MAYBE, MAYBE, st.booleans())
def test_the_theory_state_survives_its_url(run: str | None, activation: str | None, last: bool) -> None:
    state = TheoryState(run, activation, last)
    assert TheoryState.parse(state.search()) == state


@given(MAYBE, MAYBE, MAYBE, st.none() | st.integers(0))
def test_the_information_state_survives_its_url(
    run: str | None, estimator: str | None, metric: str | None, step: int | None
) -> None:
    state = InformationState(run, estimator, metric, step)
    assert InformationState.parse(state.search()) == state


ODD = [
    "?step=",
    "?step=-1",
    "?step=1e3",
    "?nonsense=1",
    "?theory=2",
    "?layers=",
    "?layers=3",
    "?layers=0-2",
    "?layers=5-2",
]


@pytest.mark.parametrize("search", [None, "", "?", *ODD])
def test_what_makes_no_sense_is_the_default(search: str | None) -> None:
    assert FlowState.parse(search) == FlowState()
