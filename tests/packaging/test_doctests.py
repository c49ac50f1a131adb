"""The doctests of the dashboard, which pytest would import under the name of its folder in the checkout."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import gradscope.dashboards

MODULES = [one.name for one in pkgutil.walk_packages(gradscope.dashboards.__path__, "gradscope.dashboards.")]


@pytest.mark.parametrize("name", MODULES)
def test_doctests_of_the_dashboard(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_some() -> None:
    assert "gradscope.dashboards.state" in MODULES
