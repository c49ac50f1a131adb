"""What a step is: accumulation, closures, several optimizers, evaluation in between, the end of a training."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradscope as gs


def net(*widths: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    parts: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(widths):
        parts += [nn.Linear(wide, narrow), nn.Tanh()]
    return nn.Sequential(*parts[:-1]).to(dtype)


def batch(n: int = 12, width: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(n, width, dtype=torch.float64), torch.randint(0, 3, (n,))


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def norm_of(tensor: Tensor | None) -> float:
    assert tensor is not None
    return float(tensor.norm())


def test_every_k_th_step_is_recorded_and_scalars_of_all(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()
    optimizer = sgd(model)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=3) as probe:
        for step in range(8):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            probe.log(loss=loss, step_number=step)
    run = probe.run
    assert list(run.frame("output_grad_norm").index) == [0, 3, 6]
    logged = run.scalars[run.scalars["name"] == "step_number"]
    assert list(logged["step"]) == list(logged["value"]) == list(range(8))
    assert run.status == "finished"


def test_a_scalar_logged_after_backward_belongs_to_the_step_in_progress(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()
    optimizer = sgd(model)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=2) as probe:
        for _ in range(4):
            probe.log(before_backward=1.0)
            F.cross_entropy(model(x), y).backward()
            probe.log(after_backward=1.0)
            optimizer.step()
            probe.log(after_step=1.0)
            optimizer.zero_grad()
        probe.log(overridden=1.0, step=17)
    steps = probe.run.scalars.groupby("name")["step"].apply(list).to_dict()
    assert steps == {
        "before_backward": [0, 0, 1, 2],
        "after_backward": [0, 1, 2, 3],
        "after_step": [0, 1, 2, 3],
        "overridden": [17],
    }


def test_micro_batches_combine_as_one_batch(tmp_path: Path) -> None:
    whole, parts = net(6, 5, 3), net(6, 5, 3)
    parts.load_state_dict(whole.state_dict())
    x, y = batch(12)
    with gs.watch(whole, out=tmp_path / "whole", metrics="all") as one:
        F.cross_entropy(whole(x), y, reduction="sum").backward()
        one.step()
    with gs.watch(parts, out=tmp_path / "parts", metrics="all") as many:
        for rows in (slice(0, 2), slice(2, 7), slice(7, 12)):
            F.cross_entropy(parts(x[rows]), y[rows], reduction="sum").backward()
        many.step()
    # Not additive: the spread over samples, and what one micro-batch makes of a window of 64.
    for metric in set(one.run.metrics) - {"sample_spread", "dead_fraction", "update_ratio", "input_share"}:
        expected, found = one.run.frame(metric), many.run.frame(metric)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12, err_msg=metric)
    assert list(many.run.layers["call"]) == [1, 1]
    a, b = one.run.histograms, many.run.histograms
    assert (
        a[a["quantity"] == "output_grad"]["entries"].tolist() == b[b["quantity"] == "output_grad"]["entries"].tolist()
    )


def test_parameter_gradients_are_what_the_optimizer_applies(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()
    optimizer = sgd(model)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        (100 * F.cross_entropy(model(x), y)).backward()
        raw = [norm_of(layer.weight.grad) for layer in (model[0], model[2])]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        applied = [norm_of(layer.weight.grad) for layer in (model[0], model[2])]
        before = [layer.weight.detach().clone() for layer in (model[0], model[2])]
        optimizer.step()
        after = [layer.weight.detach() for layer in (model[0], model[2])]
    run = probe.run
    assert list(run.profile("weight_grad_norm")) == pytest.approx(applied, rel=1e-12)
    assert list(run.profile("weight_grad_norm_raw")) == pytest.approx(raw, rel=1e-12)
    ratios = [float((b - a).norm() / a.norm()) for a, b in zip(before, after, strict=True)]
    assert list(run.profile("update_ratio")) == pytest.approx(ratios, rel=1e-6)


def test_clipping_through_data_is_seen(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()
    optimizer = sgd(model)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        F.cross_entropy(model(x), y).backward()
        model[0].weight.grad.data.mul_(0.5)
        optimizer.step()
    run = probe.run
    assert run.profile("weight_grad_norm")[1] == pytest.approx(0.5 * run.profile("weight_grad_norm_raw")[1], rel=1e-12)


def test_evaluation_in_between_changes_nothing(tmp_path: Path) -> None:
    frames = []
    for evaluate in (False, True):
        torch.manual_seed(3)
        model, (x, y) = net(6, 5, 3), batch()
        other = torch.randn(50, 6, dtype=torch.float64)
        optimizer = sgd(model)
        with gs.watch(model, optimizer, out=tmp_path / str(evaluate), every=1) as probe:
            for rows in (slice(0, 6), slice(6, 12)):
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                if evaluate:
                    model.eval()
                    model(other)
                    model.train()
                    with torch.no_grad():
                        model(other)
            optimizer.step()
        frames.append([probe.run.frame(name) for name in probe.run.metrics])
    for bare, evaluated in zip(*frames, strict=True):
        np.testing.assert_array_equal(bare, evaluated)


def test_the_last_optimizer_of_several_closes_the_step(tmp_path: Path) -> None:
    parts = nn.ModuleDict({"generator": net(6, 5, 6), "critic": net(6, 5, 1)})
    slow, fast = sgd(parts["generator"]), sgd(parts["critic"])
    with gs.watch(parts, [slow, fast], out=tmp_path / "run", every=1) as probe:
        for _ in range(3):
            x, _ = batch()
            fast.zero_grad()
            parts["critic"](parts["generator"](x).detach()).mean().backward()
            fast.step()
            slow.zero_grad()
            parts["critic"](parts["generator"](x)).mean().backward()
            slow.step()
    run = probe.run
    assert list(run.frame("output_grad_norm").index) == [0, 1, 2]
    assert set(run.layers["layer"]) == {"generator.0", "generator.2", "critic.0", "critic.2"}


def test_an_optimizer_that_calls_the_step_of_its_parent_steps_once(tmp_path: Path) -> None:
    class Decaying(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            found = super().step(closure)
            with torch.no_grad():
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.mul_(0.99)
            return found

    model, (x, y) = net(6, 5, 3), batch()
    sgd(model)  # torch wraps the step of a class when the first optimizer of it is made
    optimizer = Decaying(model.parameters(), lr=0.1)
    seen = [[layer.weight.detach().clone() for layer in (model[0], model[2])]]
    with gs.watch(model, optimizer, out=tmp_path / "run", every=2) as probe:
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            seen.append([layer.weight.detach().clone() for layer in (model[0], model[2])])
    assert probe.run.steps() == [0, 2, 4]
    ratios = [float((after - before).norm() / before.norm()) for before, after in zip(*seen[:2], strict=True)]
    assert list(probe.run.profile("update_ratio", 0)) == pytest.approx(ratios, rel=1e-6)


def test_the_last_closure_evaluation_counts(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)
    seen: list[tuple[float, float]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        seen.append((float(loss.detach()), norm_of(model[0].weight.grad)))
        return loss

    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        optimizer.step(closure)
    run = probe.run
    assert len(seen) > 1
    assert list(run.frame("output_grad_norm").index) == [0]
    assert run.profile("weight_grad_norm")[1] == pytest.approx(seen[-1][1], rel=1e-12)
    assert run.profile("weight_grad_norm_raw")[1] == pytest.approx(seen[-1][1], rel=1e-12)


def test_recomputation_of_a_checkpoint_is_no_call(tmp_path: Path) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.body = nn.Linear(6, 6).double(), net(6, 6, 6)
            self.head = nn.Linear(6, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(checkpoint(self.body, torch.tanh(self.first(x)), use_reentrant=False)))

    x, y = batch()
    model = Checkpointed()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        F.cross_entropy(model(x), y).backward()
        probe.step()
    plain = nn.Sequential(model.first, nn.Tanh(), *model.body, nn.Tanh(), model.head)
    with gs.watch(plain, out=tmp_path / "plain", every=1) as reference:
        F.cross_entropy(plain(x), y).backward()
        reference.step()
    assert list(probe.run.layers["call"]) == [1, 1, 1, 1]
    same = ("output_grad_norm", "input_grad_norm", "next_input_grad_norm", "output_rms", "slope_rms", "activation_mean")
    for metric in same:
        np.testing.assert_allclose(probe.run.profile(metric), reference.run.profile(metric), rtol=1e-12)


def test_frozen_then_thawed(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 4, 3), batch()
    for parameter in [*model[0].parameters(), *model[2].parameters()]:
        parameter.requires_grad_(False)
    optimizer = sgd(model)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=1) as probe:
        for step in range(4):
            if step == 2:
                model[0].requires_grad_(True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    run = probe.run
    signal = run.frame("output_grad_norm").reindex(columns=[1, 2, 3])
    assert signal[1].isna().tolist() == signal[2].isna().tolist() == [True, True, False, False]
    assert signal[3].notna().all()
    assert run.frame("weight_grad_norm").reindex(columns=[1, 2])[1].isna().tolist() == [True, True, False, False]
    assert 2 not in run.frame("weight_grad_norm").columns
    codes = run.coverage.groupby("layer")["code"].apply(list).to_dict()
    assert codes == {"0": ["no_gradient", "recorded"], "2": ["no_gradient", "frozen"], "4": ["recorded"]}


def test_layers_that_appear_later_keep_execution_order(tmp_path: Path) -> None:
    class Stochastic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
            self.skip = 1

        def forward(self, x: Tensor) -> Tensor:
            for place, layer in enumerate(self.layers):
                x = x if place == self.skip else torch.tanh(layer(x))
            return x

    model, x = Stochastic(), torch.randn(5, 6)
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for skip in (1, 2, 9):
            model.skip = skip
            model(x).sum().backward()
            probe.step()
    run = probe.run
    assert list(run.layers["layer"]) == ["layers.0", "layers.1", "layers.2", "layers.3"]
    assert run.frame("output_rms").notna().to_numpy().tolist() == [
        [True, False, True, True],
        [True, True, False, True],
        [True, True, True, True],
    ]


def test_an_exception_keeps_the_run_and_the_step_it_cut_short(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()
    optimizer = sgd(model)

    def train() -> None:
        with gs.watch(model, optimizer, out=tmp_path / "run", every=1):
            for step in range(3):
                F.cross_entropy(model(x), y).backward()
                if step == 2:
                    raise RuntimeError("loss is not finite")
                optimizer.step()

    with pytest.raises(RuntimeError, match=r"^loss is not finite$"):
        train()
    run = gs.load(tmp_path / "run")
    assert (run.status, run.error) == ("failed", "RuntimeError: loss is not finite")
    assert list(run.frame("output_grad_norm").index) == [0, 1, 2]
    assert list(run.events["text"]) == ["step 2 was not finished: RuntimeError: loss is not finite"]
    assert not any(module._forward_hooks for module in model.modules())


def test_ctrl_c_leaves_no_hook_and_an_interrupted_run(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()

    def train() -> None:
        with gs.watch(model, out=tmp_path / "run", every=1) as probe:
            F.cross_entropy(model(x), y).backward()
            probe.step()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert gs.load(tmp_path / "run").status == "interrupted"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any(getattr(one, "_post_accumulate_grad_hooks", None) for one in model.parameters())


def test_resume_continues_the_step_numbers(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()
    optimizer = sgd(model)
    for part in range(2):
        with gs.watch(model, optimizer, out=tmp_path / "run", every=2, resume=part > 0) as probe:
            for _ in range(3):
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                probe.log(part=part)
    run = probe.run
    assert list(run.frame("output_grad_norm").index) == [0, 2, 4]
    assert list(run.scalars["step"]) == [0, 1, 2, 3, 4, 5]
    assert len(run.layers) == 2


def test_events_belong_to_the_step_in_progress(tmp_path: Path) -> None:
    model, (x, y) = net(6, 5, 3), batch()
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for step in range(3):
            F.cross_entropy(model(x), y).backward()
            if step == 1:
                probe.event("lr drop")
            probe.step()
    assert probe.run.events[["step", "kind", "text"]].to_numpy().tolist() == [[1, "user", "lr drop"]]


def test_a_metric_that_raises_never_reaches_the_training(tmp_path: Path) -> None:
    @gs.metric(label="Broken")
    def broken(output_grad: Tensor) -> Tensor:
        raise ZeroDivisionError("on purpose")

    try:
        model, (x, y) = net(6, 5, 3), batch()
        with gs.watch(model, out=tmp_path / "run", every=1, metrics=["broken", "output_rms"]) as probe:
            with pytest.warns(UserWarning, match=r"metric 'broken' failed at step 0") as caught:
                F.cross_entropy(model(x), y).backward()
            probe.step()
            F.cross_entropy(model(x), y).backward()
            probe.step()
    finally:
        from gradscope.metrics import unregister

        unregister("broken")
    assert len(caught) == 2  # once for every layer, not once for every step
    text = "metric 'broken' failed at step 0: ZeroDivisionError: on purpose"
    assert str(caught[0].message) == f"layer 2: {text}; the training is not affected"
    assert probe.run.frame("broken").empty
    assert probe.run.frame("output_rms").shape == (2, 2)
    assert set(probe.coverage()["code"]) == {"error"}
