"""What the first process alone can know or do, told to all; errors too, so that all end with the same message."""

from collections.abc import Callable

from gan_refine.errors import UserError
from torch_utils import distributed


def from_first(work: Callable[[], bytes]) -> bytes:
    """What `work` gives on the first process, on all. Raises its UserError on all. Every process must call it."""
    result = b""
    if distributed.is_rank0():
        try:
            result = b"+" + work()
        except UserError as error:
            result = b"-" + str(error).encode()
    result = distributed.broadcast_bytes(result)
    if result.startswith(b"-"):
        raise UserError(result[1:].decode())
    return result[1:]
