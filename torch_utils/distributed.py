"""The process group: rank, world size, sums, gathers and broadcasts. Nothing else in the project uses torch.distributed.

Started by `torchrun`, each process calls `init()` once; started plainly there is one process and `init()` does nothing.
Tensors may be on any device: they are copied to the backend's device, and results are copied back.
"""

import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

BUCKET = 2**25  # numbers of gradients in one all-reduce: 128 MiB of float32


class PeerLostError(RuntimeError):
    """Another process has ended, or does not answer."""


def init() -> None:
    """Joins the process group that torchrun's environment describes, with this process's CUDA device as current one.

    Does nothing for a single process, or if the group was joined before.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _joined():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "nccl"
    store, rank, world_size = next(dist.rendezvous("env://"))
    dist.init_process_group(backend, store=_private_store(store, rank, world_size), rank=rank, world_size=world_size)


def _private_store(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """A part of the store that only the processes of this start use.

    torchrun keeps one store over restarts, and in it the addresses of processes that have ended, which their successors would
    take for current ones. So each process sends a random name, and rank 0 answers all requests until every rank has confirmed.
    """
    deadline = time.monotonic() + dist.default_pg_timeout.total_seconds()
    own_name = uuid.uuid4().hex
    if rank != 0:
        store.set(f"request/{rank}", own_name)
        store.wait([f"answer/{own_name}"], dist.default_pg_timeout)
        prefix = store.get(f"answer/{own_name}").decode()
        store.set(f"{prefix}/confirmed/{rank}", "")
        return dist.PrefixStore(prefix, store)
    missing = set(range(1, world_size))
    while missing:
        if time.monotonic() > deadline:
            raise PeerLostError(f"processes {', '.join(map(str, sorted(missing)))} of {world_size} did not start")
        for other in [other for other in missing if store.check([f"request/{other}"])]:
            store.set(f"answer/{store.get(f'request/{other}').decode()}", own_name)
            if store.check([f"{own_name}/confirmed/{other}"]):
                missing.remove(other)
        time.sleep(0.01)
    return dist.PrefixStore(own_name, store)


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
        with _peer_errors():
            buffer = total.to(_device())
            dist.all_reduce(buffer)
            total = buffer.to(total.device)
    return total


def gather_across(tensor: torch.Tensor) -> torch.Tensor:
    """The processes' tensors concatenated along axis 0, in order of rank; the other axes must agree.

    Every process must call it, and all get the result.
    """
    if not _joined():
        return tensor.detach()
    lengths = torch.zeros(get_world_size(), dtype=torch.int64)
    lengths[get_rank()] = len(tensor)
    counts = sum_across(lengths).tolist()
    padded = torch.zeros([max(counts), *tensor.shape[1:]], dtype=tensor.dtype, device=_device())
    padded[: len(tensor)] = tensor.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    with _peer_errors():
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).to(tensor.device)


def any_across(flag: bool) -> bool:
    """Whether `flag` is true on any process. Every process must call it."""
    return bool(sum_across(torch.tensor(int(flag)))) if _joined() else flag


def broadcast_bytes(data: bytes | None) -> bytes:
    """The bytes of rank 0, on all processes; `data` of the others is ignored. Every process must call it."""
    if not _joined():
        assert data is not None, "rank 0 passes data"
        return data
    mine = bytearray(data or b"") if is_rank0() else bytearray()
    length = int(sum_across(torch.tensor(len(mine))))
    received = torch.zeros(length, dtype=torch.uint8)
    if mine:
        received.copy_(torch.frombuffer(mine, dtype=torch.uint8))
    with _peer_errors():
        for chunk in received.split(4 * BUCKET):
            buffer = chunk.to(_device())
            dist.broadcast(buffer, src=0)
            chunk.copy_(buffer)
    return received.numpy().tobytes()


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replaces each gradient by the sum over all processes; it stays None if no process has one. Every process must call it."""
    if not _joined():
        return
    for bucket in _buckets(parameters):
        has_gradient = torch.tensor(
            [p.grad is not None for p in bucket], dtype=bucket[0].dtype, device=bucket[0].device
        )
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
        total = sum_across(torch.cat([flat, has_gradient]))
        sums = total[: len(flat)].split([p.numel() for p in bucket])
        for parameter, gradient, anywhere in zip(bucket, sums, total[len(flat) :].tolist(), strict=True):
            if not anywhere:
                continue
            if parameter.grad is None:
                parameter.grad = torch.empty_like(parameter)
            parameter.grad.copy_(gradient.view(parameter.shape))


def leave() -> None:
    """Leaves the process group, if this process is in one, so that the others do not wait for it."""
    if _joined():
        dist.destroy_process_group()


def _buckets(parameters: Iterable[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    bucket: list[torch.nn.Parameter] = []
    for parameter in parameters:
        full = sum(p.numel() for p in bucket) + parameter.numel() > BUCKET
        if bucket and (full or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


@contextmanager
def _peer_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what all backends raise when a connection ends
        raise PeerLostError(
            f"process {get_rank()} lost the connection to the others: {str(error).splitlines()[0]}"
        ) from error


def _device() -> torch.device:
    """The device of the backend: NCCL takes CUDA tensors only, Gloo is used on the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()
