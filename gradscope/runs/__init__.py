"""Runs on disk: write them while training goes on, read them back as tables."""

from gradscope.runs.collection import Runs
from gradscope.runs.decay import Decay
from gradscope.runs.loading import load
from gradscope.runs.run import Run
from gradscope.runs.writer import Writer

__all__ = ["Decay", "Run", "Runs", "Writer", "load"]
