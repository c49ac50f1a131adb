"""Proof that watching changes nothing."""
