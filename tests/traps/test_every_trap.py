"""Every kind of trap has its tests: what the table names is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from trap_kinds import KINDS, kinds_of

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("test", sorted({test for tests in KINDS.values() for test in tests}))
def test_what_the_table_names_is_there(test: str) -> None:
    path, _, function = test.partition("::")
    tree = ast.parse((TESTS / path).read_text())
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert function in names if function else any(name.startswith("test_") for name in names)


def test_a_case_is_found_by_its_file_and_by_its_function() -> None:
    assert kinds_of("tests/traps/test_reuse.py::test_tied_weights[True]") == [
        "layers that are called again, weights that are tied"
    ]
    assert kinds_of("tests/distributed/test_wrappers.py::test_replicas_of_data_parallel_do_not_count") == [
        "replicas of DataParallel"
    ]
    assert kinds_of("tests/runs/test_bad_rows.py::test_anything") == []


def test_no_kind_was_lost() -> None:
    assert len(KINDS) == 45
