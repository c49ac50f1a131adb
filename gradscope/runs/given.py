"""What callers may give: whole numbers, numbers, text; and rows of small tables as Arrow."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gradscope.errors import InvalidTypeError, InvalidValueError


def whole(name: str, value: object) -> int:
    """Return a whole number as an int: an int of Python or numpy, neither bool nor float.

    >>> whole("step", np.int32(3))
    3

    Raises:
        InvalidTypeError: It is something else.
        InvalidValueError: It takes more than 64 bits.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InvalidTypeError(f"{name} is a whole number, not {value!r}")
    number = int(value)
    if not -(2**63) <= number < 2**63:
        raise InvalidValueError(f"{name} is a whole number of at most 64 bits, not one of {number.bit_length() + 1}")
    return number


def steps_of(step: int | NDArray[np.int64], count: int) -> int | NDArray[np.int64]:
    """Return the step of `count` rows, or the steps of each, checked.

    >>> steps_of(np.array([0, 0, 10]), 3)
    array([ 0,  0, 10])

    Raises:
        InvalidTypeError: It is no whole number, or the array is not one of whole numbers.
        InvalidValueError: There is not one step for each row, or a number takes more than 64 bits.
    """
    if not isinstance(step, np.ndarray):
        return whole("step", step)
    if step.dtype.kind not in "iu":
        raise InvalidTypeError(f"step is a whole number for each row, not {step.dtype}")
    if step.shape != (count,):
        raise InvalidValueError(f"step must have the shape (rows,) = {(count,)}, not {step.shape}")
    if step.dtype == np.uint64 and count and int(step.max()) >= 2**63:
        raise InvalidValueError("step is a whole number of at most 64 bits, not one of 65")
    return step.astype(np.int64, copy=False)


def flags_of(name: str, flags: bool | NDArray[np.bool_], count: int) -> bool | NDArray[np.bool_]:
    """Return a flag of `count` rows, or the flags of each, checked.

    Raises:
        InvalidTypeError: It is neither true nor false, or the array does not hold such.
        InvalidValueError: There is not one flag for each row.
    """
    if isinstance(flags, bool | np.bool_):
        return bool(flags)
    if not isinstance(flags, np.ndarray) or flags.dtype != np.bool_:
        raise InvalidTypeError(f"{name} is true or false, or an array of such, not {flags!r}")
    if flags.shape != (count,):
        raise InvalidValueError(f"{name} must have the shape (rows,) = {(count,)}, not {flags.shape}")
    return flags


def real(name: str, value: Any) -> float:
    """Return the value of a scalar as a float.

    Raises:
        InvalidTypeError: It is no single real number.
        InvalidValueError: It is a whole number beyond the range of a float.
    """
    try:
        if not isinstance(value, complex | np.complexfloating):  # numpy's would lose their imaginary part
            return float(value)
    except (TypeError, ValueError):
        pass
    except OverflowError:
        raise InvalidValueError(f"scalar {name!r} is too large for a float") from None
    raise InvalidTypeError(f"scalar {name!r} is a single number, not {type(value).__name__}")


def clean(text: object) -> str:
    r"""Return text that can be stored: half a character, as in undecodable file names, becomes a question mark.

    >>> clean("lr \udcff drop")
    'lr ? drop'
    """
    return str(text).encode("utf-8", errors="replace").decode("utf-8")


def clean_row(row: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Return a row of a small table as it is kept until the next flush."""
    texts = {key: clean(value) if isinstance(value, str) else value for key, value in row.items()}
    return {**texts, "step": whole("step", row.get("step")), "rank": rank}


def arrow_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> tuple[pa.Table, list[str]]:
    """Turn rows into an Arrow table; those that do not fit the schema are left out, and their errors returned."""
    try:
        return pa.Table.from_pylist(list(rows), schema=schema), []
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass  # at least one is bad: find out which
    tables, errors = [schema.empty_table()], []
    for row in rows:
        try:
            tables.append(pa.Table.from_pylist([row], schema=schema))
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            errors.append(str(error))
    return pa.concat_tables(tables), errors


def warn_always(message: str) -> None:
    """Warn, even in a session that turns warnings into errors: what goes on there is a training."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn(message, UserWarning, stacklevel=3)
