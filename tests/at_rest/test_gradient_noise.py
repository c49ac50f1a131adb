"""Signal and noise of gradients against closed forms and against a loop over samples."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradscope as gs
from gradscope.errors import GradscopeError, InvalidTypeError, InvalidValueError


def half_squares(out: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (out - y).square().sum(-1).mean()


def regression(delta: Tensor, n: int, seed: int = 0, noise: float = 1.0) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model whose weights are wrong by delta, for white inputs and noisy targets."""
    draw = torch.Generator().manual_seed(seed)
    model = nn.Linear(len(delta), 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(delta)
    x = torch.randn(n, len(delta), generator=draw, dtype=torch.float64)
    return model, x, noise * torch.randn(n, 1, generator=draw, dtype=torch.float64)


def test_the_noise_scale_of_a_linear_regression() -> None:
    """tr Sigma = (d + 1) |delta|^2 + d sigma^2, so B = d + 1 + d sigma^2 / |delta|^2 = 41 for d = 20."""
    delta = torch.zeros(20, dtype=torch.float64)
    delta[0] = 1.0
    traces, signals = [], []
    for seed in range(8):
        found = gs.gradient_noise(*regression(delta, 4000, seed), half_squares).iloc[-1]
        traces.append(found["trace"])
        signals.append(found["signal"])
    assert np.mean(traces) / np.mean(signals) == pytest.approx(41.0, abs=1.5)
    assert np.mean(traces) == pytest.approx(41.0, rel=0.03)


def test_the_signal_to_noise_ratio_of_each_entry() -> None:
    """delta_j^2 / (|delta|^2 + delta_j^2 + sigma^2): 0.2424 for 0.64 of one, 0.1525 for 0.36."""
    delta = torch.tensor([0.8, 0.6], dtype=torch.float64)
    found = [gs.gradient_noise(*regression(delta, 20_000, seed), half_squares).iloc[-1]["snr"] for seed in range(4)]
    assert np.mean(found) == pytest.approx((0.2424 + 0.1525) / 2, abs=0.01)


@pytest.mark.parametrize("batch", [8, 41, 200])
def test_the_cosine_between_two_batches(batch: int) -> None:
    delta = torch.zeros(20, dtype=torch.float64)
    delta[0] = 1.0
    cosines = []
    for seed in range(200):
        model, x, y = regression(delta, 2 * batch, seed)
        one, two = (
            torch.autograd.grad(half_squares(model(x[part]), y[part]), model.weight)[0].flatten()
            for part in (slice(batch), slice(batch, None))
        )
        cosines.append(float(nn.functional.cosine_similarity(one, two, dim=0)))
    scale = gs.gradient_noise(*regression(delta, 20_000), half_squares).iloc[-1]["scale"]
    assert np.mean(cosines) == pytest.approx(1 / (1 + scale / batch), abs=0.03)
    large = gs.gradient_noise(*regression(delta, 4000), half_squares).iloc[-1]
    assert large["cosine"] == pytest.approx(1 / (1 + large["scale"] / 4000))


def test_the_interval_covers_the_scale() -> None:
    delta = torch.zeros(10, dtype=torch.float64)
    delta[0] = 1.0
    found = [gs.gradient_noise(*regression(delta, 600, seed), half_squares).iloc[-1] for seed in range(60)]
    assert sum(one["low"] <= 21.0 <= one["high"] for one in found) >= 51


def test_no_signal_is_an_infinite_scale() -> None:
    model, x, y = regression(torch.zeros(5, dtype=torch.float64), 200, seed=1)
    found = gs.gradient_noise(model, x, y, half_squares).iloc[-1]
    assert found["high"] == math.inf


def test_every_parameter_is_measured_as_by_a_loop_over_samples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(40, 6, dtype=torch.float64), torch.arange(40) % 3
    frame = gs.gradient_noise(model, x, y).set_index("parameter")
    for name, parameter in model.named_parameters():
        each = torch.stack(
            [
                torch.autograd.grad(nn.functional.cross_entropy(model(x[k : k + 1]), y[k : k + 1]), parameter)[0]
                for k in range(40)
            ]
        )
        trace = float(each.var(0).sum())
        assert frame.loc[name, "trace"] == pytest.approx(trace, rel=1e-9)
        assert frame.loc[name, "signal"] == pytest.approx(float(each.mean(0).square().sum()) - trace / 40, rel=1e-9)
    assert frame.index.tolist() == ["0.weight", "0.bias", "2.weight", "2.bias", "(all)"]
    assert frame["trace"].iloc[:-1].sum() == pytest.approx(frame["trace"].iloc[-1])


def test_parts_of_several_samples_give_the_same_noise_of_one() -> None:
    delta = torch.zeros(20, dtype=torch.float64)
    delta[0] = 1.0
    model, x, y = regression(delta, 8000)
    for part in (4, 16):
        found = gs.gradient_noise(model, x, y, half_squares, part=part).iloc[-1]
        assert found["trace"] == pytest.approx(41.0, rel=0.15)
        assert (found["part"], found["n"]) == (part, 8000)


def test_batch_normalization_is_measured_in_parts_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2))
    x, y = torch.randn(64, 4), torch.arange(64) % 2
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = gs.gradient_noise(model, x, y)
    assert set(found["part"]) == {8}
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize(
    ("samples", "why"), [(64, "it takes 10 parts, and there are 8 of 8: give 80 samples"), (80, "")]
)
def test_too_few_parts_have_no_interval_and_it_is_said(samples: int, why: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    # A bias before a batch normalization gets no gradient but rounding.
    found = gs.gradient_noise(model, torch.randn(samples, 4), torch.arange(samples) % 2).query("parameter != '0.bias'")
    assert set(found["status"]) == {f"no interval: {why}" if why else ""}
    assert found["low"].isna().all() == found["high"].isna().all() == bool(why)
    assert found["trace"].notna().all()


def test_equal_gradients_and_gradients_that_are_no_numbers_have_no_interval_and_it_is_said() -> None:
    same = gs.gradient_noise(nn.Linear(2, 1), torch.ones(20, 2), torch.zeros(20, 1))
    assert set(same["status"]) == {"no interval: all parts have the same gradient"}
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(math.inf)
    broken = gs.gradient_noise(model, torch.ones(20, 2), torch.zeros(20, 1))
    assert set(broken["status"]) == {"gradients hold NaN or infinity"}
    assert broken["scale"].isna().all()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((nn.ReLU(), torch.zeros(4, 1), torch.zeros(4, 1)), InvalidValueError, "no parameter of the model is trained"),
        ((3, torch.zeros(4, 1), torch.zeros(4, 1)), InvalidTypeError, "model is a torch.nn.Module, not int"),
        ((nn.Linear(1, 1), [1], torch.zeros(4)), InvalidTypeError, "x is a tensor (samples, ...), not list"),
        (
            (nn.Linear(1, 1), torch.zeros(4, 1), torch.zeros(3, 1)),
            InvalidValueError,
            "x has 4 samples and y has 3",
        ),
        (
            (nn.Linear(1, 1), torch.zeros(1, 1), torch.zeros(1, 1)),
            InvalidValueError,
            "1 samples do not make two parts of 1",
        ),
        (
            (nn.Linear(2, 1), torch.tensor([[1.0, math.nan], [math.inf, 0.0]]), torch.zeros(2, 1)),
            InvalidValueError,
            "x holds NaN or infinity in 2 of 4 entries",
        ),
        (
            (nn.Linear(2, 1), torch.zeros(2, 2), torch.full((2, 1), math.nan)),
            InvalidValueError,
            "y holds NaN or infinity in 2 of 2 entries",
        ),
        (
            (nn.Linear(2, 3), torch.randn(40, 2), torch.arange(40) % 3, nn.CrossEntropyLoss(reduction="none")),
            InvalidValueError,
            "loss_fn returns a single number, not a tensor of shape (2,)",
        ),
        (
            (nn.Linear(2, 3), torch.randn(40, 2), torch.arange(40) % 3, lambda out, y: 1.0),
            InvalidTypeError,
            "loss_fn returns a tensor with one number, not float",
        ),
    ],
)
def test_bad_input_is_named(arguments: tuple[Any, ...], kind: type[GradscopeError], message: str) -> None:
    with pytest.raises(kind) as no:
        gs.gradient_noise(*arguments)
    assert str(no.value) == message


class Branching(nn.Module):
    """Takes one of two ways by its values, which no transform of it over samples can."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.one(x)
        return self.two(2.0 * z if z.mean() > 0 else torch.tanh(z))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = kind(4, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.view(-1, 4, 4))[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["branch", "gru", "lstm", "instance normalization"])
def test_what_cannot_be_mapped_over_samples_goes_one_by_one(kind: str) -> None:
    torch.manual_seed(0)
    tracked = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    model = {
        "branch": Branching(),
        "gru": Recurrent(nn.GRU),
        "lstm": Recurrent(nn.LSTM),
        "instance normalization": nn.Sequential(nn.Unflatten(1, (4, 4)), tracked, nn.Flatten(), nn.Linear(16, 4)),
    }[kind].double()
    x, y = torch.randn(30, 16, dtype=torch.float64), torch.arange(30) % 4
    before = copy.deepcopy(model.state_dict())
    frame = gs.gradient_noise(model, x, y).set_index("parameter")
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in before.items())
    parameters = dict(model.named_parameters())
    each = [
        torch.autograd.grad(nn.functional.cross_entropy(model(x[k : k + 1]), y[k : k + 1]), list(parameters.values()))
        for k in range(30)
    ]
    for place, name in enumerate(parameters):
        trace = float(torch.stack([one[place] for one in each]).var(0).sum())
        assert frame.loc[name, "trace"] == pytest.approx(trace, rel=1e-6, abs=1e-12)


def test_what_the_model_raises_is_raised() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gs.gradient_noise(nn.Linear(5, 2), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
