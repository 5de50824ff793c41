"""A limit on what a constructor may allocate, for constructor arguments from untrusted files."""

import math
from collections.abc import Callable, Sequence

import torch
from torch.overrides import TorchFunctionMode

from gan_refine.pickles.records import DamagedError

_SIZED = {torch.rand, torch.randn, torch.zeros, torch.ones, torch.empty, torch.full}
_SLACK = 1 << 16  # numbers, for temporaries such as filters and tables of noise levels
_COST_OF_A_CALL = 8  # so that endless loops over empty tensors end, too


class BoundedFactories(TorchFunctionMode):
    """Within this context, torch factories may make 2 `allowance` + 65,536 numbers in all; beyond that they raise DamagedError."""

    def __init__(self, allowance: int) -> None:
        super().__init__()
        self.left = 2 * allowance + _SLACK

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict[str, object] | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func in _SIZED:
            size = args[0] if args else kwargs.get("size", ())
            lengths = size if isinstance(size, list | tuple) else [arg for arg in args if isinstance(arg, int)]
            self.left -= math.prod(lengths) + _COST_OF_A_CALL
        elif func is torch.arange:
            self.left -= int(max([abs(arg) for arg in args if isinstance(arg, int | float)], default=0))
        if self.left < 0:
            raise DamagedError("its constructor's arguments ask for more numbers than the file holds")
        return func(*args, **kwargs)
