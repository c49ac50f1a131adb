"""Numbers at the edge: tiny and huge gradients, NaN, odd types, the device path."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradscope as gs
from gradscope.probe.functions import Phi, from_result
from gradscope.probe.histograms import BINS, LOWEST, bin_counts
from gradscope.probe.layouts import Layout, Reducer, real
from gradscope.probe.reduce import Tape, flat, units
from gradscope.probe.statistics import odd_stride, overlap, unit_step
from gradscope.signals import Moments, pool_moments


def host_moments(vector: torch.Tensor) -> tuple[float, float, float]:
    """Sum, sum of squares and squared deviations of a tensor, by both ways that the host has."""
    reducer = Reducer(Layout((("output", ("moments",)),), -1), vector)
    with np.errstate(all="ignore"):
        _, *found = reducer.host_table(real(vector)[None])[0].tolist()
        if vector.numel():
            assert reducer.host_row(real(vector))[1:] == pytest.approx(found, rel=1e-6, nan_ok=True)
    return found[0], found[1], found[2]


@settings(max_examples=200, deadline=None)
@given(st.integers(-38, 38), st.integers(1, 3000), st.integers(0, 10**6))
def test_norms_are_right_from_1e_minus_38_to_1e38(exponent: int, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(size, generator=generator, dtype=torch.float64) + 0.5
    tensor = (values * 10.0**exponent).clamp(max=3e38).float()
    _, squares, _ = host_moments(flat(tensor))
    expected = float(np.linalg.norm(tensor.double().numpy()))
    assert math.sqrt(squares) == pytest.approx(expected, rel=1e-6)


LARGE = {"rand": lambda: torch.rand(10**7) + 1, "constant": lambda: torch.full((10**7,), 0.1)}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_float32_tensor_loses_no_precision(kind: str) -> None:
    tensor = LARGE[kind]()
    _, squares, deviations = host_moments(flat(tensor))
    assert math.sqrt(squares) == pytest.approx(float(tensor.double().norm()), rel=1e-6)
    assert math.sqrt(deviations / tensor.numel()) == pytest.approx(float(tensor.double().std()), rel=1e-6, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 10), st.integers(2, 500))
def test_the_standard_deviation_survives_a_large_mean(mean: float, spread: float, size: int) -> None:
    tensor = torch.linspace(-1, 1, size, dtype=torch.float64) * spread + mean
    _, _, deviations = host_moments(tensor)
    assert math.sqrt(deviations / size) == pytest.approx(float(tensor.std(unbiased=False)), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
@pytest.mark.parametrize("shape", [(0,), (), (7,), (3, 4, 5)], ids=str)
def test_every_type_and_shape_has_moments(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, dtype=torch.complex64 if dtype.is_complex else torch.float32).to(dtype)
    total, squares, deviations = host_moments(flat(tensor))
    wide = torch.view_as_real(tensor) if dtype.is_complex else tensor.double()
    assert squares == pytest.approx(float(wide.square().sum()), rel=1e-5)
    assert total == pytest.approx(float(wide.sum()), rel=1e-3, abs=1e-5)
    assert deviations >= 0


def test_a_half_precision_norm_does_not_overflow() -> None:
    _, squares, _ = host_moments(flat(torch.full((4096,), 2000.0, dtype=torch.float16)))
    assert math.sqrt(squares) == pytest.approx(128000, rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_come_through(value: float) -> None:
    total, squares, _ = host_moments(torch.tensor([1.0, value, 2.0]))
    assert not math.isfinite(total)
    assert not math.isfinite(squares)


def test_permuted_and_expanded_memory() -> None:
    tensor = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    assert flat(tensor).data_ptr() == tensor.data_ptr()
    assert host_moments(flat(tensor))[1] == pytest.approx(float(tensor.square().sum()), rel=1e-5)
    row = torch.randn(1, 6).expand(5, 6)
    assert host_moments(flat(row))[1] == pytest.approx(5 * float(row[0].square().sum()), rel=1e-5)


@given(st.integers(1, 10**8), st.integers(1, 4096))
def test_the_stride_is_odd_leaves_enough_and_shares_no_factor_with_the_rows(entries: int, features: int) -> None:
    stride = odd_stride(entries, features)
    assert stride % 2 == 1
    assert stride == 1 or math.gcd(stride, features) == 1
    assert -(-entries // stride) >= min(entries, 16_384)


def test_units_are_whole_and_keep_their_samples() -> None:
    images = torch.arange(2 * 600 * 8 * 8, dtype=torch.float32).reshape(2, 600, 8, 8)
    chosen = units(images, -3)
    step = unit_step(600, 2 * 64)
    assert step > 1
    torch.testing.assert_close(chosen, images[:, ::step].reshape(2, -1, 64))
    tokens = torch.randn(4, 5, 6)
    torch.testing.assert_close(units(tokens, -1), tokens.transpose(1, 2))


SIGNALS_OF = {"output": ("moments", "squares", "zeros", "small", "power", "spread")}
SIGNALS_OF_PHI = {"activation": ("moments", "zeros"), "slope": ("squares", "zeros", "small", "power")}


def reducer_of(tensor: torch.Tensor, phi: Phi | None) -> Reducer:
    wanted = SIGNALS_OF if phi is None else SIGNALS_OF_PHI
    return Reducer(Layout(tuple(wanted.items()), -1, phi), tensor)


def slow_statistics(tensor: torch.Tensor, phi: Phi | None) -> list[float]:
    """The numbers of a reducer, one entry after the other."""
    numbers: list[float] = []
    for signal, wanted in (SIGNALS_OF if phi is None else SIGNALS_OF_PHI).items():
        made = tensor if phi is None else (phi.slope(tensor) if signal == "slope" else phi.value(tensor))
        entries = [float(one) for one in made.flatten()]
        sample = entries[:: odd_stride(len(entries), tensor.shape[-1])]
        limit = float(np.float32(0.01 * phi.slope_max)) if phi else 0.0
        small = [abs(x) < limit if signal == "slope" and phi else 0 < abs(x) <= 2**-25 for x in sample]
        mean = math.fsum(entries) / len(entries)
        by_name = {
            "squares": [len(entries), math.fsum(x * x for x in entries)],
            "zeros": [len(sample), sum(x == 0 for x in sample)],
            "small": [len(sample), sum(small)],
            "power": [len(sample), math.fsum(x * x for x in sample)],
        }
        deviations = math.fsum((x - mean) ** 2 for x in entries)
        by_name["moments"] = [len(entries), math.fsum(entries), by_name["squares"][1], deviations]
        step = unit_step(tensor.shape[-1], tensor.numel() // tensor.shape[-1])
        columns = (
            made.reshape(len(tensor), -1, tensor.shape[-1])[:, :, ::step].reshape(len(tensor), -1).double().numpy()
        )
        by_name["spread"] = [columns.size, columns.size * float(np.std(columns, axis=0, ddof=1).mean())]
        for one in wanted:
            numbers += by_name[one]
    return numbers


PHIS = {name: from_result(name, torch.zeros(1)) for name in ("relu", "tanh", "sigmoid", "leaky_relu", "selu")}


@pytest.mark.parametrize("shape", [(5, 7), (64, 12), (3, 4, 20), (2, 1021 * 9), (130, 300)], ids=str)
@pytest.mark.parametrize("name", ["none", *PHIS])
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-25])
def test_all_ways_to_reduce_agree_with_a_slow_computation(shape: tuple[int, ...], name: str, scale: float) -> None:
    phi = PHIS.get(name)
    tensors = torch.randn(3, *shape, generator=torch.Generator().manual_seed(len(shape))) * scale
    tensors[:, 0, ..., 0] = 0.0
    if phi is not None:
        tensors = getattr(torch.nn.functional, name)(tensors)
    reducer = reducer_of(tensors[0], phi)
    slow = np.asarray([slow_statistics(one, phi) for one in tensors])
    tolerance = {"rtol": 2e-6, "atol": 2e-6 * np.abs(tensors.numpy()).max() * tensors[0].numel() ** 0.5}
    np.testing.assert_allclose(reducer.host_table(tensors), slow, **tolerance)
    np.testing.assert_allclose(np.asarray([reducer.host_row(one) for one in tensors]), slow, **tolerance)
    np.testing.assert_allclose(reducer.device_table(tensors).numpy(), slow, **tolerance)


@pytest.mark.parametrize("size", [1, 500, 4096, 1021 * 9])
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_the_scalar_product_of_two_gradients(size: int, scale: float) -> None:
    first, second = torch.rand(2, size, generator=torch.Generator().manual_seed(size)) + 0.5
    expected = float((first.double() * scale) @ (second.double() * scale))
    with np.errstate(over="ignore"):
        assert overlap((first * scale).numpy(), (second * scale).numpy()) == pytest.approx(expected, rel=1e-6)


def test_numbers_of_a_device_come_in_one_transfer_in_float64() -> None:
    tensor = torch.randn(1000) * 1e-25
    table = reducer_of(tensor[None], None).device_table(tensor[None, None])
    tape = Tape()
    place = tape.put(table)
    assert list(tape.read()[place : place + 4]) == table[0, :4].tolist()
    assert host_moments(tensor) == pytest.approx(table[0, 1:4].tolist(), rel=1e-6)


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=0, max_size=9), min_size=1, max_size=5))
def test_pooled_moments_are_those_of_all_entries(parts: list[list[float]]) -> None:
    tensors = [torch.tensor(part, dtype=torch.float64) for part in parts]
    pooled = pool_moments([(one.numel(), *host_moments(one)) for one in tensors])
    whole = torch.cat(tensors)
    expected = (whole.numel(), *host_moments(whole))
    assert pooled == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert bool(np.isnan(Moments(*map(np.asarray, pooled)).mean)) == (whole.numel() == 0)


@given(st.lists(st.floats(width=32), max_size=50))
def test_histograms_count_by_sign_and_exponent(values: list[float]) -> None:
    tensor = torch.tensor(values, dtype=torch.float32)
    counts = bin_counts(tensor[None])[0].long().tolist()
    expected = [0] * (2 * BINS + 2)
    for value in values:
        if not math.isfinite(value):
            expected[2 * BINS + 1] += 1
        elif value == 0:
            expected[2 * BINS] += 1
        else:
            place = math.frexp(abs(value))[1] - 1 - LOWEST
            expected[place + (BINS if value < 0 else 0)] += 1
    assert counts == expected


def test_a_tiny_float32_gradient_has_a_norm(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        (model(torch.randn(4, 8)) * 1e-30).sum().backward()
        probe.step()
    head = probe.run.profile("output_grad_norm")[2]
    assert head == pytest.approx(math.sqrt(32) * 1e-30, rel=1e-6)
    assert probe.run.profile("weight_grad_norm")[1] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).to(dtype)
    caught: list[Tensor] = []
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        hidden = model[0](torch.randn(70, 8, dtype=dtype))
        hidden.register_hook(lambda grad: caught.append(grad.double().norm()))
        model[2](model[1](hidden)).square().sum().backward()
        probe.step()
    run = probe.run
    assert run.profile("output_grad_norm")[1] == pytest.approx(float(caught[0]), rel=1e-5)
    assert (run.coverage["code"] != "error").all()


def test_non_finite_values_are_stored_as_such(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with gs.watch(model, out=tmp_path / "run", every=1, metrics="all") as probe:
        x = torch.randn(4, 8)
        x[0, 0] = math.nan
        (model(x).sum() * math.inf).backward()
        probe.step()
    run = probe.run
    assert math.isnan(run.rows("output_mean")["value"].iloc[0])
    assert run.rows("weight_grad_norm")["value"].notna().sum() < 2
    assert not run.nonfinite.empty


def test_autocast(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.randn(32, 64)).float().square().mean()
        loss.backward()
        expected = float(model[0].weight.grad.double().norm())
        probe.step()
    run = probe.run
    assert run.profile("weight_grad_norm")[1] == pytest.approx(expected, rel=1e-6)
    assert run.layers["activation"].tolist() == ["tanh", "identity"]
    assert run.frame("input_grad_norm").columns.tolist() == [2]


def test_parametrized_and_lazy_layers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)))
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        model(torch.randn(4, 5)).square().sum().backward()
        probe.step()
    run = probe.run
    assert run.layers["kind"].tolist() == ["Linear", "Linear"]
    assert run.layers["fan_in"].tolist() == [5, 8]
    assert run.frame("output_grad_norm").notna().all(axis=None)
    assert run.frame("weight_grad_norm").columns.tolist() == [1, 2]
    assert run.frame("update_ratio").columns.tolist() in ([], [1])


def test_layers_called_outside_the_model_s_forward(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(6, 6), "b": nn.Linear(6, 2)})
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        for _ in range(3):
            model["b"](torch.tanh(model["a"](torch.randn(4, 6)))).square().sum().backward()
            probe.step()
    run = probe.run
    assert run.layers[["layer", "call"]].to_numpy().tolist() == [["a", 1], ["b", 1]]
    assert run.layers["activation"].tolist() == ["tanh", "?"]
    assert run.frame("output_grad_norm").shape == (3, 2)
