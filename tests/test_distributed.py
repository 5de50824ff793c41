"""torch_utils.distributed in one process, and in two that talk over the loopback device."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch

from runs import Commands
from torch_utils import distributed

WORKER = """
import torch
from torch_utils import distributed
distributed.init()
distributed.init()  # once more does no harm
mine = torch.tensor([1.0, 10.0]) * (distributed.get_rank() + 1)
total = distributed.sum_across(mine)
print(distributed.get_rank(), distributed.get_world_size(), distributed.is_rank0(), mine.tolist(), total.tolist())
torch.distributed.destroy_process_group()
"""


def test_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.init()
    assert (distributed.get_rank(), distributed.get_world_size(), distributed.is_rank0()) == (0, 1, True)
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    total = distributed.sum_across(tensor)
    assert torch.equal(total, tensor)
    assert not total.requires_grad
    total.zero_()
    assert tensor.tolist() == [1.0, 2.0], "the sum is a copy"


def test_two_processes(commands: Commands) -> None:
    ended = commands.script(WORKER, {"CUDA_VISIBLE_DEVICES": ""}, processes=2)
    assert ended.codes == [0, 0], ended.stderr
    printed = [commands.said("stdout", rank).strip() for rank in range(2)]
    assert printed == ["0 2 True [1.0, 10.0] [3.0, 30.0]", "1 2 False [2.0, 20.0] [3.0, 30.0]"]


def test_what_earlier_processes_left_in_a_store_does_not_mislead_later_ones() -> None:
    """torchrun keeps its store over restarts: a second pair of processes must not find the first pair's addresses."""
    store = torch.distributed.HashStore()
    for address in ("of the first process that was killed", "of its successor"):
        if address == "of its successor":
            store.set("request/1", "a process that died before it was answered")
        with ThreadPoolExecutor(2) as pool:
            parts = list(pool.map(lambda rank: distributed._private_store(store, rank, 2), range(2)))
        assert not parts[0].check(["address"]), "nothing is there yet"
        parts[1].set("address", address)
        assert parts[0].get("address").decode() == address


def test_a_process_that_never_comes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "default_pg_timeout", timedelta(seconds=0.1))
    with pytest.raises(distributed.PeerLostError, match="processes 1, 2 of 3 did not start"):
        distributed._private_store(torch.distributed.HashStore(), 0, 3)
