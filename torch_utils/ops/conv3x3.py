"""3x3 convolutions in half of the time and less on CPUs, by minimal filtering F(4x4, 3x3) (Lavin and Gray, arXiv:1509.09308)."""

import ctypes
import functools

import torch
import torch.nn.functional as F

from .. import custom_ops

MIN_TILES = 8  # of 4x4 pixels: for fewer, transforming the kernels costs more than it saves
TILE = 4
MOST_CHANNELS = 4096  # that the kernel has a row of zeros for

_POINTER, _INT64 = ctypes.c_void_p, ctypes.c_int64
_SHAPE = [_INT64] * 5  # samples, height, width, input channels, output channels
_CONVOLVE = (*[_POINTER] * 4, *_SHAPE, ctypes.c_int)
_WEIGHT = (*[_POINTER] * 3, *_SHAPE)


def is_fast(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernel takes x [N, C, H, W] and weight [K, C, 3, 3], and saves time.

    It takes float32 on a CPU with channels last, sides that are multiples of 4, and C and K that are multiples of 16 (of 32
    with AVX-512) up to 4,096.
    """
    return _saves_time(x) and _takes(x, weight, "auto")


def prepare(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """x and weight so that `is_fast`, or None: with channels last, and with zeros for a few missing input channels.

    A discriminator's last convolution has one channel more than a multiple. What is not fast is not copied.
    """
    missing = _missing_channels(x, weight, "auto") if _saves_time(x) else None
    if missing is None or 2 * missing > x.shape[1]:
        return None
    if missing:
        x, weight = (F.pad(tensor, [0, 0, 0, 0, 0, missing]) for tensor in (x, weight))
    return x.contiguous(memory_format=torch.channels_last), weight


def conv3x3(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, impl: str = "auto"
) -> torch.Tensor:
    """The convolution of x [N, C, H, W] with weight [K, C, 3, 3], padded by one, plus bias [K]: [N, K, H, W].

    The kernel has derivatives of every order. Raises ValueError where `impl` is 'cpu' and the kernel does not take the arguments.
    """
    if is_fast(x, weight) if impl == "auto" else _takes(x, weight, impl):
        return _Convolution.apply(x, weight.contiguous(), None if bias is None else bias.contiguous(), False)
    if impl == "cpu":
        raise ValueError(
            f"the kernel does not take images {list(x.shape)} with weights {list(weight.shape)}; use impl='ref'"
        )
    return F.conv2d(x, weight, bias, padding=1)


def _saves_time(x: torch.Tensor) -> bool:
    n, _, height, width = x.shape
    return n * height * width >= MIN_TILES * TILE**2 and not torch.compiler.is_compiling()


def _takes(x: torch.Tensor, weight: torch.Tensor, impl: str) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and _missing_channels(x, weight, impl) == 0


def _missing_channels(x: torch.Tensor, weight: torch.Tensor, impl: str) -> int | None:
    """How many input channels both lack up to a multiple; None where the kernel takes them in no layout, however many are added."""
    _, channels, height, width = x.shape
    fits = weight.shape[1:] == (channels, 3, 3) and height % TILE == 0 and width % TILE == 0
    fits = fits and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if not fits or not custom_ops.use_kernel(impl, x, 0):
        return None
    missing = -channels % _multiple()
    if weight.shape[0] % _multiple() or max(channels + missing, weight.shape[0]) > MOST_CHANNELS:
        return None
    return missing


@functools.cache
def _multiple() -> int:
    """What channel counts must be multiples of: two vectors of this processor."""
    found = ctypes.c_int()
    custom_ops.launch("conv3x3_multiple", (_POINTER,), (ctypes.addressof(found),), torch.empty(0))
    return found.value


class _Convolution(torch.autograd.Function):
    """x [N, C, H, W] with channels last, weight [K, C, 3, 3], and bias [K] or None to [N, K, H, W].

    `turned`: weight is [C, K, 3, 3], and this is the derivative of a convolution by its input.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, turned):
        ctx.save_for_backward(x, weight)
        ctx.turned = turned
        n, channels, height, width = x.shape
        out = weight.shape[1] if turned else weight.shape[0]
        y = x.new_empty([n, height, width, out]).permute(0, 3, 1, 2)
        pointers = [None if t is None else t.data_ptr() for t in (x, weight, bias, y)]
        custom_ops.launch("conv3x3", _CONVOLVE, (*pointers, n, height, width, channels, out, int(turned)), x)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dx = _Convolution.apply(dy, weight, None, not ctx.turned) if needs_x else None
        dweight = _WeightGradient.apply(*((dy, x) if ctx.turned else (x, dy))) if needs_weight else None
        return dx, dweight, dy.sum((0, 2, 3)) if needs_bias else None, None


class _WeightGradient(torch.autograd.Function):
    """x [N, C, H, W] and dy [N, K, H, W], both with channels last, to [K, C, 3, 3]."""

    @staticmethod
    def forward(ctx, x, dy):
        ctx.save_for_backward(x, dy)
        n, channels, height, width = x.shape
        dweight = x.new_empty([dy.shape[1], channels, 3, 3])
        pointers = [t.data_ptr() for t in (x, dy, dweight)]
        custom_ops.launch("conv3x3_weight", _WEIGHT, (*pointers, n, height, width, channels, dy.shape[1]), x)
        return dweight

    @staticmethod
    def backward(ctx, weight):
        x, dy = ctx.saved_tensors
        weight = weight.contiguous()
        dx = _Convolution.apply(dy, weight, None, True) if ctx.needs_input_grad[0] else None
        return dx, _Convolution.apply(x, weight, None, False) if ctx.needs_input_grad[1] else None
