"""Kernels, ranks, alignment and linear readers against closed forms."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gradscope import information
from gradscope.information import readout
from gradscope.information.cka import hsic
from gradscope.information.readout import PENALTIES
from gradscope.information.renyi import kernel
from gradscope.information.spectrum import spectrum_of


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# ------------------------------------------------------------------------------------------------- Renyi


def test_the_entropy_of_kernels_that_are_known() -> None:
    two = np.array([[1.0, math.exp(-0.5)], [math.exp(-0.5), 1.0]])
    bits = {alpha: information.matrix_entropy(two, alpha) / math.log(2) for alpha in (1.01, 2.0, 1.0)}
    assert bits == {
        1.01: pytest.approx(0.713099, abs=1e-6),
        2.0: pytest.approx(0.548059, abs=1e-6),
        1.0: pytest.approx(0.715349, abs=1e-6),
    }
    assert information.matrix_entropy(np.eye(128)) / math.log(2) == pytest.approx(7.0, abs=1e-9)
    assert information.matrix_entropy(np.ones((9, 9))) == pytest.approx(0.0, abs=1e-9)


def test_the_width_of_the_kernel_sets_the_answer() -> None:
    x = normal(400, 1)
    y = 0.9 * x + math.sqrt(0.19) * normal(400, 1, seed=1)
    found = [information.renyi(x, y, sigma=sigma).in_bits().value for sigma in (0.1, 0.5, 1.0, 2.0)]
    assert found == pytest.approx([1.75, 1.11, 0.63, 0.30], rel=0.25)
    assert information.renyi(x, y, sigma=1e-6).warning == (
        "x: the kernel is so narrow that all samples look different; "
        "y: the kernel is so narrow that all samples look different"
    )
    assert information.renyi(x, y, sigma=1e3).warning == (
        "x: the kernel is so wide that all samples look alike; y: the kernel is so wide that all samples look alike"
    )


def test_what_is_shared_with_itself_is_all() -> None:
    x = normal(60, 2)
    whole = information.matrix_entropy(kernel(x, 0.5))
    doubled = information.matrix_entropy(kernel(x, 0.5) ** 2)
    assert information.renyi(x, x, sigma=0.5).value == pytest.approx(2 * whole - doubled, abs=1e-9)


# ------------------------------------------------------------------------------------------------- alignment


def test_alignment_of_independent_features_is_biased_and_debiased() -> None:
    plain = information.cka(normal(256, 512), normal(256, 512, seed=1), debiased=False)
    assert plain.value == pytest.approx(0.667, abs=0.01)
    assert plain.warning == "biased upwards: a side has more features than a fifth of the samples"
    assert information.cka(normal(256, 512), normal(256, 512, seed=1)).value == pytest.approx(0.0, abs=0.02)
    small = information.cka(normal(1000, 64), normal(1000, 64, seed=1), debiased=False)
    assert small.value == pytest.approx(0.060, abs=0.005)
    assert small.warning == ""


def test_alignment_of_a_stretched_axis() -> None:
    x = normal(20_000, 4)
    found = information.cka(x, x * [3.0, 1.0, 1.0, 1.0], batch=2000)
    assert found.value == pytest.approx(12 / (2 * math.sqrt(84)), abs=0.004)
    assert found.low < 12 / (2 * math.sqrt(84)) < found.high


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.floats(0.01, 100.0))
def test_rotation_and_scale_leave_alignment_at_one(seed: int, scale: float) -> None:
    x = normal(40, 6, seed=seed % 1000)
    turned = x @ np.linalg.qr(normal(6, 6, seed=seed % 997))[0]
    for debiased in (True, False):
        assert information.cka(x, scale * turned + 3.0, debiased=debiased).value == pytest.approx(1.0, abs=1e-9)


def test_the_unbiased_product_is_that_of_distinct_samples() -> None:
    """Song et al. 2012, equation 5: sums over tuples of distinct samples, by hand."""
    x, y = normal(6, 3), normal(6, 2, seed=1)
    k, other = x @ x.T, y @ y.T
    n, quads = 6, []
    for i in range(n):
        for j in set(range(n)) - {i}:
            for q in set(range(n)) - {i, j}:
                quads += [k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q]) for r in set(range(n)) - {i, j, q}]
    assert hsic(k, other) == pytest.approx(np.mean(quads), rel=1e-9)


def test_batches_need_no_large_matrix_and_agree() -> None:
    x = normal(2000, 8)
    y = x @ normal(8, 5, seed=2) + normal(2000, 5, seed=3)
    assert information.cka(x, y, batch=100).value == pytest.approx(information.cka(x, y).value, abs=0.02)
    assert math.isnan(information.cka(x, np.ones((2000, 2))).value)


@pytest.mark.parametrize("batch", [None, 20])
def test_the_interval_of_alignment_covers_what_is_shared(batch: int | None) -> None:
    """Of six white features three are shared: a CKA of one half."""
    covered = 0
    for seed in range(60):
        x = normal(200, 6, seed=seed)
        found = information.cka(x, np.hstack([x[:, :3], normal(200, 3, seed=seed + 1000)]), batch=batch)
        covered += found.low <= 0.5 <= found.high
    assert covered >= 51


# ------------------------------------------------------------------------------------------------- ranks


def with_spectrum(singular: list[float], n: int = 64, seed: int = 0) -> np.ndarray:
    """Make centred features whose singular values are these."""
    left = np.linalg.qr(normal(n, len(singular) + 1, seed=seed) - 0.0)[0]
    left = np.linalg.qr(np.hstack([np.ones((n, 1)), normal(n, len(singular), seed=seed)]))[0][:, 1:]
    right = np.linalg.qr(normal(len(singular), len(singular), seed=seed + 1))[0]
    return left * singular @ right


@pytest.mark.parametrize(
    ("singular", "rank"), [([1.0, 1.0, 1.0, 1.0], 4.0), ([1.0, 0.5, 0.25], 2.600491), ([2.0, 0.0, 0.0], 1.0)]
)
def test_the_effective_rank_of_known_singular_values(singular: list[float], rank: float) -> None:
    assert information.effective_rank(with_spectrum(singular)).value == pytest.approx(rank, abs=1e-6)


def test_the_smaller_side_gives_the_same_ranks() -> None:
    x = normal(30, 80)
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    shares = singular / singular.sum()
    shares = shares[shares > 1e-12]
    assert information.effective_rank(x).value == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert information.participation_ratio(x).value == pytest.approx(
        (singular**2).sum() ** 2 / (singular**4).sum(), rel=1e-9
    )
    assert information.participation_ratio(x.T @ x[:, :5]).n == 80


@pytest.mark.parametrize(("n", "p", "expected"), [(1000, 100, 90.9), (200, 100, 66.7), (100, 100, 50.0)])
def test_the_participation_ratio_of_white_features(n: int, p: int, expected: float) -> None:
    assert information.participation_ratio(normal(n, p)).value == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize(("n", "expected"), [(1000, 0.98), (200, 0.93), (100, 0.77)])
def test_saturation_of_white_features_grows_with_the_sample(n: int, expected: float) -> None:
    assert information.pca_saturation(normal(n, 100)).value == pytest.approx(expected, abs=0.015)


def test_ranks_are_of_centred_features_and_zero_where_nothing_varies() -> None:
    """A sigmoid layer that is nearly constant has a rank all the same: its mean is not a direction it uses."""
    layer = 0.5 + 1e-3 * normal(1024, 64)
    assert information.effective_rank(layer).value > 60
    for rank in (information.effective_rank, information.participation_ratio, information.pca_saturation):
        assert rank(np.ones((20, 3))).value == 0.0


@pytest.mark.parametrize("estimator", [information.effective_rank, information.participation_ratio])
def test_the_interval_of_a_rank_is_that_of_other_samples(estimator: object) -> None:
    scale = np.linspace(0.2, 2.0, 6)
    found = [estimator(scale * normal(400, 6, seed=seed)) for seed in range(60)]  # type: ignore[operator]
    error = np.std([one.value for one in found])
    assert np.mean([one.high - one.value for one in found]) / 1.96 == pytest.approx(error, rel=0.3)


def test_few_samples_warn() -> None:
    assert information.effective_rank(normal(100, 50)).warning == "100 samples for 50 features: biased downwards"
    assert information.effective_rank(normal(300, 50)).warning == ""


def test_a_spectrum_is_shared() -> None:
    x = normal(100, 7)
    found = spectrum_of(x)
    for rank in (information.effective_rank, information.participation_ratio):
        assert rank(found) == rank(x)


# ------------------------------------------------------------------------------------------------- linear readers


def test_a_rotation_of_the_input_rebuilds_it_and_noise_does_not() -> None:
    x = normal(300, 6)
    turned = x @ np.linalg.qr(normal(6, 6, seed=3))[0]
    assert information.reconstruction(turned, x).value == pytest.approx(1.0, abs=1e-6)
    assert information.reconstruction(turned[:, :3], x).value == pytest.approx(0.5, abs=0.06)
    nothing = information.reconstruction(normal(300, 4, seed=5), x)
    assert -0.1 < nothing.value < 0.03
    assert math.isnan(information.reconstruction(turned, np.ones((300, 1))).value)


def test_the_share_of_the_input_that_noise_leaves() -> None:
    """Of x + noise of variance v, a linear reader gets 1 / (1 + v) of the variance back."""
    x = normal(2000, 3)
    found = information.reconstruction(x + math.sqrt(0.5) * normal(2000, 3, seed=1), x)
    assert found.value == pytest.approx(1 / 1.5, abs=0.02)
    assert found.low < 1 / 1.5 < found.high


@pytest.mark.parametrize("features", [5, 200])
def test_the_reader_is_that_of_scikit_learn(features: int) -> None:
    """Fewer features than samples and more, one of them constant, against a ridge regression fitted anew each time."""
    x = normal(100, 4)
    t = np.tanh(x @ normal(4, features, seed=1) + 0.1 * normal(100, features, seed=2))
    t[:, 1] = 0.3
    parts = KFold(5, shuffle=True, random_state=7)
    errors = []
    for penalty in PENALTIES:
        reader = make_pipeline(StandardScaler(), Ridge(penalty, solver="svd"))
        errors.append(float(((cross_val_predict(reader, t, x, cv=parts) - x) ** 2).sum()))
    expected = 1.0 - min(errors) / float(((x - x.mean(axis=0)) ** 2).sum())
    assert information.reconstruction(t, x, seed=7).value == pytest.approx(expected, abs=1e-7)


def test_a_fit_that_is_stopped_is_said_and_warns_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readout, "ROUNDS", 2)
    x = normal(200, 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = information.probe_accuracy(x, (x[:, 0] > 0).astype(int))
    assert found.warning == "the fit was stopped after 2 rounds"


def test_a_probe_reads_digits_and_not_noise() -> None:
    digits = load_digits()
    read = information.probe_accuracy(digits.data[:600], digits.target[:600])
    assert read.value > 0.9
    assert read.low < read.value < read.high
    assert read.parameters["chance"] == pytest.approx(0.1, abs=0.01)
    blind = information.probe_accuracy(normal(600, 10), digits.target[:600])
    assert blind.value < 0.2
