"""A run that an earlier version wrote is still read: the fixture was written once and is never rewritten."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gradscope.runs import Run, load

FOLDER = Path(__file__).parent / "fixtures" / "format-1"


def test_a_run_of_format_1_still_loads() -> None:
    run = load(FOLDER)
    assert isinstance(run, Run)
    assert (run.name, run.status, run.error) == ("format-1", "failed", "RuntimeError: loss is nan")
    assert run.config == {"activation": "tanh", "lr": 0.1, "widths": [4, 4]}
    assert run.environment == {"torch": "2.13.0"}
    assert list(run.metrics) == ["output_grad_norm", "output_mean"]
    assert run.metrics["output_grad_norm"].scale == "log"
    assert run.layers["layer"].tolist() == ["a", "b", "a", "head"]
    assert run.layers["call"].tolist() == [1, 1, 2, 1]
    assert run.trunk == (1, 2, 3, 4)
    np.testing.assert_array_equal(run.profile("output_grad_norm", 0), [0.125, 0.25, 0.5, 1.0])
    np.testing.assert_array_equal(run.profile("output_mean", 0), [0.5, math.inf, math.nan])
    assert run.frame("output_grad_norm").shape == (35, 4)
    assert run.decay().rate == pytest.approx(0.5)
    assert run.final("loss") == 1 / 35
    assert run.events["text"].tolist() == ["start"]
    assert run.histograms["positive"].iloc[0].tolist() == [1, 2]
    assert run.units["dead"].tolist() == [True]
    assert run.coverage["code"].tolist() == ["missed"]
