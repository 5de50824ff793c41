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


def gather_across(tensor: torch.Tensor) -> torch.Tensor:
    """The processes' tensors one behind the other along axis 0, in order of rank; the other axes must agree.

    Every process must call it, and all get the whole.
    """
    if not _joined():
        return tensor.detach()
    lengths = torch.zeros(get_world_size(), dtype=torch.int64, device=tensor.device)
    lengths[get_rank()] = len(tensor)
    counts = sum_across(lengths).tolist()
    padded = tensor.new_zeros([max(counts), *tensor.shape[1:]])
    padded[: len(tensor)] = tensor.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
