"""The zoo: labels come from outcome or fault, the rules of other tools keep their thresholds, and one table prints."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from alarms import main
from zoo.cases import Case
from zoo.causes import NAMES, TOOLS
from zoo.drawn import BATCHES, SEED, drawn
from zoo.families import FAMILIES, member
from zoo.faults import BIAS, build, spoil
from zoo.first import first
from zoo.judging import Judged, judge
from zoo.keeping import judged
from zoo.observing import Seen
from zoo.peers import all_rules, autotrainer, tensor_rules
from zoo.table import markdown
from zoo.training import Record, label

SUBSET = (
    "sigmoid 6, loss x 1e-3",
    "tanh gain 20",
    "relu 4, lr 50",
    "detached after layer 2",
    "NaN at step 60",
    "tanh 2",
    "relu 3, loss x 1e-4",
    "sigmoid 3, Adam",
)

CALM = Seen(
    step=0,
    grad_mean=(1e-3, 1e-3),
    grad_norm=(0.1, 0.1),
    grad_range=(0.01, 0.01),
    zeros=0.0,
    finite=True,
    empty=False,
    input_var=(1.0, 1.0),
    inactive=(0.0, 0.1),
    saturated=(0.0,),
    update=(1e-3, 1e-3),
    unchanged=False,
    train_accuracy=0.95,
    test_accuracy=0.9,
    test_loss=0.3,
)
FALLING = tuple(2.3 * 0.98**step for step in range(200))


def record(losses: tuple[float, ...] = FALLING, changed: Mapping[str, Any] | None = None) -> Record:
    """Twenty looks at a calm training, changed; its accuracy rises at first."""
    changed = changed or {}
    seen = [dataclasses.replace(CALM, step=10 * look, **changed) for look in range(20)]
    if "train_accuracy" not in changed:
        seen[0] = dataclasses.replace(seen[0], train_accuracy=0.1, test_accuracy=0.1)
    return Record("", 0.9, "healthy", losses, 1.0, tuple(seen))


@pytest.fixture(scope="module")
def subset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Judged]:
    cases = [one for one in first() if one.name in SUBSET]
    return {one.case.name: one for one in judged(cases, tmp_path_factory.mktemp("zoo"), workers=1)}


def test_both_halves_hold_thirty_networks_or_more_of_every_family() -> None:
    for half in (first(), drawn(SEED)):
        assert len(half) >= 30
        assert {one.family for one in half} == set(FAMILIES)
        assert len({one.name for one in half}) == len({one.digest for one in half}) == len(half)


def test_the_halves_share_no_network() -> None:
    assert not {one.digest for one in first()} & {one.digest for one in drawn(SEED)}


def test_a_seed_draws_the_same_zoo_and_another_one_another() -> None:
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_the_first_half_spans_activations_depths_scales_batches_and_widths() -> None:
    half = first()
    depths = [one.options["depth"] for one in half]
    assert {one.options["activation"] for one in half if "activation" in one.options} == {
        "identity", "sigmoid", "tanh", "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softsign",
    }  # fmt: skip
    assert (min(depths), max(depths)) == (2, 60)
    assert {one.network for one in half} == {"mlp", "cnn"}
    assert {one.optimizer for one in half} == {"sgd", "momentum", "adam"}
    learning = [one.loss_scale for one in half if not one.cause]
    assert (min(learning), max(learning)) == (1e-4, 1e3)
    assert {16, 512} <= {one.batch for one in half} <= set(BATCHES)
    assert {16, 512} <= {one.options.get("width") for one in half}


def test_every_cause_has_names_in_every_tool() -> None:
    causes = {one.cause for one in FAMILIES.values()} - {""}
    assert all(set(NAMES[tool]) == causes for tool in TOOLS)


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [(0.10, "sick"), (0.18, "sick"), (0.20, "unclear"), (0.63, "unclear"), (0.65, "healthy")],
)
def test_a_label_is_the_outcome(accuracy: float, expected: str) -> None:
    assert label(Case("a", "shallow"), accuracy) == expected
    assert label(Case("a", "sigmoid", "vanishing"), accuracy) == expected
    assert label(Case("a", "nan", "non-finite", "nan"), accuracy) == "sick"


def test_the_labels_of_the_subset(subset: dict[str, Judged]) -> None:
    sick = {name for name, one in subset.items() if one.label == "sick"}
    assert sick == set(SUBSET[:5])
    assert {name for name, one in subset.items() if one.label == "healthy"} == set(SUBSET[5:])
    assert subset["sigmoid 6, loss x 1e-3"].accuracy < 0.15
    assert subset["tanh 2"].accuracy > 0.9


def test_gradscope_finds_the_sick_of_the_subset_and_names_the_cause(subset: dict[str, Judged]) -> None:
    for name, one in subset.items():
        assert bool(one.alarms["gradscope"]) == (one.label == "sick"), (name, one.alarms)
        assert one.label == "healthy" or one.right("gradscope"), (name, one.alarms)


def test_what_the_other_tools_say_of_the_subset(subset: dict[str, Judged]) -> None:
    said = {name: one.alarms["SageMaker, tensors"] for name, one in subset.items()}
    assert "VanishingGradient" in said["sigmoid 6, loss x 1e-3"]
    assert "SaturatedActivation" in said["tanh gain 20"]
    assert "ExplodingTensor" in said["NaN at step 60"]
    assert said["tanh 2"] == ()
    assert subset["sigmoid 6, loss x 1e-3"].alarms["AUTOTRAINER"] == ("vanish",)
    assert subset["NaN at step 60"].alarms["AUTOTRAINER"] == ("explode",)


def test_one_table_of_all_tools(subset: dict[str, Judged]) -> None:
    printed = markdown({"first half": list(subset.values())})
    rows = printed.splitlines()
    assert rows[0] == "| | first half: sick, found | first half: cause named | first half: healthy, false alarms |"
    assert rows[2] == "| gradscope | 5 of 5 | 5 of 5 | 0 of 3 |"
    assert [row.split(" |")[0].removeprefix("| ") for row in rows[2:6]] == list(TOOLS)
    assert "first half, mistakes of gradscope: none." in rows


def test_mistakes_are_listed(subset: dict[str, Judged]) -> None:
    swapped = [
        dataclasses.replace(one, alarms=dict.fromkeys(TOOLS, ())) if one.label == "sick"
        else dataclasses.replace(one, alarms=dict.fromkeys(TOOLS, ("stalled",)))
        for one in subset.values()
    ]  # fmt: skip
    printed = markdown({"half": swapped})
    assert "| gradscope | 0 of 5 | 0 of 5 | 3 of 3 |" in printed
    assert "- tanh gain 20: missed (said nothing; accuracy " in printed
    assert "- tanh 2: false alarm (said stalled; accuracy " in printed
    assert "half, AUTOTRAINER, false alarm: tanh 2; relu 3, loss x 1e-4; sigmoid 3, Adam." in printed


def test_what_is_kept_is_not_trained_again(tmp_path: Path) -> None:
    case = member("shallow", depth=1, activation="relu", width=16, steps=20)
    before = judge(case, tmp_path)
    assert judge(case, tmp_path) == before
    other = judge(dataclasses.replace(case, seed=1), tmp_path)
    assert other.seconds != before.seconds


def test_the_command_prints_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = tmp_path / "found.json"
    asked = ["--half", "first", "--names", "blank inputs;linear 4", "--workers", "2", "--letters", "--json", str(found)]
    monkeypatch.setattr(sys, "argv", ["alarms.py", *asked])
    main()
    printed = capsys.readouterr().out
    assert "| gradscope | 1 of 1 | 1 of 1 | 0 of 1 |" in printed
    assert "## blank inputs: sick, accuracy 0.10" in printed
    assert "2 networks, " in printed
    assert found.read_text().startswith("{")


@pytest.mark.parametrize(
    ("changed", "fires"),
    [
        ({"grad_mean": (1e-3, 0.99e-7)}, "VanishingGradient"),
        ({"finite": False}, "ExplodingTensor"),
        ({"inactive": (0.0, 0.51)}, "DeadRelu"),
        ({"saturated": (0.51,)}, "SaturatedActivation"),
        ({"update": (1e-3, 0.99e-8)}, "WeightUpdateRatio"),
        ({"update": (10.1, 1e-3)}, "WeightUpdateRatio"),
        ({"empty": True}, "AllZero"),
        ({"unchanged": True}, "UnchangedTensor"),
    ],
)
def test_sagemaker_fires_beyond_its_threshold(changed: dict[str, Any], fires: str) -> None:
    assert all_rules(record(changed=changed)) == (fires,)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"grad_mean": (1.01e-7, None)},
        {"inactive": (0.5, 0.5)},
        {"saturated": (0.5,)},
        {"update": (1.01e-8, 9.9)},
        {"grad_range": (1e-4, 1e-4)},
        {"input_var": (1.0, 100.0)},
    ],
)
def test_sagemaker_is_silent_within_its_thresholds(changed: dict[str, Any]) -> None:
    assert all_rules(record(changed=changed)) == ()


def test_sagemaker_on_losses() -> None:
    flat = (2.3,) * 200
    assert all_rules(record(flat)) == ("LossNotDecreasing",)
    assert all_rules(record(flat, {"grad_range": (1e-4, 1.0)})) == ("PoorWeightInitialization", "LossNotDecreasing")
    assert all_rules(record(flat, {"input_var": (1.0, 10.1)})) == ("PoorWeightInitialization", "LossNotDecreasing")
    assert all_rules(record((math.nan,) * 200)) == ("LossNotDecreasing",)
    assert tensor_rules(record(flat, {"input_var": (1.0, 10.1)})) == ()


BAD = {"train_accuracy": 0.1, "test_accuracy": 0.1}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ()),
        ({"zeros": 0.9, "grad_norm": (1e-9, 1.0)}, ()),  # good accuracy: its gate
        (BAD, ("not_converge",)),
        ({**BAD, "grad_norm": (0.99e-4, 0.1)}, ("vanish",)),
        ({**BAD, "grad_norm": (1.01e-4, 1.0)}, ("not_converge",)),
        ({**BAD, "grad_norm": (0.99e-4, 0.09)}, ("not_converge",)),
        ({**BAD, "grad_norm": (7.1, 0.1)}, ("explode",)),
        ({**BAD, "grad_norm": (6.9, 0.1)}, ("not_converge",)),
        ({**BAD, "zeros": 0.7, "grad_norm": (7.1, 0.1)}, ("relu",)),
        ({"finite": False}, ("explode",)),
        ({"test_loss": 1001.0}, ("explode",)),
    ],
)
def test_autotrainer_by_its_thresholds(changed: dict[str, Any], said: tuple[str, ...]) -> None:
    assert autotrainer(record(changed=changed)) == said


def test_autotrainer_on_an_accuracy_that_goes_up_and_down() -> None:
    calm = record()
    seen = tuple(dataclasses.replace(one, train_accuracy=0.9 - 0.05 * (look % 2)) for look, one in enumerate(calm.seen))
    assert autotrainer(dataclasses.replace(calm, seen=seen)) == ("unstable",)


def test_the_faults_are_what_they_say() -> None:
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)

    def gradients(fault: str, place: int) -> list[bool]:
        model = build(Case("a", "b", fault=fault, place=place, options={"depth": 3, "activation": "relu"}))
        torch.nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        return [
            bool(one.grad is not None and one.grad.any()) for name, one in model.named_parameters() if "weight" in name
        ]

    assert gradients("detached", 1) == [False, False, True, True]
    assert gradients("dead", 1) == [False, False, False, True]  # biases above it still reach the head
    assert gradients("zeros", 1)[0] is False
    assert gradients("", 0) == [True] * 4
    assert BIAS == -10.0


@pytest.fixture
def spoilt() -> Callable[[str, int], tuple[torch.Tensor, torch.Tensor, torch.nn.Module]]:
    def spoilt(fault: str, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Module]:
        case = Case("a", "b", fault=fault, place=5, options={"depth": 1})
        model = build(case)
        x, y = spoil(case, step, model, torch.ones(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64))
        return x, y, model

    return spoilt


def test_faults_strike_at_their_step(
    spoilt: Callable[[str, int], tuple[torch.Tensor, torch.Tensor, torch.nn.Module]],
) -> None:
    for step in (4, 5):
        strikes = step == 5
        assert bool(spoilt("infinite", step)[0].isinf().any()) == strikes
        assert any(bool(one.isnan().any()) for one in spoilt("nan", step)[2].parameters()) == strikes
        assert not spoilt("blank", step)[0].any()
        assert spoilt("labels", step)[1].any()
