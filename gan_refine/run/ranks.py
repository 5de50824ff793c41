"""What rank 0 alone can know or do, broadcast to all; errors too, so that all processes end with the same message."""

from collections.abc import Callable

from gan_refine.errors import UserError
from gan_refine.foundation import distributed

PATHS = "surrogateescape"  # how texts that may hold paths are encoded: names of files can be any bytes


def broadcast_from_rank0(work: Callable[[], bytes]) -> bytes:
    """What `work` returns on rank 0, on every process. Raises its UserError on all. Every process must call it."""
    result = b""
    if distributed.is_rank0():
        try:
            result = b"+" + work()
        except UserError as error:
            result = b"-" + str(error).encode(errors=PATHS)
    result = distributed.broadcast_bytes(result)
    if result.startswith(b"-"):
        raise UserError(result[1:].decode(errors=PATHS))
    return result[1:]
