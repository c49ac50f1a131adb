"""Which verdicts name the cause of a sick network right, for each tool.

Fixed before the second half was drawn. What only follows from the cause (a loss at chance, a gradient that is small
somewhere) does not name it.
"""

from __future__ import annotations

TOOLS = ("gradscope", "SageMaker, tensors", "SageMaker, all", "AUTOTRAINER")

_VANISHING = ("VanishingGradient", "PoorWeightInitialization")
_OURS: dict[str, tuple[str, ...]] = {
    "vanishing": ("vanishing", "forward-collapse", "depth-scale"),
    "exploding": ("exploding", "depth-scale"),
    "chaos": ("exploding", "saturation", "depth-scale"),
    "normalization": ("norm-explosion", "exploding"),
    "huge updates": ("update-ratio",),
    "tiny updates": ("update-ratio",),
    "saturation": ("saturation",),
    "dead": ("dead-units", "no-gradient", "sparse-gradients"),
    "underflow": ("underflow",),
    "zero weights": ("no-gradient", "vanishing", "forward-collapse"),
    "cut": ("no-gradient",),
    "non-finite": ("non-finite",),
    "labels": ("stalled",),
    "blank": ("forward-collapse", "no-gradient", "stalled"),
}
_SAGEMAKER: dict[str, tuple[str, ...]] = {
    "vanishing": _VANISHING,
    "exploding": ("ExplodingTensor", "PoorWeightInitialization"),
    "chaos": ("ExplodingTensor", "SaturatedActivation", "PoorWeightInitialization"),
    "normalization": ("ExplodingTensor", "PoorWeightInitialization"),
    "huge updates": ("WeightUpdateRatio",),
    "tiny updates": ("WeightUpdateRatio", "UnchangedTensor"),
    "saturation": ("SaturatedActivation",),
    "dead": ("DeadRelu", "AllZero"),
    "underflow": ("VanishingGradient", "AllZero"),
    "zero weights": ("AllZero", "VanishingGradient"),
    "cut": ("UnchangedTensor", "VanishingGradient", "WeightUpdateRatio"),
    "non-finite": ("ExplodingTensor",),
    "labels": ("LossNotDecreasing",),
    "blank": ("LossNotDecreasing", "AllZero", "VanishingGradient"),
}
_AUTOTRAINER: dict[str, tuple[str, ...]] = {
    "vanishing": ("vanish",),
    "exploding": ("explode",),
    "chaos": ("explode",),
    "normalization": ("explode",),
    "huge updates": ("explode", "unstable"),
    "tiny updates": ("not_converge",),
    "saturation": ("vanish",),
    "dead": ("relu",),
    "underflow": ("vanish", "relu"),
    "zero weights": ("vanish", "relu"),
    "cut": ("vanish",),
    "non-finite": ("explode",),
    "labels": ("not_converge",),
    "blank": ("not_converge", "relu"),
}
NAMES = dict(zip(TOOLS, (_OURS, _SAGEMAKER, _SAGEMAKER, _AUTOTRAINER), strict=True))


def named(tool: str, cause: str, codes: tuple[str, ...]) -> bool:
    """Whether one of a tool's alarms names the cause.

    >>> named("gradscope", "vanishing", ("stalled", "vanishing")), named("AUTOTRAINER", "vanishing", ("not_converge",))
    (True, False)
    """
    return any(code in NAMES[tool][cause] for code in codes)
