"""What watching costs, in counts that are the same on every machine: calls, hooks, memory, bytes, synchronisations."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from chain import Training
from torch import Tensor, nn

import gradscope as gs
from gradscope.probe.piles import SMALL

LEAN = ["output_grad_norm", "weight_grad_norm"]
SELECTIONS: dict[str, Any] = {
    "norms": LEAN,
    "default": "default",
    "histograms": ["default", "histograms"],
    "all": "all",
}
selections = pytest.mark.parametrize("metrics", SELECTIONS.values(), ids=SELECTIONS)

HERE = str(Path(gs.__file__).parent)
REGISTERING = {
    "register_hook",
    "register_prehook",
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
    "register_post_accumulate_grad_hook",
    "register_multi_grad_hook",
}


@contextmanager
def counting() -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Count calls of gradscope's functions, and registrations of hooks by whatever way."""
    ours: Counter[str] = Counter()
    hooks: Counter[str] = Counter()

    def see(frame: Any, event: str, called: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(HERE):
            ours[frame.f_code.co_name] += 1
        name = called.__name__ if event == "c_call" else frame.f_code.co_name
        # torch wraps its own registrations in functions of the same name: those of Python, or else those of C.
        if name in REGISTERING and (event == "c_call" or (event == "call" and "torch" in frame.f_code.co_filename)):
            hooks[name] += 1

    sys.setprofile(see)
    try:
        yield ours, hooks
    finally:
        sys.setprofile(None)


def counts(depth: int, folder: Path, every: int, step: int, metrics: Any) -> tuple[Counter[str], Counter[str]]:
    """Counts of one step: from after the optimizer's step before it to after its own."""
    training = Training(depth)
    with gs.watch(training.model, training.optimizer, out=folder, every=every, metrics=metrics):
        for _ in range(step):
            training.step()
        with counting() as found:
            training.step()
    return found


def test_along_a_plain_chain_the_factors_of_activation_gains_cost_no_reading(tmp_path: Path) -> None:
    backward = [name for name, one in gs.metrics.registered().items() if one.spec.group == "backward"]
    without = [name for name in backward if name not in ("phi_gain", "norm_gain", "join_gain", "join_share")]
    split, hooks = counts(8, tmp_path / "split", every=1, step=3, metrics=backward)
    plain, fewer = counts(8, tmp_path / "plain", every=1, step=3, metrics=without)
    assert hooks == fewer
    for name in ("add", "on_gradient", "on_total"):
        assert split[name] == plain[name] > 0


@selections
def test_an_unrecorded_step_makes_as_few_calls_in_a_deep_model_as_in_a_shallow(metrics: Any, tmp_path: Path) -> None:
    shallow, hooks = counts(3, tmp_path / "shallow", every=10, step=5, metrics=metrics)
    deep, more = counts(30, tmp_path / "deep", every=10, step=5, metrics=metrics)
    assert shallow == deep
    assert sum(deep.values()) <= 20
    assert not hooks
    assert not more


@selections
def test_no_module_hook_is_left_between_recorded_steps(metrics: Any, tmp_path: Path) -> None:
    training = Training(3)
    with gs.watch(training.model, training.optimizer, out=tmp_path / "run", every=3, metrics=metrics):
        hooked = []
        for _ in range(6):
            training.step()
            hooked.append(sum(bool(module._forward_hooks) for module in training.model.modules()))
    # After steps 2 and 5 the next step is a recorded one.
    assert [bool(count) for count in hooked] == [False, False, True, False, False, True]


@pytest.mark.parametrize(("metrics", "most"), [(LEAN, 1), ("default", 3), ("all", 4)], ids=["norms", "default", "all"])
def test_hooks_of_a_recorded_step_per_layer(metrics: Any, most: int, tmp_path: Path) -> None:
    """A full backward hook costs ten times a hook on a tensor or node: none is ever used."""
    _, few = counts(4, tmp_path / "shallow", every=1, step=2, metrics=metrics)
    _, many = counts(14, tmp_path / "deep", every=1, step=2, metrics=metrics)
    assert sum((many - few).values()) <= 10 * most, many - few
    assert not any("full_backward" in name for name in many)


class Alive:
    """Storages of large outputs and gradients that live at each of three moments of a step."""

    def __init__(self, training: Training) -> None:
        self.found: list[list[str]] = []
        self._seen: list[tuple[str, weakref.ref[Any]]] = []
        for name, module in training.model.named_modules():
            module.register_forward_hook(self._on_output(name))
        self._training = training

    def _on_output(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            self._note(f"{name} output", output)
            output.register_hook(lambda grad: self._note(f"{name} gradient", grad))  # type: ignore[no-untyped-call]

        return hook

    def _note(self, what: str, tensor: Tensor) -> None:
        # A small one may wait for others until the step ends.
        if tensor.numel() > SMALL:
            self._seen.append((what, weakref.ref(tensor.untyped_storage())))

    def look(self) -> None:
        self.found.append([what for what, storage in self._seen if storage() is not None])

    def step(self) -> None:
        training = self._training
        self._seen.clear()
        output = training.model(training.x)
        self.look()
        loss = F.cross_entropy(output, training.y)
        del output
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
        self.look()
        training.optimizer.step()
        training.optimizer.zero_grad()
        self.look()


@selections
def test_no_large_output_or_gradient_lives_longer_than_without(metrics: Any, tmp_path: Path) -> None:
    """Peers that kept activations ran out of memory (pytorch#82528, opacus#176); even the collector is not needed."""
    bare, watched = (Alive(Training(4, width=256, batch=128)) for _ in range(2))
    training = watched._training
    gc.collect()
    gc.disable()
    try:
        with gs.watch(training.model, training.optimizer, out=tmp_path / "run", every=1, metrics=metrics):
            for _ in range(3):
                bare.step()
                watched.step()
    finally:
        gc.enable()
    assert watched.found == bare.found
    assert bare.found[1] == []


def test_bytes_on_disk_per_value(tmp_path: Path) -> None:
    """Columns of floats, compressed: less than the eight bytes that a double takes in memory."""
    training = Training(20)
    with gs.watch(training.model, training.optimizer, out=tmp_path / "run", every=1) as probe:
        for _ in range(200):
            training.step()
    run = probe.run
    values = sum(int(run.frame(metric).count().sum()) for metric in run.metrics)
    parts = sum(part.stat().st_size for part in (tmp_path / "run" / "layers").iterdir())
    assert values > 50_000
    assert parts / values < 8


gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


class OnDevice(Training):
    """The same on a CUDA device."""

    def __init__(self) -> None:
        super().__init__(6, width=64, batch=32)
        self.model.cuda()
        self.x, self.y = self.x.cuda(), self.y.cuda()


@pytest.mark.parametrize("metrics", [pytest.param(value, id=key, marks=gpu) for key, value in SELECTIONS.items()])
def test_an_unrecorded_step_never_waits_for_the_device_and_a_recorded_one_waits_once(
    metrics: Any, tmp_path: Path
) -> None:
    training = OnDevice()
    waits = []
    with gs.watch(training.model, training.optimizer, out=tmp_path / "run", every=3, metrics=metrics) as probe:
        for step in range(9):
            recorded = step % 3 == 0
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn" if recorded else "error")
                training.step()
                torch.cuda.set_sync_debug_mode("default")
            waits.append(sum("synchroniz" in str(one.message) for one in caught))
    assert waits[3:] == [1, 0, 0, 1, 0, 0]
    assert len(probe.run.frame("output_grad_norm")) == 3
