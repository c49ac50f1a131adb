"""What is installed: every package and asset, one import name, a capped torch."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import gradscope

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "gradscope" / "probe" / "native"
"""Sources of the extension, which is what is installed of them."""
COMPILED = (".so", ".pyd")
# The folders of the checkout that are installed, and the names they are installed under.
FOLDERS = {"gradscope": ROOT / "gradscope", "gradscope.dashboards": ROOT / "dashboards"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def files() -> Iterator[tuple[str, Path]]:
    """Yield every file of the installed folders with the name of the folder above it, in dots; no compiled ones."""
    for name, folder in FOLDERS.items():
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path.suffix not in COMPILED:
                yield ".".join([name, *path.parent.relative_to(folder).parts]), path


def test_every_package_of_the_checkout_is_listed(project: dict[str, Any]) -> None:
    found = {name for name, path in files() if path.suffix == ".py"}
    assert sorted(found) == sorted(project["tool"]["setuptools"]["packages"])


def test_every_other_file_is_package_data(project: dict[str, Any]) -> None:
    listed = {
        path
        for name, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in FOLDERS[name].glob(pattern)
    }
    assert listed == {path for _, path in files() if path.suffix != ".py" and path.parent != NATIVE}
    assert {"py.typed", "style.css"} <= {path.name for path in listed}


def test_one_version_everywhere(project: dict[str, Any]) -> None:
    newest = re.search(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    versions = {project["project"]["version"], gradscope.__version__, newest[1]}
    assert versions == {distribution("gradscope-torch").version}


def test_the_command_is_installed() -> None:
    scripts = distribution("gradscope-torch").entry_points.select(group="console_scripts")
    assert [(one.name, one.value) for one in scripts] == [("gradscope", "gradscope.cli:main")]


def test_torch_is_capped(project: dict[str, Any]) -> None:
    torch = next(one for one in project["project"]["dependencies"] if one.startswith("torch>"))
    assert re.fullmatch(r"torch>=[\d.]+,<[\d.]+", torch)
    assert "torch" not in " ".join(project["build-system"]["requires"])


def test_the_extension_is_optional_and_of_the_sources_there_are(project: dict[str, Any]) -> None:
    [extension] = project["tool"]["setuptools"]["ext-modules"]
    assert extension["optional"] is True
    named = {*extension["sources"], *extension["depends"]}
    assert named == {str(path.relative_to(ROOT)) for path in NATIVE.iterdir()}
    assert not [flag for flag in extension["extra-compile-args"] if flag.startswith("-march")]
