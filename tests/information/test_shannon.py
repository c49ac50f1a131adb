"""Estimators of mutual information against closed forms, and two of them against other libraries."""

from __future__ import annotations

import itertools
import math

import dit
import ennemi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from gradscope import information

BITS = math.log(2.0)


def gaussians(n: int, rho: float, features: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, features))
    return x, rho * x + math.sqrt(1.0 - rho**2) * random.standard_normal((n, features))


def exact(rho: float, features: int = 1) -> float:
    return -0.5 * features * math.log(1.0 - rho**2)


# ------------------------------------------------------------------------------------------------- binning


@pytest.mark.parametrize("flip", [0.11, 0.25])
def test_binning_a_binary_symmetric_channel_is_exact(flip: float) -> None:
    """The frequencies of the sample are those of the channel, so that the plug-in value is the truth."""
    n = 400
    wrong = round(flip * n)
    x = np.repeat([0.0, 1.0], n // 2)
    y = x.copy()
    y[: wrong // 2] = 1 - y[: wrong // 2]
    y[n // 2 : n // 2 + wrong // 2] = 1 - y[n // 2 : n // 2 + wrong // 2]
    entropy = -(flip * math.log2(flip) + (1 - flip) * math.log2(1 - flip))
    assert information.binning(x, y, bins=2).in_bits().value == pytest.approx(1 - entropy, abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=60))
def test_binning_of_discrete_values_is_what_dit_says(pairs: list[tuple[int, int]]) -> None:
    outcomes = [f"{x}{y}" for x, y in pairs]
    names = sorted(set(outcomes))
    joint = dit.Distribution(names, [outcomes.count(one) / len(outcomes) for one in names])
    t, y = np.array([[x] for x, _ in pairs], float), np.array([y for _, y in pairs])
    found = information.binning(t, y, bins=4, bounds=(0.0, 4.0)).in_bits().value
    assert found == pytest.approx(float(dit.shannon.mutual_information(joint, [0], [1])), abs=1e-9)


def test_binning_without_labels_is_the_entropy_of_the_states_and_ends_at_ln_n() -> None:
    t = np.random.default_rng(0).standard_normal((500, 3))
    assert information.binning(np.repeat([[0.0], [1.0]], 8, axis=0), bins=2).value == pytest.approx(BITS)
    assert information.binning(t, bins=100_000).value == pytest.approx(math.log(500), abs=1e-12)
    assert information.binning(t, bins=100_000).warning == (
        "500 states for 500 samples: the value shows the bins and the sample, not the layer"
    )


@pytest.mark.parametrize(("n", "bias"), [(50, 0.0144), (200, 0.00361), (1000, 0.00072)])
def test_the_bias_of_binning_independent_values_is_stated(n: int, bias: float) -> None:
    random = np.random.default_rng(0)
    found = [information.binning(random.integers(0, 2, n), random.integers(0, 2, n), bins=2) for _ in range(400)]
    assert found[0].parameters["bias"] / BITS == pytest.approx(bias, rel=0.01)
    assert np.mean([one.value for one in found]) / BITS == pytest.approx(bias, rel=0.25)


def test_the_interval_of_binning_covers_the_truth() -> None:
    random, covered = np.random.default_rng(1), 0
    truth = 1 - -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8))
    for _ in range(200):
        x = random.integers(0, 2, 500)
        found = information.binning(x, np.where(random.random(500) < 0.2, 1 - x, x), bins=2).in_bits()
        covered += found.low <= truth <= found.high
    assert 180 <= covered <= 200


def test_the_bins_are_the_result() -> None:
    """Twelve balanced bits through a random tanh network: the width-3 layer says what the bins say."""
    bits = np.array(list(itertools.product([0.0, 1.0], repeat=12)))
    random, layers = np.random.default_rng(0), [bits]
    for width in (10, 7, 5, 4, 3):
        layers.append(
            np.tanh(layers[-1] @ random.normal(0, 1 / math.sqrt(layers[-1].shape[1]), (layers[-1].shape[1], width)))
        )
    sweep = information.binning_sweep(layers[-1], bins=(10, 30, 100, 1000), bounds=(-1.0, 1.0))
    assert (sweep["value"] / BITS).is_monotonic_increasing
    assert sweep["value"].iloc[0] / BITS < 7
    assert sweep["value"].iloc[-1] / BITS == pytest.approx(12.0, abs=0.01)
    wide = [information.binning(one, bins=30, bounds=(-1.0, 1.0)).in_bits().value for one in layers[1:]]
    assert wide == sorted(wide, reverse=True)
    assert wide[0] == pytest.approx(12.0)


# ------------------------------------------------------------------------------------------------- bounds with noise


@pytest.mark.parametrize(
    ("sigma", "low", "truth", "high"),
    [(2.0, 0.087353, 0.160747, 0.316051), (1.0, 0.316051, 0.485944, 0.816882), (0.5, 0.816882, 0.912822, 0.999516)],
)
def test_the_bounds_of_two_points_in_noise(sigma: float, low: float, truth: float, high: float) -> None:
    found = information.kde_bounds([[-1.0], [1.0]], noise_var=sigma**2).in_bits()
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    density = lambda z: (math.exp(-((z - 1) ** 2) / (2 * sigma**2)) + math.exp(-((z + 1) ** 2) / (2 * sigma**2))) / 2  # noqa: E731
    norm = math.sqrt(2 * math.pi) * sigma
    mixed = integrate.quad(lambda z: -density(z) / norm * math.log2(density(z) / norm), -20, 20)[0]
    known = mixed - 0.5 * math.log2(2 * math.pi * math.e * sigma**2)
    assert known == pytest.approx(truth, abs=1e-5)
    assert found.low < known < found.high


def test_the_bounds_with_labels_enclose_the_entropy_of_labels_that_are_told_apart() -> None:
    random = np.random.default_rng(0)
    y = np.arange(300) % 3
    t = 50.0 * np.eye(3)[y] + random.standard_normal((300, 3))
    found = information.kde_bounds(t, y, noise_var=1.0)
    assert found.low <= math.log(3) <= found.high + 1e-12
    assert found.value == pytest.approx(math.log(3), abs=1e-6)
    mixed = information.kde_bounds(random.standard_normal((300, 3)), y, noise_var=1.0)
    assert mixed.value < 0.05


def test_bounds_say_what_labels_without_meaning_would_give() -> None:
    """Where every sample is alone, it has a label of its own: the bounds find all of H(Y) in labels by chance."""
    random = np.random.default_rng(0)
    t, y = random.standard_normal((256, 3)), np.arange(256) % 10
    few = information.kde_bounds(t, y, noise_var=0.1)
    assert few.value > 1.2
    assert few.parameters["chance"] == pytest.approx(few.value, abs=0.1)
    assert (
        few.warning == f"shuffled labels give {few.parameters['chance']:.2g} nats too: few samples for so little noise"
    )
    enough = information.kde_bounds(t, y, noise_var=1.0)
    assert (enough.value < 0.25, enough.warning) == (True, "")


def test_bounds_near_ln_n_warn() -> None:
    t = 100.0 * np.random.default_rng(0).standard_normal((100, 4))
    found = information.kde_bounds(t, noise_var=1e-3)
    assert found.high == pytest.approx(math.log(100))
    assert found.warning == "close to ln n, the most that so many samples can show"
    assert found.bound == "both"


# ------------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize(
    ("rho", "features", "tolerance"), [(0.0, 1, 0.08), (0.5, 1, 0.12), (0.9, 1, 0.12), (0.999, 1, 0.12), (0.9, 2, 0.15)]
)
def test_neighbours_find_the_information_of_gaussians(
    variant: int, rho: float, features: int, tolerance: float
) -> None:
    values = [information.ksg(*gaussians(1000, rho, features, seed), variant=variant).value for seed in range(4)]
    assert np.mean(values) == pytest.approx(exact(rho, features), abs=tolerance)


def test_neighbours_agree_with_another_implementation() -> None:
    x, y = gaussians(1000, 0.9)
    other = float(np.asarray(ennemi.estimate_mi(1000.0 * y[:, 0], x[:, 0], k=3, preprocess=True)).item())
    assert information.ksg(x, y).value == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e3, 1e8])
def test_the_scale_of_a_side_and_of_a_feature_is_nothing_to_neighbours(scale: float, variant: int) -> None:
    """Neighbours in the joint space see only the side with the larger numbers, unless both have one scale."""
    x, y = gaussians(400, 0.9, 2)
    found = information.ksg(x, y, variant=variant).value
    assert information.ksg(scale * x + 3.0 * scale, y, variant=variant).value == pytest.approx(found, abs=1e-6)
    assert information.ksg(x, y * [1.0, scale], variant=variant).value == pytest.approx(found, abs=1e-6)
    one = information.sliced(x[:, :1], y[:, :1], slices=1).value
    assert information.sliced(scale * x[:, :1], y[:, :1], slices=1).value == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("noise", [0.1, 0.5, 1.0])
def test_neighbours_find_the_information_of_uniform_noise(noise: float) -> None:
    """Of x uniform on (0, 1) with noise uniform on (0, a): a / 2 - ln a nats."""
    random = np.random.default_rng(1)
    x = random.random(2000)
    found = information.ksg(x, x + noise * random.random(2000))
    assert found.value == pytest.approx(noise / 2 - math.log(noise), abs=0.08)
    assert found.warning == ""


def test_a_function_without_noise_is_warned_of() -> None:
    x, _ = gaussians(1000, 0.0)
    ceiling = (
        "close to the most that 1000 samples can show, 5.984: there may be much more, without noise infinitely much"
    )
    for found in (information.ksg(x, np.tanh(x)), information.ksg(x, -x, variant=2), information.sliced(x, x**3)):
        assert found.value > 4.0
        assert found.warning.startswith(ceiling)
    assert information.ksg(*gaussians(1000, 0.99)).warning == ""


def test_an_estimate_that_still_rises_with_the_sample_is_warned_of() -> None:
    """Three features are few, but 2.49 nats are much for them: 2.2 at n = 1000."""
    found = information.ksg(*gaussians(1000, 0.9, 3))
    assert found.high < exact(0.9, 3)
    assert found.warning.endswith("from an eighth of the samples: still rises with the sample, so too low")
    assert information.ksg(*gaussians(1000, 0.9, 1)).warning == ""
    assert information.ksg(*gaussians(1000, 0.5, 2)).warning == ""


def test_a_constant_tells_nothing() -> None:
    """Also one whose mean is rounded, such as that of two hundred times 0.1."""
    flat, x = np.full((200, 3), 0.1), gaussians(200, 0.0, 3)[0]
    for estimator in (information.ksg, information.sliced, information.gaussian, information.info_nce):
        options = {"batch": 50} if estimator is information.info_nce else {}
        for other in (flat, x):
            assert abs(estimator(flat, other, **options).value) < 0.12, estimator
            assert math.isfinite(estimator(other, flat, **options).value)


def test_values_tied_on_both_sides_are_warned_of() -> None:
    y = np.arange(200) % 2
    tied = "samples are tied on both sides: the values are not continuous"
    assert tied in information.sliced(y[:, None] * [1.0, 2.0], np.eye(2)[y]).warning
    assert information.sliced(gaussians(200, 0.0)[0], y).warning == ""


def test_neighbours_in_one_dimension_are_counted_as_in_several() -> None:
    """The sorted line and the tree give the same counts: a constant second feature changes nothing."""
    x, y = gaussians(400, 0.7)
    from gradscope.information.ksg import neighbours

    padded = np.hstack([x, np.zeros_like(x)])
    for variant in (1, 2):
        assert neighbours(padded, y, 3, variant) == pytest.approx(neighbours(x, y, 3, variant), abs=1e-12)


def test_neighbours_are_counted_as_by_hand() -> None:
    from scipy.special import digamma

    from gradscope.information.ksg import neighbours

    x, y = gaussians(60, 0.8, 2)
    total = 0.0
    for i in range(60):
        dx, dy = np.abs(x - x[i]).max(1), np.abs(y - y[i]).max(1)
        radius = np.sort(np.maximum(dx, dy))[3]
        total += digamma((dx < radius).sum()) + digamma((dy < radius).sum())
    assert neighbours(x, y, 3) == pytest.approx(digamma(3) + digamma(60) - total / 60, abs=1e-12)


def test_neighbours_warn_where_they_are_far_too_low() -> None:
    found = information.ksg(*gaussians(1000, 0.9, 5))
    assert found.warning.startswith("10 features in all: far too low where there is much information; ")
    assert found.value < 3.2
    assert information.ksg(*gaussians(1000, 0.3, 4)).warning == ""
    tied = information.ksg(np.arange(200) % 4, np.arange(200) % 3)
    assert tied.warning == "100% of the samples are tied: the values are not continuous"


def test_the_interval_of_neighbours_covers_the_truth() -> None:
    found = [information.ksg(*gaussians(600, 0.6, seed=seed)) for seed in range(40)]
    assert sum(one.low <= exact(0.6) <= one.high for one in found) >= 33


# ------------------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize(
    ("rho", "features", "truth"), [(0.9, 1, 0.830366), (0.9, 2, 0.331362), (0.9, 10, 0.045714), (0.5, 2, 0.069336)]
)
def test_slices_of_gaussians(rho: float, features: int, truth: float) -> None:
    found = information.sliced(*gaussians(3000, rho, features), slices=150)
    assert found.value == pytest.approx(truth, abs=max(0.03, 3 * (found.high - found.value) / 1.96))
    assert found.low <= truth <= found.high or abs(found.value - truth) < 0.02


def test_slices_in_two_dimensions_follow_their_closed_form() -> None:
    """The projections correlate by rho cos(angle): the mean of -ln(1 - rho^2 cos^2)/2 over angles."""
    mean = integrate.quad(lambda angle: -0.5 * math.log(1 - 0.81 * math.cos(angle) ** 2), 0, math.pi)[0] / math.pi
    assert mean == pytest.approx(-math.log((1 + math.sqrt(1 - 0.81)) / 2), abs=1e-9)


# ------------------------------------------------------------------------------------------------- critics


def test_the_bound_of_the_exact_critic() -> None:
    def critic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        conditional = -((y[None, :, :] - 0.9 * x[:, None, :]) ** 2).sum(-1) / (2 * (1 - 0.81))
        return conditional + (y**2).sum(-1) / 2

    for features, batch, expected in ((1, 64, 0.796), (1, 512, 0.825), (5, 64, 3.280), (5, 512, 3.921)):
        found = information.info_nce(*gaussians(8192, 0.9, features), critic=critic, batch=batch)
        assert found.value == pytest.approx(expected, abs=0.06)
        assert found.value <= math.log(batch)
        assert found.bound == "lower"
    full = information.info_nce(*gaussians(4096, 0.9, 20), critic=critic, batch=64)
    assert full.value == pytest.approx(math.log(64), abs=0.01)
    assert full.warning == "close to its ceiling ln 64 = 4.159: there may be much more"
    assert information.info_nce(*gaussians(4096, 0.9), critic=critic, batch=512).warning == ""


def test_without_a_critic_a_gaussian_is_fitted_to_other_samples() -> None:
    found = information.info_nce(*gaussians(4096, 0.9), batch=512)
    assert found.value == pytest.approx(0.82, abs=0.06)
    assert found.n == 2048
    wide = information.info_nce(*gaussians(200, 0.9, 300), batch=50)
    assert -1.0 < wide.value <= math.log(50)
    assert "the critic has 600 features and was fitted to 100 samples: far from tight" in wide.warning
    nothing = information.info_nce(*gaussians(4096, 0.0), batch=512)
    assert nothing.value == pytest.approx(0.0, abs=0.02)


# ------------------------------------------------------------------------------------------------- Gaussian


@pytest.mark.parametrize(("rho", "features"), [(0.0, 3), (0.5, 1), (0.9, 1), (0.99, 2), (0.9, 5)])
def test_gaussians_are_met(rho: float, features: int) -> None:
    found = information.gaussian(*gaussians(4000, rho, features))
    assert found.value == pytest.approx(exact(rho, features), abs=0.05 * math.sqrt(features))
    covered = [information.gaussian(*gaussians(500, rho, features, seed)) for seed in range(60)]
    if rho:
        assert sum(one.low <= exact(rho, features) <= one.high for one in covered) >= 50


def test_gaussians_of_any_covariance_are_met() -> None:
    """-ln det S / (det S_x det S_y) / 2, for a covariance without structure."""
    random = np.random.default_rng(1)
    mix = random.standard_normal((5, 5))
    determinant = lambda one: float(np.linalg.slogdet(one)[1])  # noqa: E731
    s = mix @ mix.T
    truth = 0.5 * (determinant(s[:2, :2]) + determinant(s[2:, 2:]) - determinant(s))
    z = random.standard_normal((20_000, 5)) @ mix.T
    found = information.gaussian(z[:, :2], 1e-8 * z[:, 2:])
    assert found.low < truth < found.high
    assert information.info_nce(z[:, :2], z[:, 2:], batch=500).value == pytest.approx(truth, abs=0.06)


def test_a_gaussian_knows_nothing_of_scale_and_sees_a_copy_as_infinite() -> None:
    x, y = gaussians(300, 0.7, 2)
    mixed = information.gaussian(x @ np.array([[2.0, 1.0], [0.0, 3.0]]) + 5.0, -y)
    assert mixed.value == pytest.approx(information.gaussian(x, y).value, abs=1e-9)
    copy = information.gaussian(x, 3.0 * x)
    assert copy.value == math.inf
    assert copy.warning == "one is a linear function of the other"
    assert information.gaussian(*gaussians(50, 0.0, 6)).warning == (
        "12 features for 50 samples: correlations by chance count as information"
    )


# ------------------------------------------------------------------------------------------------- channels


@pytest.mark.parametrize("flip", [0.11, 0.25, 0.4])
def test_binning_finds_the_capacity_of_a_symmetric_channel(flip: float) -> None:
    """1 - H(p) bits, and so also at a tiny scale and with more bins than there are integers of 32 bits."""
    random = np.random.default_rng(0)
    x = random.integers(0, 2, 20_000)
    y = x ^ (random.random(20_000) < flip)
    capacity = 1 + flip * math.log2(flip) + (1 - flip) * math.log2(1 - flip)
    for scale, bins in ((1.0, 2), (1e-310, 2), (1e300, 7), (1.0, 10**10)):
        found = information.binning(scale * x, y, bins=bins).in_bits()
        assert found.value == pytest.approx(capacity, abs=0.015)
        assert found.parameters["states"] == 2


def test_binning_finds_the_capacity_of_an_erasure_channel() -> None:
    """1 - e bits for a share e of erased ones: three states, of which one says nothing."""
    random = np.random.default_rng(0)
    x = random.integers(0, 2, 20_000)
    kept = np.where(random.random(20_000) < 0.3, 2, x)
    assert information.binning(kept, x, bins=3).in_bits().value == pytest.approx(0.7, abs=0.01)


def test_bounds_enclose_the_information_of_a_mixture() -> None:
    """Twenty points in noise, the truth by 200,000 draws."""
    random = np.random.default_rng(0)
    centres, classes = 1.5 * random.standard_normal((20, 3)), np.arange(20) % 4
    chosen = random.integers(0, 20, 200_000)
    noisy = centres[chosen] + math.sqrt(0.5) * random.standard_normal((200_000, 3))
    density = np.exp(-((noisy[:, None] - centres) ** 2).sum(-1))
    every = density.mean(1)
    own = density[np.arange(len(chosen)), chosen]
    same = np.where(classes[chosen][:, None] == classes, density, 0.0).sum(1) / 5
    for found, part in (
        (information.kde_bounds(centres, noise_var=0.5), own),
        (information.kde_bounds(centres, classes, noise_var=0.5), same),
    ):
        assert found.low < float(np.log(part / every).mean()) < found.high
