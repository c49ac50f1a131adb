"""Several runs read together: a sweep, or any folder of runs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pandas as pd

from gradscope.errors import GradscopeError, RunFormatError, unknown_name
from gradscope.runs import html
from gradscope.runs.decay import Decay
from gradscope.runs.description import jsonable
from gradscope.runs.format import DESCRIPTION
from gradscope.runs.run import Run
from gradscope.runs.store import Store

LEVELS = 3
"""How many levels of folders are searched for runs."""
UNKNOWN = Decay(math.nan, math.nan, math.nan, math.nan, 0)
T = TypeVar("T")
_OWN = ("name", "decay", "decay_low", "decay_high", "decades", "status", "final_loss")


class Runs:
    """Runs by name, in order of name; a name is the run's folder relative to the folder that was loaded.

    Attributes:
        path: The folder that was loaded.
        broken: Runs that could not be read, wholly or in part, by name, with the error that names the file.
    """

    def __init__(self, path: str, runs: dict[str, Run], broken: dict[str, RunFormatError] | None = None) -> None:
        self.path = path
        self.broken = broken or {}
        self._runs = runs

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, name: object) -> bool:
        return name in self._runs

    def __getitem__(self, name: str) -> Run:
        if name not in self._runs:
            raise unknown_name("run", name, self._runs)
        return self._runs[name]

    def __repr__(self) -> str:
        return f"<Runs {self.path!r}: {len(self)}>"

    def _repr_html_(self) -> str:
        return html.of_runs(self)

    @property
    def names(self) -> list[str]:
        """Names of the runs, in order."""
        return list(self._runs)

    def items(self) -> Iterable[tuple[str, Run]]:
        """Return pairs of name and run."""
        return self._runs.items()

    def select(self, **config: Any) -> Runs:
        """Keep the runs whose configuration has these values; several (a list, a set, a range, an array) mean any.

        Runs that cannot be read at all stay in `broken`: their configuration is not known.

        Raises:
            UnknownNameError: No run has such a key.
        """
        known = {key: None for run in self for key in run.config}
        for key in config:
            if key not in known:
                raise unknown_name("configuration key", key, known)
        wanted = {key: _choice(value) for key, value in config.items()}
        chosen = {name: run for name, run in self.items() if _matches(run.config, wanted)}
        broken = {name: error for name, error in self.broken.items() if name in chosen or name not in self}
        return Runs(self.path, chosen, broken)

    def table(self) -> pd.DataFrame:
        """Return one row per run: name, each key of config, decay at the first step taken, status, loss.

        `decay`, `decay_low`, `decay_high` are factors per layer, `decades` is log10 of the total; NaN where
        not recorded, or where a part of the run cannot be read: `broken` says which. `final_loss` is the last value of
        the scalar ``loss``. A key of config that is called like one of these columns is shown as ``config.<key>``.
        """
        return pd.DataFrame([self._row(name, run) for name, run in self.items()])

    def _row(self, name: str, run: Run) -> dict[str, Any]:
        config = {(f"config.{key}" if key in _OWN else key): value for key, value in run.config.items()}
        decay = self._read(name, lambda: _decay(run), UNKNOWN)
        return {
            "name": name,
            **config,
            "decay": decay.rate,
            "decay_low": decay.low,
            "decay_high": decay.high,
            "decades": decay.decades,
            "status": run.status,
            "final_loss": self._read(name, lambda: _final_loss(run), math.nan),
        }

    def _read(self, name: str, view: Callable[[], T], otherwise: T) -> T:
        """Return a view of a run; one that cannot be read does not take the others down."""
        try:
            return view()
        except RunFormatError as error:
            self.broken.setdefault(name, error)
            return otherwise

    def refresh(self) -> bool:
        """Look for new runs, and for what the known ones have gained; True when anything is new."""
        grown = [self._read(name, run.refresh, False) for name, run in self.items()]
        found = find(Store(self.path))
        new = [name for name in found if name not in self._runs and name not in self.broken]
        runs, broken = read_all(self.path, new)
        self.broken |= broken
        self._runs = dict(sorted((self._runs | runs).items()))
        return bool(runs) or bool(broken) or any(grown)


def find(store: Store, levels: int = LEVELS, prefix: str = "") -> list[str]:
    """Return the names of the runs below a folder; a run's own folder is not searched further."""
    found: list[str] = []
    for name in store.names(folders=True):
        inner = store.child(name)
        if inner.is_file(DESCRIPTION):
            found.append(prefix + name)
        elif levels > 1:
            found += find(inner, levels - 1, f"{prefix}{name}/")
    return found


def read_all(path: str, names: Iterable[str]) -> tuple[dict[str, Run], dict[str, RunFormatError]]:
    """Read the runs of a folder; one that cannot be read is warned of and kept apart."""
    runs: dict[str, Run] = {}
    broken: dict[str, RunFormatError] = {}
    store = Store(path)
    for name in names:
        try:
            runs[name] = Run(store.shown(name))
        except RunFormatError as error:
            warnings.warn(f"left out a run that cannot be read: {error}", UserWarning, stacklevel=4)
            broken[name] = error
    return runs, broken


def _choice(value: Any) -> Any:
    """Return one choice as JSON holds it, or several as a list of them."""
    if hasattr(value, "tolist"):  # an array; what it holds are plain values
        value = value.tolist()
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    return [jsonable(one) for one in value] if several else jsonable(value)


def _matches(config: dict[str, Any], wanted: dict[str, Any]) -> bool:
    def fits(given: Any, choice: Any) -> bool:
        return given == choice or (isinstance(choice, list) and given in choice)

    return all(key in config and fits(config[key], choice) for key, choice in wanted.items())


def _decay(run: Run) -> Decay:
    """Return the decay at the first recorded step that the optimizer took; one it skipped may have overflowed."""
    try:
        skipped = set(run.skipped())
        # Which steps have a value is asked only where it matters: it reads the whole metric.
        taken = (step for step in run.steps("output_grad_norm") if step not in skipped) if skipped else iter(())
        return run.decay(next(taken, None))
    except RunFormatError:
        raise
    except GradscopeError:  # no layers, or no such metric, or nothing recorded yet
        return UNKNOWN


def _final_loss(run: Run) -> float:
    scalars = run.scalars
    losses = scalars.loc[scalars["name"] == "loss", "value"]
    return float(losses.iloc[-1]) if len(losses) else math.nan
