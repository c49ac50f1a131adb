"""Remedies, each applied to a copy of a model."""
