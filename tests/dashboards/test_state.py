import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope.dashboards.state import FlowState, RunsState, SweepState

NAMES = st.text(min_size=1).filter(str.strip)
MAYBE = st.none() | NAMES


@given(MAYBE, st.lists(NAMES, unique=True), MAYBE, st.none() | st.integers(0, 10**9))
def test_the_flow_state_survives_its_url(
    run: str | None, compare: list[str], metric: str | None, step: int | None
) -> None:
    state = FlowState(run, tuple(compare), metric, step)
    assert FlowState.parse(state.search()) == state


@given(st.lists(NAMES), st.none() | st.from_regex(r"[a-z_]+", fullmatch=True), st.booleans())
def test_the_runs_state_survives_its_url(compare: list[str], sort: str | None, descending: bool) -> None:
    state = RunsState(tuple(compare), sort, descending and sort is not None)
    assert RunsState.parse(state.search()) == state


@given(MAYBE, MAYBE, MAYBE, st.booleans())
def test_the_sweep_state_survives_its_url(x: str | None, y: str | None, facet: str | None, last: bool) -> None:
    state = SweepState(x, y, facet, last)
    assert SweepState.parse(state.search()) == state


@pytest.mark.parametrize("search", [None, "", "?", "?step=", "?step=-1", "?step=1e3", "?nonsense=1"])
def test_what_makes_no_sense_is_the_default(search: str | None) -> None:
    assert FlowState.parse(search) == FlowState()
