"""Figures of a run: one file per figure, each a frame function (what is drawn) and a thin figure function."""

from __future__ import annotations

from gradscope.figures.gradient_flow import decay_frame, gradient_flow, gradient_flow_frame
from gradscope.figures.information import (
    information_by_depth,
    information_by_depth_frame,
    information_plane,
    information_plane_frame,
)
from gradscope.figures.information_bins import information_planes
from gradscope.figures.information_sweep import information_sweep, information_sweep_frame
from gradscope.figures.layer_lines import marks_frame, timeline, timeline_frame
from gradscope.figures.layer_step import HeatmapFrame, heatmap, heatmap_frame
from gradscope.figures.ledger_bars import ledger, ledger_frame
from gradscope.figures.loss_curve import loss, loss_frame
from gradscope.figures.phase_diagram import phase_diagram
from gradscope.figures.phases import edge_frame, layer_points_frame
from gradscope.figures.similarity import layer_similarity
from gradscope.figures.style import CONFIG, message, template
from gradscope.figures.sweep_cells import sweep_map_frame
from gradscope.figures.sweep_grid import sweep_map
from gradscope.figures.trainability import trainability_map
from gradscope.figures.trainability_cells import trainability_frame
from gradscope.figures.waterfall import waterfall, waterfall_frame
from gradscope.figures.window import Window

__all__ = [
    "CONFIG",
    "HeatmapFrame",
    "Window",
    "decay_frame",
    "edge_frame",
    "gradient_flow",
    "gradient_flow_frame",
    "heatmap",
    "heatmap_frame",
    "information_by_depth",
    "information_by_depth_frame",
    "information_plane",
    "information_plane_frame",
    "information_planes",
    "information_sweep",
    "information_sweep_frame",
    "layer_points_frame",
    "layer_similarity",
    "ledger",
    "ledger_frame",
    "loss",
    "loss_frame",
    "marks_frame",
    "message",
    "phase_diagram",
    "sweep_map",
    "sweep_map_frame",
    "template",
    "timeline",
    "timeline_frame",
    "trainability_frame",
    "trainability_map",
    "waterfall",
    "waterfall_frame",
]
