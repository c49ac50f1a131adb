from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gradscope.runs.graph import trunk


@st.composite
def graphs(draw: st.DrawFn) -> dict[int, list[int]]:
    count = draw(st.integers(1, 9))
    return {
        depth: draw(st.lists(st.integers(1, depth - 1), unique=True)) if depth > 1 else []
        for depth in range(1, count + 1)
    }


def paths_to(parents: dict[int, list[int]], depth: int) -> list[tuple[int, ...]]:
    """All paths from a layer without parents: by brute force."""
    if not parents[depth]:
        return [(depth,)]
    return [(*path, depth) for parent in parents[depth] for path in paths_to(parents, parent)]


@given(graphs())
def test_the_trunk_is_the_longest_path_and_the_deepest_among_equals(parents: dict[int, list[int]]) -> None:
    ends = set(parents).difference(*parents.values())
    paths = [path for end in ends for path in paths_to(parents, end)]
    longest = max(len(path) for path in paths)
    deepest = max((path for path in paths if len(path) == longest), key=lambda path: path[::-1])
    assert trunk(parents) == deepest


@given(graphs())
def test_a_head_after_everything_ends_the_trunk(parents: dict[int, list[int]]) -> None:
    head = max(parents) + 1
    ends = sorted(set(parents).difference(*parents.values()))
    assert trunk({**parents, head: ends})[-1] == head


def test_a_wide_branch_called_last_is_not_the_trunk() -> None:
    deep = {1: [], 2: [1], 3: [2], 4: [3]}
    assert trunk({**deep, 5: []}) == (1, 2, 3, 4)


def test_the_deeper_of_two_heads_ends_the_trunk() -> None:
    assert trunk({1: [], 2: [1], 3: [2], 4: [2]}) == (1, 2, 4)


def test_no_layers() -> None:
    assert trunk({}) == ()


def test_unknown_and_later_parents_lead_nowhere() -> None:
    assert trunk({1: [], 2: [1, 9], 3: [3, 4, 2], 4: [3]}) == (1, 2, 3, 4)


def test_unresolved_layers_leave_only_the_head() -> None:
    assert trunk({1: [], 2: [], 3: []}) == (3,)


def test_a_residual_net_runs_through_its_blocks() -> None:
    # stem 1; blocks (2, 3), (4, 5), each with a skip beside it; head 6
    assert trunk({1: [], 2: [1], 3: [2], 4: [1, 3], 5: [4], 6: [1, 3, 5]}) == (1, 2, 3, 4, 5, 6)
