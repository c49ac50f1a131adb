import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "figures"))

import synthetic_runs

from gradscope.dashboards.source import Source


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dashboard")
    synthetic_runs.write(root / "plain", noise=0.0)
    synthetic_runs.write(root / "spoiled", depth=12, spoil="zero nan")
    synthetic_runs.write_sweep(root / "sweep", depths=(2, 8), seeds=1)
    return root


@pytest.fixture
def source(folder: Path) -> Source:
    return Source(str(folder))
