"""Mean-field theory of signal propagation: what depth does to activations and gradients at initialization."""
