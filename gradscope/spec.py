"""The shared vocabulary: what a metric is, what a layer is, what is healthy. Torch-free, JSON round trip."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from gradscope.errors import InvalidValueError

Scale = Literal["linear", "log"]
Combine = Literal["mean", "rms", "rss", "max"]
ColumnType = Literal["float64", "float32"]
T = TypeVar("T")


@dataclass(frozen=True)
class Band:
    """A healthy range of a metric. The source is mandatory: no source, no verdict."""

    low: float | None
    high: float | None
    source: str


@dataclass(frozen=True)
class MetricSpec:
    """What a reader must know of a metric to label, scale, bound and judge it, without its code.

    Attributes:
        name: Column name in the run.
        label: What figures and menus show.
        unit: Unit of the values; ``"1"`` where they have none.
        group: ``backward``, ``weights``, ``forward``, ``activation``, ``information`` or ``custom``.
        scale: How an axis shows it.
        bounds: Least and greatest possible value; None where unbounded.
        degree: d in f(c g) = c**d f(g); it undoes a loss scale. None where no such d exists.
        combine: How micro-batches of one step combine: mean by count, root mean square by
            count, root of the sum of squares, or maximum.
        signals: What the probe must capture.
        dtype: Type of the stored column.
        healthy: Range judged healthy, with its source; None where nobody has derived one.
        doc: One sentence.
        formula: The formula, in plain text.
        source: Paper or text it is taken from.
        parameters: Parameters of the estimator, such as the size of a sample.

    Raises:
        InvalidValueError: `scale`, `combine` or `dtype` is none of their choices, `group` is empty, or `bounds` is no
            pair of finite numbers in order, None where unbounded.
    """

    name: str
    label: str
    unit: str = "1"
    group: str = "custom"
    scale: Scale = "linear"
    bounds: tuple[float | None, float | None] = (None, None)
    degree: float | None = None
    combine: Combine = "mean"
    signals: tuple[str, ...] = ()
    dtype: ColumnType = "float64"
    healthy: Band | None = None
    doc: str = ""
    formula: str = ""
    source: str = ""
    parameters: Mapping[str, str | int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, choices in (("scale", Scale), ("combine", Combine), ("dtype", ColumnType)):
            value, known = getattr(self, name), get_args(choices)
            if value not in known:
                raise InvalidValueError(f"{name} of metric {self.name!r} is one of {', '.join(known)}, not {value!r}")
        if not isinstance(self.group, str) or not self.group.strip():
            raise InvalidValueError(f"group of metric {self.name!r} is a name such as 'custom', not {self.group!r}")
        if not _are_bounds(self.bounds):
            raise InvalidValueError(
                f"bounds of metric {self.name!r} are a pair (least, greatest) of finite numbers, None where unbounded, "
                f"not {self.bounds!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MetricSpec:
        """Read back what ``to_json`` wrote; keys of a later version are ignored.

        Raises:
            InvalidValueError: A value is out of its choices.

        >>> spec = MetricSpec("a", "A", bounds=(0.0, None), healthy=Band(0.0, 1.0, "a book"))
        >>> MetricSpec.from_json(spec.to_json()) == spec
        True
        """
        known = known_fields(cls, data)
        # Infinite bounds, which JSON holds as text, say the same as None.
        known["bounds"] = tuple(None if one in ("inf", "-inf") else one for one in known.get("bounds", (None, None)))
        known["signals"] = tuple(known.get("signals", ()))
        if known.get("healthy") is not None:
            known["healthy"] = Band(**known["healthy"])
        return cls(**known)


@dataclass(frozen=True)
class LayerSpec:
    """One call of one watched layer.

    Attributes:
        id: Number of the call in order of discovery; rows of the run carry it.
        layer: Qualified module name.
        call: 1 for the first call of the module within a forward pass, 2 for the second.
        depth: Place in execution order, from 1.
        parents: Ids of the calls whose outputs reach this input without passing another layer.
        kind: Module class, such as ``Linear``.
        activation: Name of the activation function that receives the output; ``identity`` for none, ``?`` for
            one that was not recognised.
        norm: ``batch``, ``layer``, ``group``, ``rms`` ... between output and activation, ``none`` otherwise.
        fan_in: Inputs that one output unit sums over.
        fan_out: Outputs that one input unit reaches.
        parameters: Number of parameter entries.
        resolved: Whether everything between this input and the parents was understood. Where a product that is not
            watched lies between, the factors stand but nothing is to blame.
        entry: Id of the first call that takes in the same tensor, which may be this one; None where that is not known.
    """

    id: int
    layer: str
    call: int
    depth: int
    parents: tuple[int, ...] = ()
    kind: str = "Linear"
    activation: str = "?"
    norm: str = "none"
    fan_in: int = 0
    fan_out: int = 0
    parameters: int = 0
    resolved: bool = True
    entry: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LayerSpec:
        """Read back what ``to_json`` wrote; keys of a later version are ignored.

        >>> spec = LayerSpec(id=1, layer="fc", call=1, depth=2, parents=(0,))
        >>> LayerSpec.from_json(spec.to_json()) == spec
        True
        """
        known = known_fields(cls, data)
        known["parents"] = tuple(known.get("parents", ()))
        return cls(**known)


def _are_bounds(given: object) -> bool:
    """Tell whether these are a lower and an upper bound, each None or finite, in order."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        return False
    known = [one for one in given if one is not None]
    if not all(isinstance(one, int | float) and math.isfinite(one) for one in known):
        return False
    return len(known) < 2 or known[0] <= known[1]


def known_fields(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the entries of ``data`` that are fields of the dataclass ``cls``."""
    names = {one.name for one in fields(cls)}
    return {key: value for key, value in data.items() if key in names}
