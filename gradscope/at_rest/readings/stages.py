"""From a chain of parts to what theory takes: stages, each with what follows its layer, and skips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from gradscope.at_rest.readings.chain import Fork, Item, Opaque
from gradscope.at_rest.readings.functions import NOTHING, composed, scaled
from gradscope.at_rest.readings.layers import LayerRead
from gradscope.at_rest.readings.parts import Affine, Dropout, LayerCall, Normalization, Phi, Scale, Unknown
from gradscope.theory.functions import Activation, activation_of
from gradscope.theory.stages import Convolution, Pool, Residual, Stage

Element = Stage | Residual
FEW, FEW_AT_POSITIONS = 32, 65
"""Units below which a normalization is marked: single layers were off by 4 % with 16, by 4 % with 32 at positions."""
IDENTITY = activation_of("identity")


@dataclass
class Assembler:
    """Puts stages together.

    Args:
        layers: The layer calls, by place.

    Attributes:
        lost: Places of layer calls that theory cannot follow, and why.
        factors: Factors behind the activation functions of layer calls, which their slopes do not contain.
        pools: Poolings, in order, each with the place of the layer whose output is pooled.
        notes: Places of layer calls whose normalization is followed roughly, and why.
    """

    layers: Sequence[LayerRead]
    lost: dict[int, str] = field(default_factory=dict)
    factors: dict[int, float] = field(default_factory=dict)
    pools: list[tuple[Pool, int]] = field(default_factory=list)
    notes: dict[int, str] = field(default_factory=dict)
    _size: tuple[int, ...] = ()
    _current: int = -1

    def network(self, items: Sequence[Item], size: tuple[int, ...] = ()) -> list[Element]:
        """Return the stages and skips of a chain.

        Args:
            items: The chain.
            size: Positions of what enters it.
        """
        self._size = size
        found: list[Element] = []
        for item in items:
            if isinstance(item, LayerCall):
                self._layer(found, item.place)
            elif isinstance(item, Fork):
                if self._size and self._is_flat(item.branch):
                    self._size = ()
                    found.append(self._between())
                found.append(self._residual(item))
            elif isinstance(item, Opaque):
                self._opaque(found, item.why, item.layers)
            else:
                self._follow(found, item)
        return found

    def input(self, entering: Tensor, size: tuple[int, ...]) -> Stage:
        """Return a stage that stands for the input of a network that begins with a skip."""
        self._size = size
        return replace(self._between(), fan_out=int(entering.shape[1 if size else -1]))

    def _is_flat(self, items: Sequence[Item]) -> bool:
        """Tell whether a chain begins with a layer that knows no positions."""
        first = next((item for item in items if isinstance(item, LayerCall)), None)
        return first is not None and self.layers[first.place].stage.convolution is None

    def _layer(self, found: list[Element], place: int) -> None:
        one = self.layers[place]
        stage = one.stage
        if stage.why_not:
            self._opaque(found, stage.why_not, (place,))
        else:
            found.append(stage)
        self._size, self._current = one.size, place

    def _opaque(self, found: list[Element], why: str, layers: Sequence[int] = ()) -> None:
        for place in layers:
            self.lost[place] = why
        # Nothing is known of what follows, nor of the gradient of what comes before.
        found.append(self._between(activation=NOTHING, why_not=why))

    def _residual(self, fork: Fork) -> Residual:
        entering, items = self._size, list(fork.branch)
        norm, eps, phi = "none", 1e-5, IDENTITY
        if items and isinstance(items[0], Normalization) and self._is_over_units(items[0]):
            first = items.pop(0)
            assert isinstance(first, Normalization)
            norm, eps = first.kind, first.eps
        if items and isinstance(items[0], Phi):
            before = items.pop(0)
            assert isinstance(before, Phi)
            phi = before.activation
        shortcut = self.network(fork.shortcut, entering)
        branch = self.network(items, entering)
        return Residual(
            branch=tuple(branch),
            scale=fork.scale,
            shortcut=tuple(shortcut),
            before_norm=norm,  # type: ignore[arg-type]
            before_activation=phi,
            norm_eps=eps,
        )

    def _follow(self, found: list[Element], part: object) -> None:
        """Add to the last element what follows it; where it has no room, to one that only passes on."""
        if isinstance(part, Normalization) and not self._is_over_units(part):
            self._opaque(found, "theory knows no instance normalization")
        elif isinstance(part, Normalization):
            last = self._last(found, free=("norm", "activation", "pool", "dropout"))
            found[-1] = replace(last, norm=part.kind, norm_eps=part.eps)
        elif isinstance(part, Phi):
            last = self._last(found, free=("pool", "dropout"))
            found[-1] = replace(last, activation=composed(activation_of(last.activation), part.activation))
        elif isinstance(part, Scale) and not math.isfinite(part.factor):
            self._opaque(found, "a factor is NaN or infinite")
        elif isinstance(part, Scale):
            last = self._last(found, free=("pool", "dropout"))
            found[-1] = replace(last, activation=scaled(activation_of(last.activation), part.factor))
            self.factors[self._current] = self.factors.get(self._current, 1.0) * part.factor
        elif isinstance(part, Pool):
            self._pool(found, part)
        elif isinstance(part, Dropout):
            self._drop(found, part.fraction)
        elif isinstance(part, Affine):
            found.append(self._between(weight_var=part.factor_square, bias_var=part.shift_square))
        else:
            self._opaque(found, part.why if isinstance(part, Unknown) else "an input enters here")

    def _is_over_units(self, part: Normalization) -> bool:
        """Tell whether a normalization takes several units together; note where these are few.

        Theory takes their mean for zero and their variance for sharp: both are off by one part in their number.
        """
        if not part.shape:
            return True
        units = part.shape[0] if len(part.shape) > len(self._size) else 1
        if 1 < units < (FEW_AT_POSITIONS if self._size else FEW):
            self.notes[self._current] = f"approximate: {units} units are few for a normalization over them"
        return units > 1

    def _pool(self, found: list[Element], part: Pool) -> None:
        axes = len(self._size)
        window = part.window[-axes:] if axes else ()
        if len(window) != axes or not axes:
            self._opaque(found, "pooling over something else than positions of a convolution")
            return
        last = self._last(found, free=("pool", "dropout"))
        found[-1] = replace(last, pool=Pool(part.kind, window))
        self.pools.append((Pool(part.kind, window), self._current))
        self._size = tuple(full // step for full, step in zip(self._size, window, strict=True))

    def _drop(self, found: list[Element], fraction: float) -> None:
        if not found or not isinstance(found[-1], Stage):
            found.append(self._between())
        last = found[-1]
        assert isinstance(last, Stage)
        found[-1] = replace(last, dropout=1.0 - (1.0 - last.dropout) * (1.0 - fraction))

    def _last(self, found: list[Element], free: Sequence[str]) -> Element:
        """Return the last element if it has nothing yet in these places, else one that only passes on."""
        empty = {"norm": "none", "activation": "identity", "pool": None, "dropout": 0.0}
        last = found[-1] if found else None
        if last is None or any(_name(getattr(last, place, empty[place])) != empty[place] for place in free):
            # Not a stage, which would take the mean for zero and its input for normal.
            found.append(Residual(branch=(), scale=0.0))
        return found[-1]

    def _between(
        self,
        weight_var: float = 1.0,
        bias_var: float = 0.0,
        activation: str | Activation = "identity",
        why_not: str = "",
    ) -> Stage:
        """Return a stage that stands for no layer and keeps positions."""
        axes = len(self._size)
        geometry = Convolution(self._size, (1,) * axes, (0,) * axes) if axes else None
        return Stage(
            weight_var, bias_var, activation=activation, orthogonal=True, convolution=geometry, why_not=why_not
        )


def _name(value: object) -> object:
    return value.name if isinstance(value, Activation) else value
