"""Group normalisation with scale and shift for each sample, then SiLU: what U-Nets compute before each convolution."""

import ctypes

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .. import custom_ops

MIN_ELEMENTS = 4_096
KERNEL_DTYPES = (torch.float32, torch.float64)

_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64
_FORWARD = (ctypes.c_int, *[_POINTER] * 7, *[_INT64] * 4, ctypes.c_double, ctypes.c_int)
_BACKWARD = (ctypes.c_int, *[_POINTER] * 11, *[_INT64] * 4, ctypes.c_int)


def is_fast(x: torch.Tensor) -> bool:
    """Whether there is a kernel for x [N, C, H, W]: it takes float32 and float64 with channels last, on a CPU."""
    fits = x.device.type == "cpu" and x.dtype in KERNEL_DTYPES and x.is_contiguous(memory_format=torch.channels_last)
    fits = fits and not torch.compiler.is_compiling()
    return fits and custom_ops.use_kernel("auto", x, MIN_ELEMENTS)


def group_norm_silu(
    x: torch.Tensor,
    groups: int,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    add: torch.Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = True,
    impl: str = "auto",
) -> torch.Tensor:
    """SiLU(gamma * normalized(x + add) + beta) for x [N, C, H, W] and gamma, beta, add [N, C] or [C]; without SiLU if told so.

    The kernel has first derivatives.
    """
    if is_fast(x) if impl == "auto" else custom_ops.use_kernel(impl, x, 0):
        x = x.contiguous(memory_format=torch.channels_last)
        rows = [None if t is None else t.expand(x.shape[:2]) for t in (add, gamma, beta)]
        return _Kernel.apply(x, *rows, groups, eps, silu)
    normalized = F.group_norm(x if add is None else x + _columns(add), groups, None, None, eps)
    x = torch.addcmul(_columns(beta), normalized, _columns(gamma))
    return F.silu(x) if silu else x


def _columns(rows: torch.Tensor) -> torch.Tensor:
    return rows.reshape(-1, rows.shape[-1], 1, 1)


class _Kernel(torch.autograd.Function):
    """x [N, C, H, W] with channels last; add (or None), gamma, beta [N, C]."""

    @staticmethod
    def forward(ctx, x, add, gamma, beta, groups, eps, silu):
        add, gamma, beta = (None if t is None else t.contiguous() for t in (add, gamma, beta))
        y = torch.empty_like(x)
        mean, rstd = x.new_empty(x.shape[0], groups), x.new_empty(x.shape[0], groups)
        tensors = (x, add, gamma, beta, y, mean, rstd)
        custom_ops.launch("group_norm_silu", _FORWARD, (*_pointers(x, tensors), *_sizes(x, groups), eps, int(silu)), x)
        ctx.save_for_backward(x, add, gamma, beta, mean, rstd)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):
        x, add, gamma, beta, mean, rstd = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx, dgamma, dbeta = torch.empty_like(x), torch.empty_like(gamma), torch.empty_like(beta)
        dadd = None if add is None else torch.empty_like(add)
        tensors = (x, add, gamma, beta, mean, rstd, dy, dx, dadd, dgamma, dbeta)
        arguments = (*_pointers(x, tensors), *_sizes(x, ctx.groups), int(ctx.silu))
        custom_ops.launch("group_norm_silu_backward", _BACKWARD, arguments, x)
        return dx, dadd, dgamma, dbeta, None, None, None


def _pointers(x: torch.Tensor, tensors: tuple[torch.Tensor | None, ...]) -> list[int | None]:
    return [custom_ops.DTYPES[x.dtype], *(None if t is None else t.data_ptr() for t in tensors)]


def _sizes(x: torch.Tensor, groups: int) -> list[int]:
    n, c, h, w = x.shape
    return [n, h * w, c, groups]
