"""What theory says of the decay per layer at initialization, from the recursion of the length map done elsewhere."""

# Factor per layer of |dL/dz| by activation, for weight_var 1, 2, PyTorch's default, N(0, 0.01^2), gain 5/3.
DECAY = {
    "identity": (1.0000, 1.4142, 0.5774, 0.2263, 1.6667),
    "tanh": (0.9382, 1.0363, 0.5710, 0.2259, 1.0890),
    "sigmoid": (0.2351, 0.3159, 0.1412, 0.0564, 0.3596),
    "relu": (0.7071, 1.0000, 0.4082, 0.1600, 1.1785),
    "leaky_relu": (0.7071, 1.0000, 0.4083, 0.1600, 1.1786),
    "elu": (0.9236, 1.0674, 0.5647, 0.2255, 1.2036),
    "selu": (1.0352, 1.1458, 0.7953, 0.3258, 1.2861),
    "gelu": (0.5129, 0.8162, 0.2915, 0.1134, 1.1836),
    "silu": (0.5068, 0.7441, 0.2901, 0.1132, 1.1741),
    "softsign": (0.8829, 0.9746, 0.5361, 0.2236, 1.0081),
}
