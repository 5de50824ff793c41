"""Small helpers whose names are fixed by the sources embedded in published network pickles."""

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def assert_shape(tensor: torch.Tensor, ref_shape: Sequence[int | None]) -> None:
    """Raises AssertionError unless `tensor` has the given shape; None allows any size in that dimension."""
    shape = list(tensor.shape)
    matches = len(shape) == len(ref_shape) and all(r is None or s == r for s, r in zip(shape, ref_shape, strict=True))
    if not matches:
        raise AssertionError(f"got a tensor of shape {shape}, expected {list(ref_shape)}")


def profiled_function(fn: Callable[P, R]) -> Callable[P, R]:
    """The same function, named in traces of torch.profiler."""

    @functools.wraps(fn)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autograd.profiler.record_function(fn.__name__):
            return fn(*args, **kwargs)

    return wrapper


@contextmanager
def suppress_tracer_warnings() -> Iterator[None]:
    """Silences torch.jit.TracerWarning inside the block and restores the filters after it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        yield
