"""Whether a training makes progress: at every scale of the loss, and with other losses than cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from gradscope.checks import rule
from gradscope.checks.course import course
from gradscope.runs import Run

Write = Callable[..., Run]
STEPS = range(0, 200, 10)
K, N = 10, 64


def head(error: Sequence[float], std: float = 0.1, spread: float = 0.1) -> dict[str, Mapping[int, list[float | None]]]:
    """A net of one hidden layer and a head with the given error of a sample at each recorded step."""
    norm = {step: [None, one / math.sqrt(N)] for step, one in zip(STEPS, error, strict=True)}
    rms = {step: [None, one / N / math.sqrt(K)] for step, one in zip(STEPS, error, strict=True)}
    flat = dict.fromkeys(STEPS)
    return {
        "output_grad_norm": norm,
        "output_grad_rms": rms,
        "output_std": {step: [1.0, std] for step in flat},
        "sample_spread": {step: [1.0, spread] for step in flat},
    }


CHANCE = math.sqrt(1 - 1 / K)
FLAT = [CHANCE] * len(STEPS)
FALLING = list(CHANCE * np.linspace(1.0, 0.2, len(STEPS)))


def losses(last: float, scale: float = 1.0) -> dict[int, float]:
    return {step: scale * value for step, value in zip(range(200), np.linspace(2.32, last, 200), strict=True)}


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize(
    ("last", "verdict"), [(2.30, "stalled"), (2.15, "stalled"), (1.9, "learning"), (0.01, "learning")]
)
def test_the_scale_of_the_loss_does_not_matter(write: Write, scale: float, last: float, verdict: str) -> None:
    learns = verdict == "learning"
    error = [scale * one for one in (FALLING if learns else FLAT)]
    found = course(write(head(error, spread=2.0 if learns else 0.1), loss=losses(last, scale)))
    assert found.verdict == verdict
    assert found.chance == pytest.approx(scale * 2.32 * math.log(10) / (math.log(10) + 0.005))


@pytest.mark.parametrize("spread", [0.0, 1e-4, 0.1])
def test_a_constant_that_learns_how_often_each_class_comes_knows_nothing_of_the_input(
    write: Write, spread: float
) -> None:
    """One class of ten comes in half of the samples: a constant pays 1.79 nats instead of 2.3."""
    often = np.array([0.5] + [0.5 / 9] * 9)
    least, error = -float(often @ np.log(often)), math.sqrt(1.0 - float(often @ often))
    falling = list(np.linspace(CHANCE, error, len(STEPS)))
    assert 1.0 - least / math.log(10) > 2 * rule.SKILL
    found = course(write(head(falling, spread=spread), loss=losses(least)))
    assert (found.verdict, found.skill > rule.SKILL) == ("stalled", True)


def test_logits_less_sure_than_right_gain_more_than_they_are_spread(write: Write) -> None:
    """One nat for the right class of ten, on every sample: s = 0.3, and 0.84 of 2.3 nats gained."""
    loss = math.log(math.e + K - 1) - 1.0
    right, wrong = (math.exp(one) / (math.e + K - 1) for one in (1.0, 0.0))
    error = math.sqrt((1.0 - right) ** 2 + (K - 1) * wrong**2)
    assert math.log(K) - loss < rule.most_gained(0.3, CHANCE, K)
    values = head(list(np.linspace(CHANCE, error, len(STEPS))), spread=0.3)
    assert course(write(values, loss=losses(loss))).verdict == "learning"


def test_a_squared_error_of_shy_predictions_learns(write: Write) -> None:
    """Half of every target of unit variance, which is three quarters explained."""
    falling = np.linspace(1.0, 0.25, 200)
    error = [2.0 * math.sqrt(falling[step] / K) for step in STEPS]
    found = course(write(head(error, spread=0.5), loss=dict(enumerate(falling))))
    assert found.verdict == "learning"


@pytest.mark.parametrize(("error", "spread", "verdict"), [(FLAT, 0.1, "unknown"), (FALLING, 2.0, "learning")])
def test_a_loss_below_zero_has_no_chance_to_be_compared_with(
    write: Write, error: list[float], spread: float, verdict: str
) -> None:
    loss = {step: value - 3.0 for step, value in losses(0.3).items()}
    found = course(write(head(error, spread=spread), loss=loss))
    assert (found.verdict, math.isnan(found.chance)) == (verdict, True)


def test_smoothed_labels_and_what_is_added_to_the_loss_are_no_stall(write: Write) -> None:
    """Where the loss cannot fall far, spread logits and an error that falls show that it learns."""
    added = {step: 10.0 + loss for step, loss in losses(0.3).items()}
    assert course(write(head(FALLING, spread=1.0), loss=added)).verdict == "learning"


@pytest.mark.parametrize(("before", "verdict"), [(3.0, "unknown"), (0.3, "stalled")])
def test_without_a_loss_nothing_is_said_of_what_told_samples_apart_before(
    write: Write, before: float, verdict: str
) -> None:
    """Fine-tuning begins with an error that is small, and stays."""
    values = head([0.1] * len(STEPS), std=4.0, spread=before)
    assert course(write(values)).verdict == verdict


def test_the_chance_of_wild_outputs_is_read_from_their_error(write: Write) -> None:
    """One-hot at random: e = sqrt(2 - 2/K), whatever the first loss."""
    error = [math.sqrt(2.0 - 2.0 / K), *FLAT[1:]]
    values, loss = head(error, std=50.0), {step: max(60.0 * 0.9**step, math.log(K)) for step in range(200)}
    assert course(write(values, loss=loss)).chance == pytest.approx(math.log(K), rel=0.01)


def test_what_comes_down_to_chance_from_wild_outputs_has_learnt_nothing(write: Write) -> None:
    falling = {step: max(60.0 * 0.9**step, math.log(10)) for step in range(200)}
    error = [max(1.34 * 0.9**step, CHANCE) for step in STEPS]
    assert course(write(head(error, std=10.0), loss=falling)).verdict == "stalled"


def test_a_loss_that_is_low_from_the_start_is_no_stall(write: Write) -> None:
    """A training that had converged before it was watched."""
    run = write(head([0.02] * len(STEPS), std=6.0, spread=5.0), loss=dict.fromkeys(range(200), 0.002))
    found = course(run)
    assert (found.verdict, found.judge("critical")) == ("learning", "note")


def test_a_loss_that_rises_diverges(write: Write) -> None:
    assert course(write(head(FLAT), loss=losses(40.0))).verdict == "diverged"
    assert course(write(head(FLAT), loss=losses(math.nan), name="nan")).verdict == "diverged"


def test_a_hundred_steps_are_needed(write: Write) -> None:
    short = dict.fromkeys(range(99), 2.3)
    assert course(write(head(FLAT), loss=short)).verdict == "unknown"
    assert course(write(head(FLAT), loss=short | {99: 2.3}, name="enough")).verdict == "stalled"
    assert course(write(head(FLAT), loss={0: 2.3, 150: 2.3}, name="few")).verdict == "unknown"


def test_the_loss_of_skipped_steps_does_not_count(write: Write) -> None:
    loss = losses(0.5) | {0: math.inf, 190: math.inf}
    found = course(write(head(FALLING, spread=2.0), loss=loss, skipped=[0, 190]))
    assert found.verdict == "learning"
    assert found.first == pytest.approx(2.32, abs=0.01)


@pytest.mark.parametrize(("error", "spread", "verdict"), [(FLAT, 0.1, "stalled"), (FALLING, 2.0, "learning")])
def test_without_a_loss_the_error_signal_tells(write: Write, error: list[float], spread: float, verdict: str) -> None:
    found = course(write(head(error, spread=spread)))
    assert (found.verdict, math.isnan(found.last)) == (verdict, True)


def test_a_squared_error_that_falls_to_that_of_a_constant_has_learnt_nothing(write: Write) -> None:
    """|dL/dz| of a squared error is proportional to its root, which gives it away."""
    loss = {step: 0.09 + 0.3 * 0.95**step for step in range(200)}
    error = [2.0 * math.sqrt(loss[step] / K) for step in STEPS]
    assert course(write(head(error, std=0.5, spread=1e-4), loss=loss)).verdict == "stalled"
    low = {step: 0.01 + 0.3 * 0.95**step for step in range(200)}
    error = [2.0 * math.sqrt(low[step] / K) for step in STEPS]
    assert course(write(head(error, std=0.5, spread=0.28), loss=low, name="learns")).verdict == "learning"


def test_nothing_recorded_is_unknown(write: Write) -> None:
    found = course(write({"weight_rms": {0: [1.0, 1.0]}}))
    assert (found.verdict, found.said) == ("unknown", [])
    assert math.isnan(found.movement)


def test_movement_adds_what_updates_could_move(write: Write) -> None:
    """u = r sqrt(fan_in), of the layer that moves most, for every step and not for the recorded ones alone."""
    found = course(write({"update_ratio": {0: [0.01, 0.001], 10: [0.0, 0.02]}}))
    assert found.movement == pytest.approx(10 * (0.01 * 8 + 0.02 * 8))


def test_a_share_of_known_samples_is_the_skill_by_every_measure() -> None:
    """The derivation: whoever knows a share of the samples and nothing of the others has that share as skill."""
    share = 0.4
    by_loss = 1.0 - (1.0 - share) * math.log(K) / rule.chance_loss(math.log(K), 0.0, K)
    by_error = 1.0 - (1.0 - share) * (1.0 - 1.0 / K) / rule.chance_error(CHANCE, 0.0, K) ** 2
    assert by_loss == pytest.approx(share)
    assert by_error == pytest.approx(share)


@pytest.mark.parametrize("deviation", [0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_loss_of_random_outputs_is_at_most_what_is_taken_for_it(deviation: float, classes: int) -> None:
    """ln K + surplus is the annealed free energy: an upper bound, within a factor of two for two classes already."""
    z = deviation * np.random.default_rng(0).standard_normal((4000, classes))
    top = z.max(axis=1, keepdims=True)
    loss = float(np.mean(top[:, 0] + np.log(np.exp(z - top).sum(axis=1))))
    assumed = rule.nats(classes) + rule.surplus(deviation, classes)
    assert (0.45 if classes == 2 else 0.65) * assumed < loss < 1.02 * assumed
