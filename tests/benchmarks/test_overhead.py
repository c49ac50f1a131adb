"""The program that measures the overhead runs, and prints one table; how fast anything is, no test may say."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from overhead import main

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["overhead.py", *arguments])
        main()
        return capsys.readouterr().out

    return run


def test_one_table_of_all_workloads_and_contenders(run: Run, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    keys = ["aa", "norms", "every-10", "histograms-10", "idle", "auto", "naive"]
    printed = run("--quick", "--contenders", ",".join(keys), "--json", str(found))
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == 3 + len(keys)
    assert {line.count("|") for line in table} == {8}
    assert table[0].startswith("| overhead over the bare step, % | W1 | W2 | W3 | W4 | W5 |")
    assert table[4].endswith("| 6 / 2 / 1 / 1 / 16 |")
    assert all(line.split("|")[2:7] == [" ran "] * 5 for line in table[2:])
    assert "\nIt runs. Nothing was measured: tiny models, one block each.\n" in printed
    workloads = json.loads(found.read_text())["workloads"]
    assert list(workloads) == ["W1", "W2", "W3", "W4", "W5"]
    assert all(list(contenders) == keys for contenders in workloads.values())
    assert all(len(one["watched"]) == 1 for contenders in workloads.values() for one in contenders.values())


def test_the_profile_names_functions_of_the_probe(run: Run) -> None:
    printed = run("--quick", "--profile", "W5", "--steps", "5")
    assert printed.startswith("W5, gradscope, default, every step: ")
    assert "probe/" in printed


def test_an_unknown_name_lists_the_choices(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run("--workloads", "W9")
    assert capsys.readouterr().err.endswith("error: no workload 'W9'; there are: W1, W2, W3, W4, W5\n")


def test_help_describes_workloads_and_contenders(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    printed = capsys.readouterr().out
    for name in ("W4", "ResNet-18", "histograms-10", "wandb.watch"):
        assert name in printed
