"""The spectrum of a model's Jacobian."""
