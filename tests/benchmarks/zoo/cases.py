"""One network of the zoo: what it is, how it is trained, and what is wrong with it if it does not learn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """A network and its training.

    Attributes:
        name: Its row in the lists; one of its half.
        family: What it is an example of (`zoo.families`).
        cause: What is wrong with it where it turns out sick (`zoo.causes`); empty of a family built to be healthy.
        fault: What is broken on purpose (`zoo.faults`); with one it is sick whatever its accuracy.
        network: ``mlp`` or ``cnn``.
        options: Those of ``gradscope.lab.mlp`` or ``cnn``.
        optimizer: ``sgd``, ``momentum`` (0.9) or ``adam``.
        lr: Learning rate for a loss that is not scaled; SGD gets it divided by ``loss_scale``: the same training.
        batch: Samples of a step.
        steps: Optimizer steps.
        loss_scale: What the loss is multiplied by, without a scaler.
        place: Layer or step that the fault strikes.
        seed: Of the weights and the order of the samples.
    """

    name: str
    family: str
    cause: str = ""
    fault: str = ""
    network: str = "mlp"
    options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "momentum"
    lr: float = 0.05
    batch: int = 64
    steps: int = 200
    loss_scale: float = 1.0
    place: int = 0
    seed: int = 0

    @property
    def digest(self) -> str:
        """What tells it from every other, name apart."""
        told = {key: value for key, value in asdict(self).items() if key != "name"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """Its settings in a line."""
        options = ", ".join(f"{key} {value}" for key, value in self.options.items())
        scale = "" if self.loss_scale == 1 else f", loss x {self.loss_scale:g}"
        return f"{self.network}: {options}; {self.optimizer} {self.lr:g}, batch {self.batch}, {self.steps} steps{scale}"
