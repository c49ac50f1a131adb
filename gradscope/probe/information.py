"""What the layers tell of a fixed sample, measured now and then while the model trains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gradscope.errors import InvalidTypeError, InvalidValueError
from gradscope.information.arrays import ROUNDING, plain
from gradscope.information.panel import panel
from gradscope.metrics.information import ENDS, MOST_SAMPLES
from gradscope.probe.layers import Layer
from gradscope.probe.representations import collect, features
from gradscope.spec import LayerSpec, MetricSpec

Measured = dict[int, dict[str, float]]


@dataclass(frozen=True)
class Sample:
    """A fixed sample, at most `MOST_SAMPLES` of what was given.

    Attributes:
        x: What the model takes: a tensor, a tuple of them or a mapping.
        inputs: The first tensor of it, (samples, features).
        labels: One for each sample; None where there are none.
    """

    x: Any
    inputs: NDArray[np.float32]
    labels: NDArray[Any] | None


def fixed_sample(given: object) -> Sample:
    """Check and copy the ``sample=`` argument of ``watch``.

    Raises:
        InvalidTypeError: It is no pair (x, y), or x holds no tensor.
        InvalidValueError: Its parts differ in length, or have fewer than 4 samples.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise InvalidTypeError(f"sample is the pair (x, y), y None without labels, not {type(given).__name__}")
    x, y = given
    tensors = [one for one in _parts(x) if isinstance(one, Tensor) and one.ndim]
    if not tensors:
        raise InvalidTypeError(f"the x of sample is a tensor (samples, ...) or holds one, not {type(x).__name__}")
    count = len(tensors[0])
    labels = None if y is None else plain(y)
    if labels is not None and labels.shape[:1] != (count,):
        raise InvalidValueError(
            f"the x of sample has {count} samples and its y has {len(labels) if labels.ndim else 0}"
        )
    if labels is not None and labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InvalidValueError("the y of sample holds NaN or infinity")
    if count < 4:
        raise InvalidValueError(f"sample has {count} samples, and at least 4 are needed")
    places = np.sort(np.random.default_rng(0).permutation(count)[:MOST_SAMPLES])
    chosen = torch.from_numpy(places)
    fewer = _select(x, chosen, count)
    inputs = next(one for one in _parts(fewer) if isinstance(one, Tensor) and one.ndim)
    return Sample(fewer, features(inputs, "flatten"), None if labels is None else labels[places])


class Informant:
    """Measures the information in every layer about a fixed sample.

    Args:
        model: The model, without the wrappers of torch.compile and distributed training.
        layers: Its layers.
        sample: The sample.
        every: It is measured after the steps k with k % every == 0.
        specs: The metrics, ends of their intervals included.

    Attributes:
        every: The same as given.
        unmeasured: Why layer calls lack metrics since the last measurement, a text by name of the layer call.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], sample: Sample, every: int, specs: Sequence[MetricSpec]
    ) -> None:
        self._model = model
        self._layers = layers
        self._sample = sample
        self.every = every
        self.unmeasured: dict[str, str] = {}
        ends = tuple(f"_{end}" for end in ENDS)
        self._metrics = [one.name for one in specs if not one.name.endswith(ends)]

    def measure(self, specs: Sequence[LayerSpec]) -> Measured:
        """Run the sample through the model and return the metrics of every layer call, by id.

        What a layer hands on that is not finite has no information. Of one that is constant but for rounding an
        estimate that knows no scale is one of the rounding: it is absent.

        Raises:
            Exception: what the model raises.
        """
        found = collect(self._model, self._layers, specs, self._sample.x)
        finite = {str(key): one for key, one in found.items() if np.isfinite(one).all()}
        frame = panel(finite, self._sample.inputs, self._sample.labels, metrics=self._metrics)
        measured: Measured = {}
        rounded: dict[int, list[str]] = {}
        for row in frame.to_dict("records"):
            if ROUNDING in row["warning"]:
                rounded.setdefault(int(row["layer"]), []).append(row["metric"])
                continue
            numbers = {row["metric"]: row["value"]} | {f"{row['metric']}_{end}": row[end] for end in ENDS}
            # An interval that is not known is absent, not NaN.
            known = {name: float(one) for name, one in numbers.items() if not math.isnan(one)}
            measured.setdefault(int(row["layer"]), {}).update(known)
        self.unmeasured = _reasons(specs, rounded)
        return measured


def _reasons(specs: Sequence[LayerSpec], rounded: Mapping[int, Sequence[str]]) -> dict[str, str]:
    """Say of each layer call which metrics would have been of rounding."""
    texts = {}
    for one in specs:
        if one.id in rounded:
            name = one.layer if one.call == 1 else f"{one.layer} (call {one.call})"
            texts[name] = f"layer {name}: {', '.join(rounded[one.id])} left out where the layer is {ROUNDING}"
    return texts


def _parts(x: Any) -> Sequence[Any]:
    if isinstance(x, Mapping):
        return list(x.values())
    return x if isinstance(x, tuple | list) else [x]


def _select(x: Any, chosen: Tensor, count: int) -> Any:
    """Return a copy of the chosen samples; what is as long as the sample is taken to be of it."""
    if isinstance(x, Tensor):
        mine = x.detach()
        return mine[chosen.to(mine.device)] if mine.ndim and len(mine) == count else mine.clone()
    if isinstance(x, Mapping):
        return {key: _select(one, chosen, count) for key, one in x.items()}
    return tuple(_select(one, chosen, count) for one in x) if isinstance(x, tuple | list) else x
