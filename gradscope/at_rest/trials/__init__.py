"""Remedies tried and ranked."""
