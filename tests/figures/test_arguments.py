"""What figures of a run say of what is no run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs

from gradscope import figures
from gradscope.errors import InvalidTypeError

OF_ONE = (
    figures.heatmap,
    partial(figures.heatmap_frame, metric="output_grad_norm"),
    figures.timeline,
    partial(figures.timeline_frame, metric="output_grad_norm"),
    partial(figures.marks_frame, metric="output_grad_norm"),
    figures.ledger,
    figures.ledger_frame,
    figures.waterfall,
    figures.waterfall_frame,
    figures.gradient_flow_frame,
    figures.decay_frame,
    figures.loss_frame,
    figures.layer_points_frame,
    figures.information_by_depth,
    figures.information_by_depth_frame,
    figures.information_plane,
    figures.information_plane_frame,
)
OF_SEVERAL = (
    figures.gradient_flow,
    figures.loss,
    figures.information_sweep,
    figures.information_sweep_frame,
    figures.sweep_map,
    figures.sweep_map_frame,
    figures.trainability_map,
    figures.trainability_frame,
)


@pytest.mark.parametrize("draw", [*OF_ONE, *OF_SEVERAL])
@pytest.mark.parametrize("given", [None, 3])
def test_what_is_no_run_is_named(draw: Callable[[Any], object], given: object) -> None:
    with pytest.raises(InvalidTypeError) as no:
        draw(given)
    assert str(no.value) == f"run is a gradscope Run, not {'None' if given is None else 'int'}"


@pytest.mark.parametrize("draw", [*OF_ONE, figures.phase_diagram])
def test_several_runs_in_place_of_one_lead_to_a_choice(draw: Callable[[Any], object], tmp_path: Path) -> None:
    synthetic_runs.write(tmp_path / "a", depth=2, steps=range(1))
    with pytest.raises(InvalidTypeError) as no:
        draw(synthetic_runs.open_runs(tmp_path))
    assert str(no.value) == "run is a gradscope Run, not Runs; choose one of them, such as runs[name]"


@pytest.mark.parametrize("draw", OF_SEVERAL)
@pytest.mark.parametrize("given", [[3], {"a": 3}])
def test_one_of_several_that_is_no_run_is_named(draw: Callable[[Any], object], given: object) -> None:
    with pytest.raises(InvalidTypeError, match=r"^run is a gradscope Run, not int$"):
        draw(given)
