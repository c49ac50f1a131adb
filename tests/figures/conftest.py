import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

import synthetic_runs

from gradscope.runs import Run, Runs


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="session")
def plain(folder: Path) -> Run:
    synthetic_runs.write(folder / "plain", noise=0.0)
    return synthetic_runs.open_run(folder / "plain")


@pytest.fixture(scope="session")
def spoiled(folder: Path) -> Run:
    synthetic_runs.write(folder / "spoiled", depth=12, spoil="zero nan")
    return synthetic_runs.open_run(folder / "spoiled")


@pytest.fixture(scope="session")
def infinite(folder: Path) -> Run:
    synthetic_runs.write(folder / "infinite", spoil="inf")
    return synthetic_runs.open_run(folder / "infinite")


@pytest.fixture(scope="session")
def deep(folder: Path) -> Run:
    synthetic_runs.write(folder / "deep", depth=99, rate=0.9, steps=range(0, 6000, 5), noise=0.2)
    return synthetic_runs.open_run(folder / "deep")


@pytest.fixture(scope="session")
def sweep(folder: Path) -> Runs:
    return synthetic_runs.open_runs(synthetic_runs.write_sweep(folder / "sweep", depths=(2, 8, 32), seeds=3))
