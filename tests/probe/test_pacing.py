"""What recording costs, and how every="auto" keeps it within a budget; no clock is asked but ours."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import gradscope as gs
from gradscope.probe import observer
from gradscope.probe.meter import Meter
from gradscope.probe.pacing import IDLE, LEAST, MOST, Pace, extra, raised, unseen_time


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def measured(pace: Pace, spent: float, elapsed: float, steps: int = LEAST) -> Pace:
    for _ in range(steps):
        pace = pace.after(spent, elapsed)
    return pace


@pytest.mark.parametrize(
    ("spent", "elapsed", "budget", "every"),
    [
        (0.02, 1.0, 0.02, 1),  # just within
        (0.021, 1.0, 0.02, 2),
        (0.1, 1.0, 0.02, 8),  # 0.1 / (0.1 + 8 * 0.9) = 1.4 %, at 4 it would be 2.7 %
        (0.5, 1.0, 0.02, 64),
        (0.5, 1.0, 0.5, 1),
        (0.9, 1.0, 0.1, 128),
        (1.0, 1.0, 0.02, MOST),  # nothing but our own work: nothing helps
    ],
)
def test_every_is_doubled_as_often_as_it_takes(spent: float, elapsed: float, budget: float, every: int) -> None:
    before = measured(Pace(1, budget), spent, elapsed)
    after = before.within_budget()
    assert after.every == every
    assert (after is before) == (every == 1)
    if 1 < every < MOST:
        bare = elapsed - spent
        assert spent / (spent + every * bare) == pytest.approx(after.before, rel=0.01)
        assert after.before <= budget < spent / (spent + every / 2 * bare)


def test_every_is_never_lowered_and_not_touched_where_it_is_fixed() -> None:
    cheap = measured(Pace(16, 0.02), 1e-6, 1.0)
    assert cheap.within_budget() is cheap
    fixed = measured(Pace(1), 0.9, 1.0)
    assert fixed.within_budget() is fixed


def test_a_share_is_not_acted_upon_before_five_recorded_steps() -> None:
    few = measured(Pace(1, 0.02), 0.5, 1.0, steps=LEAST - 1)
    assert few.within_budget() is few
    assert few.after(0.5, 1.0).within_budget().every == 64


def test_a_clock_that_stands_still_or_runs_backwards_harms_nothing() -> None:
    assert Pace(1).after(0.0, 0.0).share == 0.0
    assert Pace(1).after(1.0, -5.0).share == 1.0


def test_every_stays_a_multiple_of_what_it_was() -> None:
    pace, seen = Pace(3, 0.02), []
    for cost in (0.5, 0.3, 0.02, 0.1):
        pace = measured(pace, cost, 1.0).within_budget()
        seen.append(pace.every)
    assert seen == sorted(seen)
    assert all(later % earlier == 0 for earlier, later in zip([3, *seen], seen, strict=False))


def test_what_no_clock_sees_counts_for_the_share_and_the_choice() -> None:
    seen = measured(Pace(1, 0.02, unseen=0.1), 0.1, 1.0)
    assert seen.share == pytest.approx(0.2)
    after = seen.within_budget()
    assert (after.every, after.before) == (16, pytest.approx(0.2 / (0.2 + 16 * 0.8), abs=2 * IDLE))
    assert after.unseen == 0.1


def test_unrecorded_steps_count_and_may_take_half_of_the_budget() -> None:
    long, short = measured(Pace(100), 1e-3, 1.0), measured(Pace(100), 1e-3, 0.02)
    assert long.share == pytest.approx(1e-3 + 99 * IDLE)
    assert short.share == pytest.approx((1e-3 + 99 * IDLE) / 0.02)
    # Next to a step of 0.1 ms they cost 5 %, whatever `every` is.
    tiny = measured(Pace(1, 0.02), 1e-3, 1e-3 + 1e-4).within_budget()
    assert tiny.every == 1024
    assert 0.01 > 1e-3 / (1024 * (1e-4 + IDLE)) > 0.005
    assert tiny.before == pytest.approx((1e-3 + 1023 * IDLE) / (1e-3 + 1023 * IDLE + 1024e-4))


def test_a_period_is_compared_with_its_last_step() -> None:
    assert extra([3.0, 1.5, 1.25, 1.0]) == pytest.approx(2.75)
    assert extra([1.0, 1.0]) == 0.0


def test_what_is_unseen_is_a_median_within_bounds() -> None:
    assert unseen_time(1.0, 9.0, [0.3] * (LEAST - 1)) == pytest.approx(0.2)
    assert unseen_time(1.0, 0.1, []) == pytest.approx(0.05)
    assert unseen_time(1.0, 9.0, [0.3, 0.2, 0.4, -50.0, 50.0]) == 0.3
    assert unseen_time(1.0, 9.0, [-0.1] * LEAST) == 0.0
    # The training evaluates at the steps that are recorded: that is not ours.
    assert unseen_time(1.0, 99.0, [60.0] * LEAST) == 1.0


def test_the_event_says_what_was_chosen_and_why() -> None:
    before = measured(Pace(2, 0.02), 0.1, 1.0)
    assert raised(before, before.within_budget(), 12) == (
        "every='auto': every 16th step is recorded from step 12 on; at every=2 recording took 10 % of the time, "
        "budget 2 %"
    )


def run_steps(
    meter: Meter, clock: Clock, steps: int, own: float, bare: float, unseen: float = 0.0, after: float = 0.0
) -> list[int]:
    """Let time pass as a training does; return the recorded steps."""
    recorded: list[int] = []
    for step in range(steps):
        clock.now += bare
        if step % meter.pace.every == 0:
            clock.now += own + unseen
            meter.add(own)
            meter.close_step()
            meter.begin_step()
            recorded.append(step)
        else:
            clock.now += after if recorded and recorded[-1] == step - 1 else 0.0
            meter.pass_step()
            if (step + 1) % meter.pace.every == 0:
                meter.begin_step()
    return recorded


def test_the_cost_of_a_fixed_pace_is_the_share_of_all_time() -> None:
    clock = Clock()
    meter = Meter(10, None, clock)
    assert meter.cost == 0.0
    run_steps(meter, clock, 100, own=0.5, bare=1.0)
    expected = pytest.approx(10 * 0.5 / (100 + 10 * 0.5), rel=1e-3)
    assert meter.cost == expected
    meter.stop()
    clock.now += 1e6
    meter.stop()
    assert meter.cost == expected


@pytest.mark.parametrize("every", [3, 4, 10, 100])
def test_what_our_clock_does_not_see_is_found_by_comparison(every: int) -> None:
    clock = Clock()
    meter = Meter(every, None, clock)
    run_steps(meter, clock, 20 * every, own=0.5, bare=1.0, unseen=0.2, after=0.1)
    assert meter.cost == pytest.approx(0.8 / (every + 0.8), rel=2e-3)


@pytest.mark.parametrize("every", [1, 2])
def test_with_nothing_to_compare_it_is_a_fifth_of_the_own_work(every: int) -> None:
    clock = Clock()
    meter = Meter(every, None, clock)
    run_steps(meter, clock, 20 * every, own=0.5, bare=1.0, unseen=0.1)
    assert meter.cost == pytest.approx(0.6 / (every + 0.6), rel=1e-3)


def test_an_evaluation_at_recorded_steps_is_the_trainings_own() -> None:
    """No more than the own work is put down to us; the time that passes grows by all of it."""
    clock = Clock()
    meter = Meter(10, None, clock)
    run_steps(meter, clock, 200, own=0.5, bare=1.0, unseen=30.0)
    assert meter.cost == pytest.approx(1.0 / (10 + 30.5), rel=1e-3)


def test_a_pause_moves_nothing() -> None:
    clock = Clock()
    meter = Meter(10, None, clock)
    for pause in (0.0, 1000.0, 0.0):
        run_steps(meter, clock, 200, own=0.5, bare=1.0, unseen=0.25)
        clock.now += pause
    assert meter.cost == pytest.approx(60 * 0.75 / (600 + 60 * 0.75 + 1000), rel=1e-3)


def test_an_unrecorded_step_reads_the_clock_at_most_once() -> None:
    asked = 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return float(asked)

    meter = Meter(100, None, clock)
    meter.close_step()
    meter.begin_step()
    counts = []
    for _ in range(99):
        before = asked
        meter.pass_step()
        counts.append(asked - before)
    assert counts == [1, 1, 1] + [0] * 96


def test_the_cost_is_brought_within_the_budget() -> None:
    clock = Clock()
    meter = Meter(1, 0.02, clock)
    recorded = run_steps(meter, clock, 2000, own=0.5, bare=1.0)
    assert recorded[: LEAST + 2] == [0, 1, 2, 3, 4, 5, 64]
    assert meter.pace.every == 64
    assert meter.cost <= 0.02
    assert all(step % 64 == 0 for step in recorded[LEAST + 1 :])


def test_the_first_recorded_step_does_not_count_for_auto() -> None:
    """It discovers the layers and is slower than any other."""
    clock = Clock()
    meter = Meter(1, 0.02, clock)
    clock.now += 10.0
    meter.add(9.0)
    meter.close_step()
    assert meter.cost == pytest.approx(0.95)
    run_steps(meter, clock, 20, own=0.01, bare=1.0)
    assert meter.pace.every == 1
    assert meter.cost == pytest.approx(0.012 / 1.01)


def test_a_training_that_gets_cheaper_to_run_is_recorded_less() -> None:
    clock = Clock()
    meter = Meter(1, 0.02, clock)
    run_steps(meter, clock, 50, own=0.015, bare=1.0)
    assert meter.pace.every == 1
    run_steps(meter, clock, 2000, own=0.015, bare=0.05)
    assert meter.pace.every > 1
    assert meter.cost <= 0.02


# With a real training.


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def train(model: nn.Module, probe_of: Callable[[torch.optim.Optimizer], Any], steps: int, each: Any = None) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(4, 6)
    with probe_of(optimizer) as probe:
        for _ in range(steps):
            if each is not None:
                each()
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return probe


def paced(monkeypatch: pytest.MonkeyPatch, own: float, bare: float) -> Callable[[], None]:
    """Let every call of the clock around our own work take `own` seconds in all, every step `bare` seconds."""
    clock = Clock()

    class Timed(Meter):
        def __init__(self, every: int, budget: float | None) -> None:
            super().__init__(every, budget, clock)

        def close_step(self) -> Pace | None:
            clock.now += own
            self.add(own)
            return super().close_step()

    def each() -> None:
        clock.now += bare

    monkeypatch.setattr(observer, "Meter", Timed)
    return each


def test_auto_raises_every_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each, model = paced(monkeypatch, own=0.1, bare=1.0), net()
    probe = train(model, lambda optimizer: gs.watch(model, optimizer, out=tmp_path / "run", every="auto"), 40, each)
    run = probe.run
    assert run.every == 8
    assert run.steps() == [0, 1, 2, 3, 4, 5, 8, 16, 24, 32]
    text = (
        "every='auto': every 8th step is recorded from step 6 on; at every=1 recording took 11 % of the time, "
        "budget 2 %"
    )
    assert run.events[["step", "kind", "text"]].to_numpy().tolist() == [[5, "probe", text]]
    assert 0.0 < probe.cost <= 0.02


def test_a_budget_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each, model = paced(monkeypatch, own=0.1, bare=1.0), net()
    folder = tmp_path / "run"
    train(model, lambda optimizer: gs.watch(model, optimizer, out=folder, every="auto", budget=0.07), 20, each)
    assert gs.load(folder).every == 2
    train(model, lambda optimizer: gs.watch(model, optimizer, out=tmp_path / "b", every="auto", budget=0.5), 20, each)
    assert gs.load(tmp_path / "b").every == 1


def test_a_fixed_pace_is_kept_whatever_it_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each, model = paced(monkeypatch, own=10.0, bare=1.0), net()
    probe = train(model, lambda optimizer: gs.watch(model, optimizer, out=tmp_path / "run", every=2), 20, each)
    assert (probe.run.every, len(probe.run.steps())) == (2, 10)
    assert probe.cost == pytest.approx((100 + 20 / 2) / 120, rel=0.01)
    assert probe.run.events.empty


def test_resume_goes_on_at_the_pace_that_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each, model, folder = paced(monkeypatch, own=0.1, bare=1.0), net(), tmp_path / "run"
    train(model, lambda optimizer: gs.watch(model, optimizer, out=folder, every="auto"), 21, each)
    probe = train(model, lambda optimizer: gs.watch(model, optimizer, out=folder, every="auto", resume=True), 20, each)
    assert probe.run.steps() == [0, 1, 2, 3, 4, 5, 8, 16, 24, 32, 40]
    assert probe.run.every == 8
    # A folder that holds no run yet begins at the beginning.
    fresh = train(
        model, lambda optimizer: gs.watch(model, optimizer, out=tmp_path / "b", every="auto", resume=True), 3, each
    )
    assert fresh.run.steps() == [0, 1, 2]


def test_the_cost_is_a_share_of_the_time_that_passed(tmp_path: Path) -> None:
    model = net()
    probe = train(model, lambda optimizer: gs.watch(model, optimizer, out=tmp_path / "run", every=1), 5)
    cost = probe.cost
    assert 0.0 < cost < 1.0
    # Not of the time after the training.
    assert probe.cost == cost


def ours(call: Callable[[], None]) -> Counter[str]:
    """Count the calls of functions of gradscope, by name."""
    seen: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and "gradscope" in frame.f_code.co_filename.rsplit("/tests/", 1)[0].split("/"):
            seen[frame.f_code.co_name] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


@pytest.mark.parametrize("scaled", [False, True])
def test_what_runs_on_an_unrecorded_step(scaled: bool, tmp_path: Path) -> None:
    """Four flags that tell log() of a backward pass, and one hook that counts; no hook on forward or backward."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)

    def step() -> None:
        scaler.scale(model(torch.ones(4, 6)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    with gs.watch(model, optimizer, out=tmp_path / "run", every=1000, scaler=scaler) as probe:
        step()
        step()
        seen = ours(step)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert not any(module._backward_hooks for module in model.modules())
        assert not optimizer._optimizer_step_pre_hooks
    assert seen["see"] == 4
    assert seen["_after_optimizer"] == 1
    # Around the scaler's step, its update, and the unscale_ in between.
    assert {name: count for name, count in seen.items() if name in ("before", "after")} == (
        {"before": 3, "after": 3} if scaled else {}
    )
    assert sum(seen.values()) <= (40 if scaled else 12), seen
    assert probe.run.steps() == [0]
