"""How many processes there are, and which one this is. Nothing else in the project asks.

Started by `torchrun`, each process calls `init()` once; started plainly there is one process and `init()` does nothing.
"""

import os

import torch
import torch.distributed as dist


def init() -> None:
    """Joins the process group that torchrun's environment describes, with this process's CUDA device as current one.

    Does nothing for a single process, or if the group was joined before.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _joined():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl")
    else:
        dist.init_process_group("gloo")


def get_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _joined() else 0


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _joined() else 1


def is_rank0() -> bool:
    """True for the one process that reports and writes files."""
    return get_rank() == 0


def sum_across(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, without gradient; `tensor` itself is not changed. Every process must call it."""
    total = tensor.detach().clone()
    if _joined():
        dist.all_reduce(total)
    return total


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
