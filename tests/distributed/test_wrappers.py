"""What can be told of wrappers, ranks and shards in one process."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel

import gradscope as gs
from gradscope.errors import InvalidTypeError
from gradscope.probe.distributed import LocalGradient, rank, why_unseen, world_size
from gradscope.probe.layers import find_layers


def test_rank_and_world_size_are_known_before_there_is_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert (rank(), world_size()) == (0, 1)  # anybody may have set these
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert (rank(), world_size()) == (3, 8)


def test_a_checkpoint_wrapper_adds_nothing_to_names() -> None:
    model = nn.Sequential(checkpoint_wrapper(nn.Sequential(nn.Linear(2, 2), nn.ReLU())), nn.Linear(2, 1))
    assert [layer.name for layer in find_layers(model)] == ["0.0", "1"]


def test_flat_parameters_are_refused() -> None:
    # Made without its constructor, which asks for an accelerator.
    wrapped = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped._modules["_fsdp_wrapped_module"] = nn.Linear(2, 2)
    with pytest.raises(InvalidTypeError) as error:
        find_layers(nn.Sequential(wrapped))
    text = "FullyShardedDataParallel keeps the weights of many layers in one flat parameter; use fully_shard"
    assert str(error.value) == text


def test_replicas_of_data_parallel_do_not_count(tmp_path: Path) -> None:
    """DataParallel on several devices calls shallow copies of the modules, hooks included."""
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer)
    replica = layer._replicate_for_data_parallel()
    replica._parameters = layer._parameters
    with gs.watch(model, out=tmp_path / "run", every=1) as probe:
        loss = replica(torch.ones(2, 3)).sum()
        loss.backward()
        probe.step()
    run: Any = gs.load(tmp_path / "run")
    assert run.steps("output_grad_norm") == []
    text = "called as a copy, by DataParallel: several run at once, and none is the layer"
    assert run.coverage["text"].tolist() == [text]
    assert why_unseen(layer, replica, torch.ones(1)) == text
    assert why_unseen(layer, layer, torch.ones(1)) is None


def test_a_gradient_is_local_until_somebody_touches_it() -> None:
    weight = nn.Parameter(torch.ones(3))
    follower = LocalGradient(weight)

    def backward() -> bool:
        (weight * 2.0).sum().backward()
        return follower.accumulated(weight)

    assert [backward(), backward()] == [True, True]
    assert weight.grad is not None
    weight.grad.div_(2)
    assert [backward(), backward()] == [False, False]
    follower.remove()
    fresh = LocalGradient(weight)
    assert not backward()  # it starts from what was there
    fresh.remove()


def test_following_a_gradient_leaves_no_warning_in_a_pickle() -> None:
    weight = nn.Parameter(torch.ones(3))
    follower = LocalGradient(weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save({"weight": weight}, io.BytesIO())
    follower.remove()
    assert not weight._backward_hooks
