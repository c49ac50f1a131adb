import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gradscope.figures.decimate import bin_columns, broken, column_of, line_points
from gradscope.figures.marks import ABSENT, NAN, PLAIN, ZERO, classify

FLOATS = st.floats(-1e6, 1e6, allow_nan=False)


@given(arrays.arrays(np.float64, st.integers(0, 2000), elements=FLOATS))
def test_a_line_keeps_its_extremes_and_its_order(heights: np.ndarray) -> None:
    chosen = line_points(np.arange(len(heights)), heights, 50)
    assert len(chosen) <= 52
    assert (np.diff(chosen) > 0).all()
    if len(heights):
        assert heights[chosen].max() == heights.max()
        assert heights[chosen].min() == heights.min()


def test_a_short_line_is_kept_whole_without_what_is_not_finite() -> None:
    heights = np.array([1.0, np.nan, 3.0, np.inf])
    assert line_points(np.arange(4), heights, 50).tolist() == [0, 2]


def test_a_line_breaks_at_marks_and_not_at_absent_values() -> None:
    codes = np.array([PLAIN, ABSENT, PLAIN, NAN.code, PLAIN], dtype=np.int8)
    assert broken(np.array([0, 2, 4]), codes).tolist() == [1]


def test_columns_keep_a_spike_a_dip_and_the_gravest_mark() -> None:
    values = np.ones((3, 10))
    values[0, 3], values[0, 8] = 1e6, 1e-9
    values[1, 4] = 0.0
    values[2, 4], values[2, 5] = 0.0, np.nan
    codes = classify(values, log=True)
    plain = np.where(codes == PLAIN, values, 1.0)
    heights, marks, starts = bin_columns(np.log10(plain), codes, columns=2)
    assert starts.tolist() == [0, 5]
    assert heights.dtype == np.float32
    np.testing.assert_array_equal(heights[0], np.float32([6, -9]))
    assert marks.tolist() == [[0, 0], [ZERO.code, 0], [ZERO.code, NAN.code]]
    assert np.isnan(heights[1, 0])
    assert np.isnan(heights[2]).all()


def test_few_columns_stay_as_they_are_and_absent_stays_absent() -> None:
    values = np.array([[1.0, np.nan]])
    codes = classify(values, log=True, present=np.array([[True, False]]))
    heights, marks, starts = bin_columns(np.log10(values), codes, columns=5)
    assert marks.tolist() == [[PLAIN, ABSENT]]
    assert starts.tolist() == [0, 1]
    assert heights[0, 0] == 0
    assert np.isnan(heights[0, 1])


@given(st.integers(1, 5000), st.integers(1, 600))
def test_columns_are_even(steps: int, columns: int) -> None:
    counts = np.bincount(column_of(steps, columns))
    assert len(counts) == min(steps, columns)
    assert counts.max() - counts.min() <= 1


def test_no_step_at_all() -> None:
    heights, marks, starts = bin_columns(np.zeros((0, 0)), np.zeros((0, 0), dtype=np.int8))
    assert heights.shape == marks.shape == (0, 0)
    assert len(starts) == 0
