"""Runs written with the real Writer from chains whose decay is known by construction."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np

from gradscope.runs import Run, Runs, Writer, load
from gradscope.spec import LayerSpec, MetricSpec

METRICS = (
    MetricSpec("output_grad_norm", "Output gradient norm", group="backward", scale="log", bounds=(0.0, None)),
    MetricSpec("input_grad_norm", "Input gradient norm (own)", group="backward", scale="log", bounds=(0.0, None)),
    MetricSpec("next_input_grad_norm", "Next input gradient norm", group="backward", scale="log", bounds=(0.0, None)),
    MetricSpec("output_grad_zero_fraction", "Zeros in the output gradient", group="backward", bounds=(0.0, 1.0)),
    MetricSpec("weight_grad_norm", "Weight gradient norm", group="weights", scale="log", bounds=(0.0, None)),
    MetricSpec("update_ratio", "Update ratio", group="weights", scale="log", bounds=(0.0, None), dtype="float32"),
    MetricSpec("output_mean", "Output mean", group="forward"),
    MetricSpec("saturation", "Saturation", group="activation", bounds=(0.0, 1.0)),
    MetricSpec("information", "Information", unit="bit", group="custom"),
)
NAMES = [one.name for one in METRICS]


def chain(depth: int, activation: str = "tanh") -> list[LayerSpec]:
    """Return the layer calls of a chain with that many hidden layers and a head."""
    return [
        LayerSpec(
            id=place,
            layer="head" if place == depth else f"layers.{place}",
            call=1,
            depth=place + 1,
            parents=(place - 1,) if place else (),
            activation="identity" if place == depth else activation,
            fan_in=64,
            fan_out=64,
            parameters=4160,
        )
        for place in range(depth + 1)
    ]


def values_at(step: int, depth: int, rate: float, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Return the values of one step: |dL/dz| falls by ``rate`` per layer towards the input, times noise."""
    layers = depth + 1
    signal = 0.5 * rate ** np.arange(depth, -1, -1.0) * np.exp(noise * rng.standard_normal(layers)) / (1 + 0.01 * step)
    weight_gain = np.sqrt(rate) * np.exp(0.3 * noise * rng.standard_normal(layers))
    own = weight_gain * signal
    total = np.append(own[1:], np.nan)
    saturation = np.clip(np.linspace(0.3, 0.05, layers) * (1 + step / 50), 0, 1)
    columns = [
        signal,
        own,
        total,
        np.clip(saturation / 2, 0, 1),
        signal * 2.0,
        signal * 1e-3,
        rng.standard_normal(layers) * 0.1,
        saturation,
        np.linspace(3.0, 1.0, layers),
    ]
    return np.column_stack(columns)


def write(
    path: Path,
    *,
    depth: int = 8,
    rate: float = 0.5,
    noise: float = 0.05,
    steps: range = range(0, 200, 10),
    seed: int = 0,
    spoil: str = "",
    close: bool = True,
    config: dict[str, object] | None = None,
) -> Writer:
    """Write a run; ``spoil`` names what goes wrong in its lower layers: zero, nan or inf."""
    rng = np.random.default_rng(seed)
    everything = {"depth": depth, "activation": "tanh", "init": "xavier_normal", "seed": seed} | (config or {})
    writer = Writer(str(path), metrics=METRICS, config=everything, name=path.name, every=10)
    writer.describe(chain(depth, str(everything["activation"])))
    for step in steps:
        add_step(writer, step, depth, rate, noise, rng, spoil=spoil)
    if close:
        writer.close()
    return writer


def add_step(
    writer: Writer,
    step: int,
    depth: int,
    rate: float,
    noise: float,
    rng: np.random.Generator,
    spoil: str = "",
) -> None:
    """Add one recorded step with its loss."""
    values = values_at(step, depth, rate, noise, rng)
    present = np.ones(values.shape, dtype=bool)
    present[-1, NAMES.index("next_input_grad_norm")] = False
    bad = {"zero": 0.0, "nan": math.nan, "inf": math.inf}
    for kind in spoil.split():
        rows = slice(0, 2) if kind == "zero" else slice(2, 3)
        if kind == "zero" or step >= 100:
            values[rows, :6] = bad[kind]
    writer.rows(step, np.arange(depth + 1, dtype=np.int32), values, present)
    writer.scalars(step, {"loss": 2.3 / (1 + 0.02 * step) + 0.02 * rng.standard_normal()})
    writer.next_step = step + 1


RATES = {
    ("sigmoid", "default"): 0.14,
    ("sigmoid", "xavier"): 0.235,
    ("sigmoid", "kaiming"): 0.33,
    ("tanh", "default"): 0.55,
    ("tanh", "xavier"): 0.96,
    ("tanh", "kaiming"): 1.12,
    ("relu", "default"): 0.41,
    ("relu", "xavier"): 0.71,
    ("relu", "kaiming"): 1.0,
}


def write_sweep(folder: Path, depths: tuple[int, ...] = (2, 4, 8, 16, 32), seeds: int = 3) -> Path:
    """Write the runs of a sweep with the decay that mean-field theory gives, roughly."""
    for (activation, init), depth, seed in itertools.product(RATES, depths, range(seeds)):
        name = f"depth={depth},activation={activation},init={init},seed={seed}"
        rate = RATES[activation, init]
        spoil = "zero" if activation == "sigmoid" and init == "default" and depth == 32 else ""
        config = {"activation": activation, "init": init}
        write(
            folder / name,
            depth=depth,
            rate=rate,
            seed=seed,
            steps=range(0, 60, 10),
            spoil=spoil,
            config=config,
        )
    return folder


def write_long(path: Path, layers: int = 100, metrics: int = 20, steps: int = 5000) -> Path:
    """Write a run of layers x metrics x recorded steps values."""
    own = tuple(
        MetricSpec(f"metric_{index}", f"Metric {index}", scale="log") for index in range(metrics - len(METRICS))
    )
    writer = Writer(str(path), metrics=(*METRICS, *own), config={"depth": layers - 1}, name=path.name, every=10)
    writer.describe(chain(layers - 1))
    rng = np.random.default_rng(0)
    ids = np.arange(layers, dtype=np.int32)
    for index in range(steps):
        base = values_at(index * 10, layers - 1, 0.93, 0.1, rng)
        values = np.hstack([base, base[:, :1] * rng.lognormal(size=(layers, len(own)))])
        writer.rows(index * 10, ids, values, ~np.isnan(values))
        writer.scalars(index * 10, {"loss": 2.0 / (1 + 0.001 * index)})
    writer.close()
    return path


def open_run(path: Path) -> Run:
    """Load a single run."""
    run = load(str(path))
    assert isinstance(run, Run)
    return run


def open_runs(path: Path) -> Runs:
    """Load a folder of runs."""
    runs = load(str(path))
    assert isinstance(runs, Runs)
    return runs
