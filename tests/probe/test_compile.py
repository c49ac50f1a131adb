"""Compiled models: right numbers on recorded steps, untouched compiled code on the others, words for what is lost."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

import gradscope as gs

EAGERLY = "everything; what is compiled ran eagerly for this step"
BEFORE = (
    "compiled before it was watched: hooks never fire in compiled code; "
    "watch first and compile afterwards to record its activations and error signals"
)
WARNING = (
    "this model was compiled before it was watched: hooks never fire in compiled code, so that only its parameters "
    "are recorded (weights, their gradients and updates), no activations and no error signals; "
    "watch first and compile afterwards to record everything"
)
STEPS, EVERY = 5, 2
# The compiler's own, where what it compiles gets an activation as its input.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    assert torch._dynamo.eval_frame._stance.stance == "default"
    torch._dynamo.reset()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.body = nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 12), nn.Tanh())
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(x + self.body(x))


LAYERS = ["first", "body.0", "body.3", "head"]
PARAMETER_METRICS = ["weight_grad_norm", "weight_grad_norm_raw", "bias_grad_norm", "weight_rms", "update_ratio"]
Compile = Callable[[Net, Any], Callable[[Tensor], Tensor]]


def wrapped(model: Net, backend: Any) -> Callable[[Tensor], Tensor]:
    return torch.compile(model, backend=backend)


def whole(model: Net, backend: Any) -> Callable[[Tensor], Tensor]:
    return torch.compile(model, backend=backend, fullgraph=True)


def dynamic(model: Net, backend: Any) -> Callable[[Tensor], Tensor]:
    return torch.compile(model, backend=backend, dynamic=True)


def in_place(model: Net, backend: Any) -> Callable[[Tensor], Tensor]:
    model.compile(backend=backend)
    return model


def function(model: Net, backend: Any) -> Callable[[Tensor], Tensor]:
    return torch.compile(lambda x: model(x), backend=backend)


def submodule(model: Net, backend: Any) -> Callable[[Tensor], Tensor]:
    model.body = torch.compile(model.body, backend=backend)
    return model


def plain(model: Net, _: Any) -> Callable[[Tensor], Tensor]:
    return model


def batch(step: int, rows: int = 4) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(step))


def train(
    compile_: Compile, out: Path | None = None, backend: Any = "eager", *, first: bool = True, **given: Any
) -> tuple[Net, gs.Probe | None]:
    """Train a net; watch it first and compile it then, or the other way round."""
    torch.manual_seed(3)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    call = compile_(model, backend) if not first else None
    probe = None
    if out is not None:
        probe = gs.watch(model if first else call, optimizer, out=out, **({"every": EVERY} | given))
    call = compile_(model, backend) if call is None else call
    for step in range(STEPS):
        call(batch(step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    if probe is not None:
        probe.close()
    return model, probe


def assert_same_rows(run: gs.Run, expected: gs.Run, rtol: float = 0.0) -> None:
    assert run.layers["layer"].tolist() == LAYERS
    for name in expected.metrics:
        np.testing.assert_allclose(run.frame(name), expected.frame(name), rtol=rtol, atol=rtol * 1e-2, err_msg=name)


@pytest.mark.parametrize("compile_", [wrapped, whole, dynamic, in_place, function, submodule])
def test_watched_first_and_compiled_then_every_metric_is_that_of_the_eager_training(
    compile_: Compile, tmp_path: Path
) -> None:
    _, eager = train(plain, tmp_path / "eager", metrics="all")
    _, probe = train(compile_, tmp_path / "compiled", metrics="all")
    assert eager is not None
    assert probe is not None
    assert probe.run.steps() == [0, 2, 4]
    assert_same_rows(probe.run, eager.run)
    found = probe.coverage().set_index("layer")
    assert (found["code"] == "recorded").all()
    assert found.loc["body.3", "text"] == EAGERLY
    assert not eager.coverage()["text"].str.contains("eagerly").any()


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
            ],
        ),
    ],
)
def test_recorded_steps_are_right_whatever_the_compiler_makes_of_the_others(backend: str, tmp_path: Path) -> None:
    _, eager = train(plain, tmp_path / "eager", metrics="all")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        model, probe = train(wrapped, tmp_path / "compiled", backend, metrics="all")
        bare, _ = train(wrapped, None, backend)
    assert eager is not None
    assert probe is not None
    assert_same_rows(probe.run, eager.run, rtol=1e-4)
    for mine, other in zip(model.parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("compile_", [wrapped, in_place, submodule])
def test_an_idle_probe_adds_no_graph_break_and_no_recompilation(compile_: Compile, tmp_path: Path) -> None:
    counted = []
    for out in (None, tmp_path / "run"):
        torch._dynamo.reset()
        counters.clear()
        backend = CompileCounterWithBackend("eager")
        train(compile_, out, backend)
        counted.append((backend.frame_count, backend.op_count, len(counters["graph_break"])))
    assert counted == [(1, counted[0][1], 0)] * 2


def test_explaining_an_unrecorded_step_shows_one_graph(tmp_path: Path) -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "run", every=10):
        model(torch.randn(4, 6)).sum().backward()
        optimizer.step()
        explained = torch._dynamo.explain(model)(torch.randn(4, 6))
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_a_training_without_unrecorded_steps_never_runs_compiled_code(tmp_path: Path) -> None:
    backend = CompileCounterWithBackend("eager")
    _, eager = train(plain, tmp_path / "eager", every=1)
    _, probe = train(wrapped, tmp_path / "run", backend, every=1)
    assert backend.frame_count == 0
    assert eager is not None
    assert probe is not None
    assert_same_rows(probe.run, eager.run)


@pytest.mark.parametrize("what", ["optimizer step", "whole step"])
def test_steps_are_counted_where_the_optimizer_step_is_compiled_too(what: str, tmp_path: Path) -> None:
    def trained(out: Path, compiler: Callable[[Any], Any]) -> gs.Run:
        torch.manual_seed(3)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = gs.watch(model, optimizer, out=out, every=EVERY)
        apply = compiler(lambda: optimizer.step()) if what == "optimizer step" else optimizer.step

        def one(x: Tensor) -> None:
            model(x).square().mean().backward()
            apply()
            optimizer.zero_grad()

        step = compiler(one) if what == "whole step" else one
        for seed in range(STEPS):
            step(batch(seed))
        probe.close()
        return probe.run

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = trained(tmp_path / "compiled", torch.compile(backend="eager"))
    assert_same_rows(compiled, trained(tmp_path / "eager", lambda call: call))


@pytest.mark.parametrize("compile_", [wrapped, in_place])
def test_compiled_first_and_watched_then_the_parameters_are_exact_and_the_rest_is_said_to_be_missing(
    compile_: Compile, tmp_path: Path
) -> None:
    _, eager = train(plain, tmp_path / "eager", every=1, metrics="all")
    backend = CompileCounterWithBackend("eager")
    with pytest.warns(UserWarning, match=r"^this model was compiled before") as told:
        _, probe = train(compile_, tmp_path / "run", backend, first=False, every=1, metrics="all")
    assert [str(one.message) for one in told] == [WARNING]
    assert eager is not None
    assert probe is not None
    run = probe.run
    assert run.layers["layer"].tolist() == LAYERS
    for name in PARAMETER_METRICS:
        np.testing.assert_array_equal(run.frame(name), eager.run.frame(name), err_msg=name)
    recorded = {name for name in run.metrics if run.frame(name).size}
    assert not any(name.startswith(("output", "input", "next", "activation", "slope")) for name in recorded)
    found = probe.coverage()
    assert found["code"].tolist() == ["compiled"] * 4
    assert found["text"].unique().tolist() == [BEFORE]
    assert found[["parameters", "boundaries", "units"]].drop_duplicates().to_numpy().tolist() == [["yes", "no", "no"]]
    assert backend.frame_count == 1


def test_a_model_watched_through_its_compiled_wrapper_is_the_same_model(tmp_path: Path) -> None:
    model = Net()
    first = gs.watch(model, out=tmp_path / "first")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        gs.watch(torch.compile(model, backend="eager"), out=tmp_path / "second").close()
    assert [str(one.message) for one in told] == [
        WARNING,
        "this model was being watched already; the first probe is closed",
    ]
    assert first.closed


def stance() -> str:
    found: str = torch._dynamo.eval_frame._stance.stance
    return found


def test_the_compiler_is_given_back_after_a_recorded_step_an_exception_and_a_dropped_probe(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gs.watch(model, optimizer, out=tmp_path / "step", every=10):
        assert stance() == "force_eager"
        model(torch.randn(3, 2)).sum().backward()
        optimizer.step()
        assert stance() == "default"

    def fail() -> None:
        with gs.watch(model, optimizer, out=tmp_path / "exception"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert stance() == "default"
    probe = gs.watch(nn.Linear(2, 2), out=tmp_path / "dropped")
    assert stance() == "force_eager"
    del probe
    gc.collect()
    assert stance() == "default"


def test_two_probes_give_the_compiler_back_together(tmp_path: Path) -> None:
    first, second = (gs.watch(nn.Linear(2, 2), out=tmp_path / name) for name in "ab")
    first.close()
    assert stance() == "force_eager"
    second.close()
    assert stance() == "default"


def test_a_stance_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    with torch.compiler.set_stance("eager_on_recompile"):
        gs.watch(nn.Linear(2, 2), out=tmp_path / "before").close()
        assert stance() == "eager_on_recompile"
    probe = gs.watch(nn.Linear(2, 2), out=tmp_path / "meanwhile")
    with torch.compiler.set_stance("fail_on_recompile"):
        probe.close()
        assert stance() == "fail_on_recompile"
    torch.compiler.set_stance("default")


def test_hooks_traced_under_a_users_stance_record_nothing_and_break_no_graph(tmp_path: Path) -> None:
    model = Net()
    probe = gs.watch(model, out=tmp_path / "run", every=1)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.compiler.set_stance("default"):
        compiled(torch.randn(4, 6)).sum().backward()
        probe.step()
    compiled(torch.randn(4, 6)).sum().backward()
    probe.step()
    probe.close()
    torch.compiler.set_stance("default")
    assert probe.run.steps("output_grad_norm") == [1]
    assert not counters["graph_break"]


def test_whoever_does_not_compile_does_not_load_the_compiler_and_who_does_it_late_loses_one_step(
    tmp_path: Path,
) -> None:
    script = f"""
        import sys
        import torch
        from torch import nn
        import gradscope as gs

        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        probe = gs.watch(model, out={str(tmp_path / "run")!r}, every=2)
        for step in range(2):
            model(torch.randn(3, 4)).sum().backward()
            probe.step()
        assert "torch._dynamo" not in sys.modules
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for step in range(2, 5):
            compiled(torch.randn(3, 4)).sum().backward()
            probe.step()
        probe.close()
        print(probe.run.steps("output_grad_norm"), probe.run.steps("weight_grad_norm"))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0, 4] [0, 2, 4]\n"


@pytest.mark.parametrize("make", ["script", "trace"])
def test_torchscript_is_refused_in_words(make: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        made = torch.jit.script(model) if make == "script" else torch.jit.trace(model, torch.randn(2, 4))
    with pytest.raises(gs.errors.InvalidTypeError) as error:
        gs.watch(made, out=tmp_path / "run")
    assert str(error.value) == (
        "TorchScript (torch.jit) runs a graph of its own, in which no hook fires; watch the model it was made of"
    )


def test_layers_inside_torchscript_are_named_in_the_coverage(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with gs.watch(nn.Sequential(nn.Linear(4, 4), scripted), out=tmp_path / "run") as probe:
        found = probe.coverage()
    assert found[["layer", "code"]].to_numpy().tolist() == [["0", "not_yet"], ["1.0", "scripted"]]
    assert found["text"].iloc[1] == "inside TorchScript (torch.jit): no hook fires"


def test_an_exported_graph_is_refused_in_words(tmp_path: Path) -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), (torch.randn(2, 4),))
    with pytest.raises(gs.errors.InvalidTypeError) as error:
        gs.watch(exported, out=tmp_path / "run")
    assert str(error.value) == "model is a torch.nn.Module, not ExportedProgram"
    with pytest.raises(gs.errors.InvalidValueError) as error:
        gs.watch(exported.module(), out=tmp_path / "run")
    assert str(error.value) == (
        "no layers in GraphModule: an exported graph holds operations, not modules; watch the model it was made of"
    )
