"""Mixed precision: recorded gradients carry no loss scale, and a step that the scaler skips is flagged."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

import gradscope as gs
from gradscope.errors import InvalidTypeError
from gradscope.probe.scaling import Scales, divisors, taken_off, unscaled
from gradscope.runs import Run
from gradscope.spec import MetricSpec

SCALE = 2.0**16
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
    "fused sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1, fused=True),
    "fused adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
    "fused adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01, fused=True),
}
SCALED = "these metrics are of the gradient with its loss scale, as half precision holds it: fp16_underflow_fraction"
UNTOLD = (
    "the loss is scaled ({how}), and no scaler= was given to watch: from this step on, error signals and "
    "weight_grad_norm_raw carry the loss scale, and skipped steps are not counted"
)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def batches(count: int, size: int = 12) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(size, 6), torch.randint(0, 3, (size,))) for _ in range(count)]


def scaler_of(**options: Any) -> GradScaler:
    return GradScaler("cpu", **{"init_scale": SCALE, **options})


def train(
    folder: Path,
    optimizer_of: Callable[[Any], torch.optim.Optimizer],
    scaler: GradScaler | None,
    *,
    clip: float | None = None,
    told: bool = True,
    spoil: tuple[int, ...] = (),
    steps: int = 4,
    micro_batches: int = 1,
) -> Run:
    """Train with or without a loss scale; at the steps of `spoil` an entry of a weight gradient is infinite."""
    model = net()
    optimizer = optimizer_of(model.parameters())
    with gs.watch(model, optimizer, out=folder, every=1, scaler=scaler if told else None, metrics="all") as probe:
        for step, (x, y) in enumerate(batches(steps)):
            optimizer.zero_grad()
            for rows in torch.arange(len(x)).chunk(micro_batches):
                loss = F.cross_entropy(model(x[rows]), y[rows]) / micro_batches
                (scaler.scale(loss) if scaler else loss).backward()  # type: ignore[no-untyped-call]
            if step in spoil:
                assert model[2].weight.grad is not None
                model[2].weight.grad[0, 0] = torch.inf
            if clip is not None:
                if scaler:
                    scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if scaler:
                scaler.step(optimizer)
                scaler.update()
            else:
                optimizer.step()
            probe.log(loss=loss, number=step)
    return probe.run


def assert_same(found: Run, expected: Run, rtol: float = 1e-5, but: tuple[str, ...] = ()) -> None:
    assert set(found.metrics) == set(expected.metrics)
    for metric in set(found.metrics) - {"fp16_underflow_fraction", *but}:
        left, right = found.frame(metric), expected.frame(metric)
        np.testing.assert_allclose(left, right, rtol=rtol, atol=1e-30, err_msg=metric)


@pytest.mark.parametrize("clip", [None, 0.1], ids=["as is", "clipped after unscale_"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_recorded_values_are_the_same_with_and_without_a_scaler(name: str, clip: float | None, tmp_path: Path) -> None:
    bare = train(tmp_path / "bare", OPTIMIZERS[name], None, clip=clip)
    scaled = train(tmp_path / "scaled", OPTIMIZERS[name], scaler_of(), clip=clip)
    assert_same(scaled, bare)
    assert scaled.skipped() == []
    assert list(scaled.events["text"]) == [SCALED]


@pytest.mark.parametrize("name", ["sgd", "fused adamw"])
def test_clipping_shows_between_the_raw_and_the_applied_gradient(name: str, tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS[name], scaler_of(), clip=0.1, steps=1)
    raw, applied = run.profile("weight_grad_norm_raw"), run.profile("weight_grad_norm")
    biases = run.profile("bias_grad_norm")
    assert float(np.sqrt((applied**2).sum() + (biases**2).sum())) == pytest.approx(0.1, rel=1e-4)
    ratios = (applied / raw).to_numpy()
    np.testing.assert_allclose(ratios, ratios[0], rtol=1e-5)
    assert 0.01 < ratios[0] < 1.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_scale_that_grows_and_falls_is_undone_step_by_step(name: str, tmp_path: Path) -> None:
    scaler = scaler_of(growth_interval=1)
    run = train(tmp_path / "run", OPTIMIZERS[name], scaler, spoil=(2,), steps=5)
    # Twice up, once down, twice up.
    assert scaler.get_scale() == SCALE * 2**3
    norms = run.frame("output_grad_norm").to_numpy()
    raw = run.frame("weight_grad_norm_raw").to_numpy()
    applied = run.frame("weight_grad_norm").to_numpy()
    assert ((norms > 0.01) & (norms < 1.0)).all()
    taken = [0, 1, 3, 4]
    np.testing.assert_allclose(raw[taken], applied[taken], rtol=1e-5)
    assert ((raw[taken] > 0.01) & (raw[taken] < 1.0)).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_step_takes_a_number_and_is_flagged(name: str, tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS[name], scaler_of(), spoil=(1, 2), steps=4)
    assert run.steps() == [0, 1, 2, 3]
    assert run.skipped() == [1, 2]
    logged = run.scalars[run.scalars["name"] == "number"]
    assert list(logged["step"]) == list(logged["value"]) == [0, 1, 2, 3]
    # The value stays as it was, in the layer where it was; nothing was changed by the step.
    assert np.isinf(run.frame("weight_grad_norm").to_numpy()).tolist() == [
        [False, False, False],
        [False, True, False],
        [False, True, False],
        [False, False, False],
    ]
    assert run.frame("update_ratio").loc[[1, 2]].to_numpy().tolist() == [[0.0] * 3] * 2
    bad = run.nonfinite
    assert bad["skipped"].all()
    assert set(bad["depth"]) == {2}


def test_a_skipped_step_is_no_alarm(tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS["sgd"], scaler_of(), spoil=(1,))
    (note,) = gs.diagnose(run)
    assert (note.code, note.severity, note.steps) == ("non-finite", "note", (1,))


def test_an_overflow_of_half_precision_itself_is_skipped_and_kept(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = scaler_of(init_scale=2.0**30)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for x, _ in batches(20):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = model(x).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    run = probe.run
    skipped = run.skipped()
    assert len(skipped) > 5
    assert skipped == list(range(len(skipped)))
    assert run.steps() == list(range(20))
    taken = run.frame("weight_grad_norm").drop(index=skipped).to_numpy()
    assert ((taken > 1e-4) & (taken < 100)).all()


def test_skipped_steps_count_where_they_are_not_recorded(tmp_path: Path) -> None:
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), scaler_of()
    with gs.watch(model, optimizer, out=tmp_path / "run", every=3, scaler=scaler) as probe:
        for step, (x, y) in enumerate(batches(7)):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if step in (1, 4, 6):
                model[0].weight.grad.fill_(torch.nan)
            scaler.step(optimizer)
            scaler.update()
    assert probe.run.steps() == [0, 3, 6]
    assert probe.run.skipped() == [6]


@pytest.mark.parametrize("name", ["sgd", "fused sgd"])
def test_micro_batches_under_a_scaler_equal_the_big_batch(name: str, tmp_path: Path) -> None:
    # Not additive: what one micro-batch makes of a spread, a window of samples, or what is below half precision.
    but = ("sample_spread", "dead_fraction", "input_share", "output_std", "activation_std", "effective_rank")
    big = train(tmp_path / "big", OPTIMIZERS[name], None)
    parts = train(tmp_path / "parts", OPTIMIZERS[name], scaler_of(), micro_batches=4)
    assert_same(parts, big, but=but)


def test_a_disabled_scaler_changes_nothing(tmp_path: Path) -> None:
    bare = train(tmp_path / "bare", OPTIMIZERS["sgd"], None)
    scaler = scaler_of(enabled=False)
    assert_same(train(tmp_path / "run", OPTIMIZERS["sgd"], scaler), bare, rtol=0.0)
    assert vars(scaler) == vars(scaler_of(enabled=False))


def test_one_optimizer_skips_and_the_other_does_not(tmp_path: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(6, 8), "head": nn.Linear(8, 3)})
    slow = torch.optim.SGD(model["body"].parameters(), lr=0.1)
    fast = torch.optim.SGD(model["head"].parameters(), lr=0.1, fused=True)
    scaler = scaler_of()
    with gs.watch(model, [slow, fast], out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for step, (x, y) in enumerate(batches(4)):
            slow.zero_grad()
            fast.zero_grad()
            scaler.scale(F.cross_entropy(model["head"](torch.tanh(model["body"](x))), y)).backward()
            for skipping, layer in ((1, "body"), (2, "head"), (3, "body"), (3, "head")):
                if step == skipping:
                    model[layer].bias.grad[0] = torch.nan
            scaler.step(slow)
            scaler.step(fast)
            scaler.update()
    bad = probe.run.nonfinite
    assert bad[["step", "layer"]].to_numpy().tolist() == [[1, "body"], [2, "head"], [3, "body"], [3, "head"]]
    stored = pd.read_parquet(tmp_path / "run" / "layers")
    assert probe.run.steps() == [0, 1, 2, 3]
    assert stored.loc[stored["skipped"], ["step", "id"]].to_numpy().tolist() == [[1, 0], [2, 1], [3, 0], [3, 1]]


def test_two_models_of_a_gan_under_one_scaler(tmp_path: Path) -> None:
    def run_gan(folder: Path, scaler: GradScaler | None) -> tuple[Run, Run]:
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6))
        critic = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        slow = torch.optim.SGD(generator.parameters(), lr=0.05)
        fast = torch.optim.SGD(critic.parameters(), lr=0.05)
        metrics = ["output_grad_norm", "weight_grad_norm", "update_ratio", "bias_grad_norm"]

        def finish(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)

        with (
            gs.watch(critic, fast, out=folder / "critic", every=1, scaler=scaler, metrics=metrics) as first,
            gs.watch(generator, slow, out=folder / "generator", every=1, scaler=scaler, metrics=metrics) as second,
        ):
            for x, _ in batches(5):
                fast.zero_grad()
                finish(critic(generator(torch.randn(12, 4)).detach()).mean() - critic(x).mean(), fast)
                slow.zero_grad()
                finish(-critic(generator(torch.randn(12, 4))).mean(), slow)
                if scaler is not None:
                    scaler.update()
        return first.run, second.run

    scaler = scaler_of()
    bare, scaled = run_gan(tmp_path / "bare", None), run_gan(tmp_path / "scaled", scaler)
    for expected, found in zip(bare, scaled, strict=True):
        assert found.steps() == [0, 1, 2, 3, 4]
        assert_same(found, expected)
    assert not {"step", "update", "unscale_"} & set(vars(scaler))


def test_backward_passes_of_two_scales_in_one_number_are_not_recorded(tmp_path: Path) -> None:
    model = nn.ModuleDict({"generator": nn.Linear(6, 6), "critic": nn.Linear(6, 1)})
    slow = torch.optim.SGD(model["generator"].parameters(), lr=0.05)
    fast = torch.optim.SGD(model["critic"].parameters(), lr=0.05)
    scaler = scaler_of(growth_interval=1)
    with gs.watch(model, [fast, slow], out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for x, _ in batches(2):
            for optimizer, fake in ((fast, model["generator"](x).detach()), (slow, model["generator"](x))):
                optimizer.zero_grad()
                scaler.scale(model["critic"](fake).mean()).backward()
                scaler.step(optimizer)
                scaler.update()
    run = probe.run
    assert set(run.rows("output_grad_norm")["layer"]) == {"generator"}
    # The gradient that the optimizer applied is known all the same.
    applied = run.frame("weight_grad_norm")
    assert applied.notna().to_numpy().all()
    assert (applied.to_numpy() < 10).all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("when", ["before the scaler", "between step and update", "after update"])
def test_probe_step_takes_the_place_of_an_optimizer(when: str, fused: bool, tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, fused=fused)
    scaler = scaler_of(growth_interval=1)
    (x, y), *_ = batches(1)
    with gs.watch(model, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if step == 2 and when != "before the scaler":
                model[0].bias.grad[0] = torch.inf
            if when == "before the scaler":
                probe.step()
            scaler.step(optimizer)
            if when == "between step and update":
                probe.step()
            scaler.update()
            if when == "after update":
                probe.step()
    run = probe.run
    for metric in ("output_grad_norm", "weight_grad_norm", "weight_grad_norm_raw"):
        values = run.frame(metric).to_numpy()
        np.testing.assert_allclose(values, values[[0, 0, 0, 0]], rtol=1e-5, err_msg=metric)
    np.testing.assert_allclose(run.frame("weight_grad_norm"), run.frame("weight_grad_norm_raw"), rtol=1e-5)
    assert run.skipped() == ([] if when == "before the scaler" else [2])


def test_a_training_cut_short_keeps_its_step_unscaled(tmp_path: Path) -> None:
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), scaler_of()
    (x, y), *_ = batches(1)

    def cut_short() -> None:
        with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler):
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match=r"^stop$"):
        cut_short()
    run = gs.load(tmp_path / "run")
    norms = [float(one.grad.norm()) / SCALE for one in (model[0].weight, model[2].weight, model[4].weight)]
    assert list(run.profile("weight_grad_norm")) == pytest.approx(norms, rel=1e-5)
    assert run.profile("output_grad_norm")[3] < 1.0
    assert run.skipped() == [0]


def test_an_optimizer_that_steps_past_the_scaler_is_said_so(tmp_path: Path) -> None:
    model = net()
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=1e-9), scaler_of()
    said: list[str] = []
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        for x, y in batches(2):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            expected = [float(one.grad.norm()) for one in (model[0].weight, model[2].weight, model[4].weight)]
            with warnings.catch_warnings(record=True) as caught:
                optimizer.step()
            said += [str(one.message) for one in caught]
    text = (
        "optimizer 1 stepped outside scaler.step on gradients that were never unscaled: whether they carry the loss "
        "scale cannot be told, and no error signal of its layers is recorded"
    )
    run = probe.run
    assert said == [text]
    assert list(run.events["text"]) == [SCALED, text]
    assert run.frame("output_grad_norm").empty
    # What the optimizer applied is recorded as it was.
    assert list(run.profile("weight_grad_norm", 1)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", ["sgd", "fused sgd"])
def test_a_scaler_that_was_not_given_is_noticed_once(name: str, clip: float | None, tmp_path: Path) -> None:
    text = UNTOLD.format(how="GradScaler.step called the optimizer")
    with pytest.warns(UserWarning, match=r"^the loss is scaled") as caught:
        run = train(tmp_path / "run", OPTIMIZERS[name], scaler_of(), clip=clip, told=False)
    assert [str(one.message) for one in caught] == [text]
    assert run.events[["step", "kind", "text"]].to_numpy().tolist() == [[0, "probe", text]]
    # What the optimizer applies is right all the same.
    bare = train(tmp_path / "bare", OPTIMIZERS[name], None, clip=clip)
    for metric in ("weight_grad_norm", "weight_grad_rms", "bias_grad_norm", "update_ratio"):
        np.testing.assert_allclose(run.frame(metric), bare.frame(metric), rtol=1e-5, err_msg=metric)


def test_a_grad_scale_set_by_hand_is_honoured_and_noticed(tmp_path: Path) -> None:
    model = net()
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)

    def work() -> Run:
        with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
            for x, y in batches(3):
                optimizer.zero_grad()
                (1024 * F.cross_entropy(model(x), y)).backward()
                optimizer.step()
        return probe.run

    with pytest.warns(UserWarning, match=r"^the loss is scaled") as caught:
        run = work()
    assert [str(one.message) for one in caught] == [UNTOLD.format(how="grad_scale is set on the optimizer")]
    bare = train(tmp_path / "bare", OPTIMIZERS["fused sgd"], None, steps=3)
    np.testing.assert_allclose(run.frame("weight_grad_norm"), bare.frame("weight_grad_norm"), rtol=1e-5)


def test_a_scale_by_hand_is_noticed_where_it_is_taken_off(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    how = "every weight gradient was divided by 1024 before its step"

    def work() -> Run:
        with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
            for x, y in batches(3):
                optimizer.zero_grad()
                (1024 * F.cross_entropy(model(x), y)).backward()
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.grad /= 1024
                optimizer.step()
        return probe.run

    with pytest.warns(UserWarning, match=r"^the loss is scaled") as caught:
        run = work()
    assert [str(one.message) for one in caught] == [UNTOLD.format(how=how)]
    assert list(run.events["text"]) == [UNTOLD.format(how=how)]


def test_clipping_alone_is_not_taken_for_a_loss_scale(tmp_path: Path) -> None:
    run = train(tmp_path / "run", OPTIMIZERS["sgd"], None, clip=0.01)
    assert run.events.empty


def test_the_scaler_is_as_it_was_copies_and_pickles_work_meanwhile(tmp_path: Path) -> None:
    model, scaler = net(), scaler_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (x, y), *_ = batches(1)
    before = set(vars(scaler))
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1, scaler=scaler) as probe:
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        scaler.step(optimizer)
        scaler.update()
        state = scaler.state_dict()
        data = pickle.dumps(scaler)
        for twin in (copy.deepcopy(scaler), pickle.loads(data)):
            assert twin.state_dict() == state
            other = net(seed=3)
            mine = torch.optim.SGD(other.parameters(), lr=0.1)
            twin.scale(F.cross_entropy(other(x), y)).backward()
            twin.step(mine)
            twin.update()
    assert b"gradscope" not in data
    assert scaler.state_dict() == state
    assert set(vars(scaler)) == before
    assert probe.run.steps() == [0]


def test_probes_that_share_a_scaler_leave_it_in_any_order(tmp_path: Path) -> None:
    scaler, models = scaler_of(), [net(seed) for seed in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    probes = [
        gs.watch(model, optimizer, out=tmp_path / str(place), every=1, scaler=scaler)
        for place, (model, optimizer) in enumerate(zip(models, optimizers, strict=True))
    ]
    (x, y), *_ = batches(1)
    for place in (1, 0, 2):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            model[0].weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
        scaler.update()
        probes[place].close()
    assert [probe.run.skipped() for probe in probes] == [[0, 1], [0], [0, 1, 2]]
    assert not {"step", "update", "unscale_"} & set(vars(scaler))


def test_a_scaler_is_a_scaler(tmp_path: Path) -> None:
    with pytest.raises(InvalidTypeError, match=r"^scaler is a torch\.amp\.GradScaler, not float$"):
        gs.watch(net(), out=tmp_path / "run", scaler=65536.0)  # type: ignore[arg-type]


# The pure part.

ERROR = MetricSpec("error", "E", degree=1, signals=("output_grad_moments",))
APPLIED = MetricSpec("applied", "A", degree=2, signals=("weight_grad",))
BIAS = MetricSpec("bias", "B", degree=1, signals=("bias_grad_moments",))
MIXED = MetricSpec("mixed", "M", degree=0, signals=("output_grad_moments", "weight_grad_moments"))
SHARE = MetricSpec("share", "S", degree=0, signals=("input_grad", "input_grad_total"))
FREE = MetricSpec("free", "F", degree=1, signals=("weight_moments",))
NAMELESS = MetricSpec("nameless", "N", signals=("output_grad_sample",))
SPECS = (ERROR, APPLIED, BIAS, MIXED, SHARE, FREE, NAMELESS)


def test_divisors_follow_signals_and_degree() -> None:
    nan = float("nan")
    found = divisors(
        SPECS,
        [
            Scales(error=8.0, weight=4.0, bias=1.0),
            Scales(error=8.0, weight=8.0, bias=2.0),
            Scales(error=nan, weight=1.0),
            Scales(error=0.0, weight=float("inf")),
            Scales(),
        ],
    )
    np.testing.assert_array_equal(
        found,
        [
            [8.0, 16.0, 1.0, nan, 1.0, 1.0, 1.0],
            [8.0, 64.0, 2.0, 1.0, 1.0, 1.0, 1.0],
            [nan, 1.0, 1.0, nan, 1.0, 1.0, 1.0],
            [nan, nan, 1.0, nan, 1.0, 1.0, 1.0],
            [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        ],
    )


def test_what_cannot_be_unscaled_is_absent_and_infinity_stays() -> None:
    values = np.array([[np.inf, 32.0], [np.nan, 4.0]])
    present = np.array([[True, True], [True, False]])
    found, there = unscaled([ERROR, MIXED], [Scales(error=8.0, weight=8.0), Scales(error=2.0)], values, present)
    np.testing.assert_array_equal(found, [[np.inf, 32.0], [np.nan, 4.0]])
    assert there.tolist() == [[True, True], [True, False]]
    assert unscaled([ERROR], [], np.zeros((0, 1)), np.zeros((0, 1), np.bool_))[0].shape == (0, 1)


@pytest.mark.parametrize(
    ("raw", "applied", "factor"),
    [
        ([2.0, 4.0], [1.0, 2.0], 2.0),
        ([2.0**16, np.nan, 0.0, np.inf], [1.0, 1.0, 0.0, 1.0], 2.0**16),
        ([2.0, 4.0], [1.0, 1.0], None),
        ([1.0, 1.0], [1.0, 1.0], None),
        ([1.0, 1.0], [2.0, 2.0], None),
        ([3.0], [1.0], None),
        ([4.0 * (1 + 1e-8)], [1.0], None),
        ([np.nan], [1.0], None),
        ([1e300], [1e-300], None),
        ([], [], None),
    ],
)
def test_a_scale_shows_as_one_power_of_two(raw: list[float], applied: list[float], factor: float | None) -> None:
    assert taken_off(np.array(raw), np.array(applied)) == factor
