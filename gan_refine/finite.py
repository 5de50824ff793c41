"""Numbers that are not finite are refused where they come in, before anything is derived from them."""

from collections.abc import Iterable

import torch
from torch import nn

from gan_refine.errors import FileFormatError


def require_finite(tensors: Iterable[tuple[str, torch.Tensor]], owner: str) -> None:
    """Raises FileFormatError that names the first tensor with a NaN or an infinity; `owner` is the file and what of it."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            count = int((~tensor.isfinite()).sum())
            raise FileFormatError(
                f"{owner}: {name} has numbers that are not finite ({count} of {tensor.numel()}); "
                "the file is damaged, or its training had failed: take an earlier one"
            )


def require_finite_module(module: nn.Module, owner: str) -> nn.Module:
    """The module, once every parameter and buffer of it was found finite."""
    require_finite([*module.named_parameters(), *module.named_buffers()], owner)
    return module
